"""Shares of the covariance spectrum against numpy, and on tables whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.spectral.collapse import shares, summarise


def table(items: int = 40, width: int = 14) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(items, width)) * 0.7 ** np.arange(width) + 5).astype(np.float32)


def test_shares_are_singular_values_of_the_covariance_over_their_sum() -> None:
    rows = table()
    values = np.linalg.svd(np.cov(rows.astype(np.float64).T), compute_uv=False)
    p = values / values.sum()
    assert np.allclose(shares(rows), p, atol=1e-12)
    found = summarise(rows)
    assert np.allclose(found.cumulative, np.cumsum(p), atol=1e-8)
    assert found.top_10 == pytest.approx(p[:10].sum())
    assert found.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert found.participation_ratio == pytest.approx(1 / (p**2).sum())


def test_four_corners_of_a_rectangle() -> None:
    """Variances 9 and 1 along two axes, none along the third: shares .9, .1, 0."""
    rows = np.array([[3, 1, 7], [3, -1, 7], [-3, 1, 7], [-3, -1, 7]], np.float32)
    found = summarise(rows)
    assert found.cumulative == [0.9, 1.0, 1.0] and found.top_10 == 1
    assert found.effective_rank == pytest.approx(0.9**-0.9 * 0.1**-0.1)
    assert found.participation_ratio == pytest.approx(1 / 0.82)


def test_even_spread_is_no_collapse() -> None:
    rows = np.concatenate([np.eye(20), -np.eye(20)])
    found = summarise(rows)
    assert found.top_10 == pytest.approx(0.5)
    assert found.effective_rank == pytest.approx(20)
    assert found.participation_ratio == pytest.approx(20)


def test_rows_on_a_line_are_full_collapse() -> None:
    rows = np.outer(np.arange(6.0), [1.0, 2.0, 3.0]) + 4
    assert summarise(rows).effective_rank == pytest.approx(1, abs=1e-6)


def test_shift_scale_and_rotation_change_nothing() -> None:
    rows = table().astype(np.float64)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(14, 14)))[0]
    assert np.allclose(shares((rows * 30 - 200) @ turn), shares(rows), atol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_equal_rows_have_no_spectrum(value: float) -> None:
    found = summarise(np.full((30, 4), value, np.float32))
    assert found.cumulative == [] and found.top_10 is None
    assert found.effective_rank is None and found.participation_ratio is None


def test_fewer_items_than_dimensions() -> None:
    found = shares(table(items=4))
    assert found is not None and found.shape == (14,)
    assert (found[:3] > 1e-3).all() and np.allclose(found[3:], 0, atol=1e-9)
