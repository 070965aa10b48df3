"""Whitening of text embeddings: every kept direction gets variance one.

    Z = (M - mean) Q (L + eps)^-1/2          PCA: columns are principal directions
    Z = (M - mean) Q (L + eps)^-1/2 Q^T      ZCA: the whitened rows nearest to the raw ones

with Q, L the eigenvectors and eigenvalues of the covariance (divisor N - 1). Directions without
spread are dropped: with N <= H there always are some, and dividing by their size blows up noise.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.errors import ConfigError, DataError
from pipeline.spectral.decompose import column_signs
from pipeline.values import Spectrum

Kind = Literal["zca", "pca"]


def whiten(spectrum: Spectrum, kind: Kind, *, eps: float, floor: float) -> np.ndarray:
    """Return [N, H] float32 from a centred spectrum; PCA fills up with columns of zeros.

    eps: added to the eigenvalues, in their unit, so that variances are L / (L + eps).
    floor: directions with an eigenvalue below this share of the largest are dropped.
    """
    assert spectrum.view == "centred"
    s = spectrum.s.astype(np.float64)
    eigenvalues = np.square(s) / (len(spectrum.u) - 1)
    vectors = spectrum.v.astype(np.float64)
    return _whitened(spectrum.u * s, vectors, eigenvalues, kind, eps, floor)


def whiten_groups(
    values: np.ndarray,
    groups: int,
    kind: Kind,
    *,
    eps: float,
    floor: float,
    key: str = "methods.whitenrec.groups",
) -> np.ndarray:
    """Return [N, H] float32: each of `groups` runs of H / groups columns is whitened on its own.

    values: [N, H], raw embeddings. Relaxed whitening: the more groups, the more of the correlation
    between columns stays. One group is `whiten`. key: where the groups are set. Raises ConfigError
    when they do not divide H, DataError when a group has no spread. N H^2 / groups.
    """
    items, width = values.shape
    if width % groups:
        raise ConfigError(
            f"params.yaml: {key}: {groups} does not divide the {width} columns of the embeddings. "
            f"Allowed: divisors of {width}."
        )
    parts = []
    for columns in np.split(values.astype(np.float64), groups, axis=1):
        centred = columns - columns.mean(axis=0)
        eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / (items - 1))
        eigenvalues, vectors = np.clip(eigenvalues[::-1], 0, None), vectors[:, ::-1]
        if not eigenvalues[0] > 0:
            raise DataError(
                f"params.yaml: {key}: one of {groups} groups of columns is the same for all "
                f"items. Use fewer groups."
            )
        vectors = vectors * column_signs(vectors)
        parts.append(_whitened(centred @ vectors, vectors, eigenvalues, kind, eps, floor))
    return np.concatenate(parts, axis=1)


def _whitened(
    coordinates: np.ndarray,
    vectors: np.ndarray,
    eigenvalues: np.ndarray,
    kind: Kind,
    eps: float,
    floor: float,
) -> np.ndarray:
    """Whiten coordinates [N, R] in directions [H, R] with eigenvalues [R], descending."""
    kept = int((eigenvalues >= floor * eigenvalues[0]).sum())
    scaled = coordinates[:, :kept] / np.sqrt(eigenvalues[:kept] + eps)
    if kind == "zca":
        return np.asarray(scaled @ vectors[:, :kept].T, np.float32)
    return np.pad(scaled, ((0, 0), (0, len(vectors) - kept))).astype(np.float32)
