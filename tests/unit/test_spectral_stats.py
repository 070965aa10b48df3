"""Numbers of a spectrum, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.spectral.decompose import Directions, reciprocal_norms
from pipeline.spectral.plot import energy_svg
from pipeline.spectral.stats import cumulative_energy, effective_rank, participation_ratio


def test_cumulative_energy_of_three_values() -> None:
    np.testing.assert_allclose(cumulative_energy(np.array([2.0, 1, 1])), [4 / 6, 5 / 6, 1])


def test_dropped_components_keep_their_share() -> None:
    np.testing.assert_allclose(cumulative_energy(np.array([2.0, 1]), total=6), [4 / 6, 5 / 6])


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    # shares 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert effective_rank(np.array([2.0, 1, 1])) == pytest.approx(2**1.5)


def test_participation_ratio_uses_squared_values() -> None:
    # eigenvalues 4, 1, 1: 36 / 18
    assert participation_ratio(np.array([2.0, 1, 1])) == pytest.approx(2)


@pytest.mark.parametrize("measure", [effective_rank, participation_ratio])
def test_equal_values_give_their_number_and_one_gives_one(measure: object) -> None:
    assert callable(measure)
    assert measure(np.full(7, 3.0)) == pytest.approx(7)
    assert measure(np.array([3.0, 0, 0])) == pytest.approx(1)


@pytest.mark.parametrize("measure", [effective_rank, participation_ratio])
def test_zeros_have_no_rank(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(DataError, match="all singular values are zero"):
        measure(np.zeros(3))


def test_mean_cosine_equals_the_mean_over_all_pairs() -> None:
    x = np.random.default_rng(0).standard_normal((6, 4)) + 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    directions = Directions(np.zeros(4))
    for rows in (x[:2], np.vstack([x[2:], np.zeros((1, 4))])):  # a zero row has no direction
        directions.add(rows, reciprocal_norms(np.square(rows).sum(axis=1)))
    assert directions.mean_cosine() == pytest.approx(cosines[~np.eye(6, dtype=bool)].mean())


def test_one_direction_has_no_mean_cosine() -> None:
    directions = Directions(np.zeros(2))
    directions.add(np.array([[2.0, 0]]), np.array([0.5]))
    assert directions.mean_cosine() is None


def test_plot_bytes_are_repeatable_and_load_nothing() -> None:
    views = {"unit": {"cumulative_energy": [0.5, 0.9, 1.0], "effective_rank": 2.5}}
    first = energy_svg(views, "toys & <b>")
    assert first == energy_svg(views, "toys & <b>")
    assert b"&lt;b&gt;" in first
    assert b"<image" not in first and b"<dc:date>" not in first
