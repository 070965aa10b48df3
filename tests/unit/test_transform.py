"""Controls: what each keeps and what it destroys."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Anisotropic, Permute, SameSpectrum, Transform
from pipeline.encoders.transform import apply, mean_cosine
from pipeline.errors import DataError

ANISOTROPIC = Anisotropic(kind="anisotropic", mean_cosine=0.5)
EVERY = [ANISOTROPIC, SameSpectrum(kind="same_spectrum", seed=0), Permute(kind="permute", seed=0)]


def rows(n: int = 40, h: int = 6) -> np.ndarray:
    draw = np.random.default_rng(0)
    found: np.ndarray = (draw.standard_normal((n, h)) * np.geomspace(1, 0.1, h) + 0.3).astype(
        np.float32
    )
    return found


def test_permuted_rows_are_the_same_rows_elsewhere() -> None:
    x = rows()
    found = apply(x, Permute(kind="permute", seed=0))
    assert sorted(map(tuple, found)) == sorted(map(tuple, x))
    assert (found == x).all(axis=1).sum() < 5
    assert np.array_equal(found, apply(x, Permute(kind="permute", seed=0)))
    assert not np.array_equal(found, apply(x, Permute(kind="permute", seed=1)))


@pytest.mark.parametrize("shape", [(40, 6), (5, 9), (9, 9)])
@pytest.mark.parametrize("centre", [False, True])
def test_same_spectrum_keeps_all_but_the_left_vectors(shape: tuple[int, int], centre: bool) -> None:
    x = rows(*shape)
    found = apply(x, SameSpectrum(kind="same_spectrum", seed=0))
    assert np.allclose(x.mean(axis=0), found.mean(axis=0), atol=1e-6)
    before, after = ((m - m.mean(axis=0) if centre else m).astype(np.float64) for m in (x, found))
    # All that does not depend on which item a row belongs to follows from X^T X.
    assert np.allclose(before.T @ before, after.T @ after, atol=1e-5 * np.square(before).sum())
    if shape[0] > shape[1]:
        u, v = (np.linalg.svd(m - m.mean(axis=0), full_matrices=False)[0] for m in (x, found))
        # Random directions in 40 dimensions meet by 1 / sqrt(40) = .16 on average.
        assert np.abs(np.sum(u * v, axis=0)).mean() < 0.5


@pytest.mark.parametrize("similar", [0.2, 0.8])
def test_same_spectrum_of_unit_rows_is_nearly_the_old_one(similar: float) -> None:
    x = apply(rows(2000, 48) - 0.3, Anisotropic(kind="anisotropic", mean_cosine=similar))
    found = apply(x, SameSpectrum(kind="same_spectrum", seed=0))
    assert mean_cosine(found) == pytest.approx(mean_cosine(x), abs=0.02)
    s, t = (
        np.linalg.svd(m / np.linalg.norm(m, axis=1, keepdims=True), compute_uv=False)
        for m in (x, found)
    )
    # Losing the mean direction would change the first value by more than a tenth.
    assert np.abs(t - s).max() < 0.05 * s[0]


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_anisotropic_rows_have_the_mean_cosine_asked_for(target: float) -> None:
    x = rows()
    found = apply(x, Anisotropic(kind="anisotropic", mean_cosine=target))
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(len(x), dtype=bool)]
    assert pairs.mean() == pytest.approx(target, abs=1e-5)
    assert mean_cosine(found.astype(np.float64)) == pytest.approx(target, abs=1e-5)


def test_a_cosine_that_is_already_higher_is_refused() -> None:
    with pytest.raises(DataError, match="Write a larger mean_cosine"):
        apply(rows() + 5, Anisotropic(kind="anisotropic", mean_cosine=0.5))


@pytest.mark.parametrize("transform", EVERY, ids=lambda transform: transform.kind)
@pytest.mark.parametrize(
    ("x", "found"),
    [([[3, 4]], "1 of 1"), ([[0, 0]] * 4, "0 of 4"), ([[0, 0], [3, 4]], "1 of 2")],
)
def test_a_control_of_fewer_than_two_vectors_is_refused(
    x: list[list[float]], found: str, transform: Transform
) -> None:
    with pytest.raises(DataError, match=f"{found} items have a vector that is not zero"):
        apply(np.array(x, np.float32), transform)


@pytest.mark.parametrize("x", [[[0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
def test_the_mean_cosine_of_fewer_than_two_vectors_is_refused(x: list[list[float]]) -> None:
    with pytest.raises(DataError, match=f"of {len(x)} items have a vector that is not zero"):
        mean_cosine(np.array(x))


@pytest.mark.parametrize(
    "x",
    [[[1, 0], [-1, 0]], [[2, 0], [0, 3], [-1, 0], [0, -1], [0, 0]], [[1, 3], [-2, -6], [0, 0]]],
)
def test_vectors_that_cancel_out_have_no_common_direction(x: list[list[float]]) -> None:
    with pytest.raises(DataError, match=r"cancel out: the mean .* has length .* Leave out this"):
        apply(np.array(x, np.float32), ANISOTROPIC)
