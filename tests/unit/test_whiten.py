"""Whitening against scikit-learn, and what it promises: unit covariance, symmetry, no noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA  # comes with sentence-transformers

from pipeline.errors import DataError
from pipeline.spectral.whiten import Kind, whiten, whiten_groups
from pipeline.values import Spectrum

KINDS: tuple[Kind, Kind] = ("zca", "pca")


def embeddings(items: int, width: int, seed: int = 0) -> np.ndarray:
    """Correlated columns of unequal spread around a mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * 0.8 ** np.arange(width)
    return rng.normal(size=(items, width)) @ mixing.T + rng.normal(size=width)


def centred(values: np.ndarray) -> Spectrum:
    mean = values.mean(0)
    u, s, vt = np.linalg.svd(values - mean, full_matrices=False)
    kept = s > 1e-4 * s[0]
    signs = np.sign([v[np.abs(v).argmax()] for v in vt])
    u, vt = u * signs, vt * signs[:, None]
    parts = (mean, u[:, kept], s[kept], vt[kept].T)
    return Spectrum("centred", *(p.astype(np.float32) for p in parts), "")


def test_pca_whitening_equals_scikit_learn() -> None:
    values = embeddings(40, 6)
    ours = whiten(centred(values), "pca", eps=0.0, floor=1e-6)
    theirs = PCA(whiten=True, svd_solver="full").fit_transform(values)
    assert np.allclose(np.abs(ours), np.abs(theirs), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(2, 9), st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_the_covariance_is_the_identity(kind: Kind, width: int, seed: int) -> None:
    spectrum = centred(embeddings(60, width, seed))
    found = whiten(spectrum, kind, eps=0.0, floor=1e-9)
    # Directions below the spectrum's cut-off are dropped; the identity is that of the others.
    kept = len(spectrum.s)
    spread = np.linalg.eigvalsh(np.cov(found.T.astype(np.float64)))
    assert np.allclose(spread, [0.0] * (width - kept) + [1.0] * kept, atol=1e-4)
    assert np.allclose(found.mean(0), 0, atol=1e-4)


def test_zca_is_the_symmetric_root_of_the_inverse_covariance() -> None:
    values = embeddings(50, 5)
    eigenvalues, vectors = np.linalg.eigh(np.cov(values.T))
    root = vectors @ np.diag(eigenvalues**-0.5) @ vectors.T
    ours = whiten(centred(values), "zca", eps=0.0, floor=1e-9)
    assert np.allclose(ours, (values - values.mean(0)) @ root, atol=1e-4)
    matrix = np.linalg.lstsq(values - values.mean(0), ours, rcond=None)[0]
    assert np.allclose(matrix, matrix.T, atol=1e-4)


def test_eps_is_added_to_the_eigenvalues() -> None:
    values = embeddings(50, 4)
    eigenvalues = np.linalg.eigvalsh(np.cov(values.T))[::-1]
    found = whiten(centred(values), "pca", eps=0.3, floor=1e-9)
    assert np.allclose(found.var(0, ddof=1), eigenvalues / (eigenvalues + 0.3), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_items_than_dimensions_keep_the_directions_that_exist(kind: Kind) -> None:
    values = embeddings(7, 12)
    for found in (
        whiten(centred(values), kind, eps=0.0, floor=1e-6),
        whiten_groups(values, 1, kind, eps=0.0, floor=1e-6),
    ):
        assert found.shape == (7, 12)
        eigenvalues = np.linalg.eigvalsh(np.cov(found.T.astype(np.float64)))
        assert np.allclose(eigenvalues, [0] * 6 + [1] * 6, atol=1e-5)


def test_directions_below_the_floor_are_dropped() -> None:
    values = embeddings(50, 6)
    eigenvalues = np.linalg.eigvalsh(np.cov(values.T))[::-1]
    floor = float((eigenvalues[2] + eigenvalues[3]) / 2 / eigenvalues[0])
    found = whiten(centred(values), "pca", eps=0.0, floor=floor)
    assert np.allclose(found.var(0, ddof=1), [1, 1, 1, 0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_group_is_whitening_of_all_columns(kind: Kind) -> None:
    values = embeddings(50, 6)
    one = whiten_groups(values, 1, kind, eps=1e-3, floor=1e-6)
    full = whiten(centred(values), kind, eps=1e-3, floor=1e-6)
    assert np.allclose(one, full, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_are_white_inside_and_not_across(kind: Kind) -> None:
    found = whiten_groups(embeddings(80, 6), 3, kind, eps=0.0, floor=1e-9).astype(np.float64)
    covariance = np.cov(found.T)
    blocks = np.kron(np.eye(3), np.ones((2, 2))) > 0
    assert np.allclose(covariance[blocks], np.eye(6)[blocks], atol=1e-5)
    assert np.abs(covariance[~blocks]).max() > 0.1


def test_a_group_without_spread_is_refused() -> None:
    values = embeddings(20, 4)
    values[:, 2:] = 1.0
    with pytest.raises(DataError, match="the same for all items"):
        whiten_groups(values, 2, "zca", eps=0.0, floor=1e-6)
