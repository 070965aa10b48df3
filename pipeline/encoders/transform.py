"""Controls: embeddings changed so that one property is lost or added, everything else kept.

A gain that survives permuted titles is not semantic; one that survives random vectors with the
same spectrum comes from the spectrum alone; a common direction makes isotropic vectors look like
those of language models.
"""

from __future__ import annotations

import numpy as np

from pipeline.config import Anisotropic, Permute, SameSpectrum, Transform
from pipeline.errors import DataError
from pipeline.randomness import numpy_generator


def apply(rows: np.ndarray, transform: Transform) -> np.ndarray:
    """Return the changed embeddings, [N, H] float32, of [N, H] float32; in memory.

    Raises DataError for fewer than two rows that are not zero, and when the rows cannot be brought
    to the mean cosine asked for.
    """
    _refuse_fewer_than_two(rows)
    match transform:
        case Permute():
            draw = numpy_generator(transform.seed, "permute")
            return np.ascontiguousarray(rows[draw.permutation(len(rows))])
        case SameSpectrum():
            return _same_spectrum(rows, transform.seed)
        case Anisotropic():
            return _anisotropic(rows, transform.mean_cosine)


def _same_spectrum(rows: np.ndarray, seed: int) -> np.ndarray:
    """Replace the left singular vectors of the centred rows by random ones: m + Q S V^T.

    The columns of Q are orthonormal and have mean zero, so that mean, covariance and X^T X stay:
    centred or not, the spectrum is the old one. That of unit rows is nearly so, since norms move.
    """
    exact = rows.astype(np.float64)
    mean = exact.mean(axis=0)
    u, s, vt = np.linalg.svd(exact - mean, full_matrices=False)
    draw = numpy_generator(seed, "same_spectrum").standard_normal(u.shape)
    # With no more items than columns the last direction is spent on the mean; its value is zero.
    q, r = np.linalg.qr(draw - draw.mean(axis=0))
    q *= np.sign(np.diag(r))  # makes the factor unique, so its distribution is uniform
    return np.asarray(mean + (q * s) @ vt, dtype=np.float32)


def _anisotropic(rows: np.ndarray, target: float) -> np.ndarray:
    """Add a multiple of the mean direction to the unit rows until their mean cosine is `target`."""
    from scipy.optimize import brentq

    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0)
    mean = unit.mean(axis=0)
    length = float(np.linalg.norm(mean))
    # Below what float32 rows resolve there is no direction, only rounding.
    if length <= np.finfo(np.float32).eps:
        raise DataError(
            "transform anisotropic: the vectors have no common direction to add to, since they "
            f"cancel out: the mean of the {len(rows)} unit vectors has length {length:.1g}. Leave "
            "out this encoder, or take other vectors: their mean must not be zero."
        )
    common = mean / length

    def moved(amount: float) -> np.ndarray:
        return np.asarray(unit + amount * common)

    def gap(amount: float) -> float:
        return mean_cosine(moved(amount)) - target

    if gap(0.0) > 0:
        raise DataError(
            f"transform anisotropic: the mean cosine is {gap(0.0) + target:.3f} already, above "
            f"mean_cosine {target}. Write a larger mean_cosine."
        )
    highest = 1.0
    while gap(highest) < 0:
        highest *= 2
    return moved(float(brentq(gap, 0.0, highest, xtol=1e-9))).astype(np.float32)


def mean_cosine(rows: np.ndarray) -> float:
    """Return the mean cosine of all pairs of different non-zero rows of [N, H].

    Raises DataError for fewer than two such rows.
    """
    _refuse_fewer_than_two(rows)
    norms = np.linalg.norm(rows, axis=1)
    unit = rows[norms > 0] / norms[norms > 0, None]
    total, count = unit.sum(axis=0), len(unit)
    return float((total @ total - count) / (count * (count - 1)))


def _refuse_fewer_than_two(rows: np.ndarray) -> None:
    found = np.count_nonzero(rows.any(axis=1))
    if found < 2:
        raise DataError(
            f"transform: {found} of {len(rows)} items have a vector that is not zero. Controls are "
            "about how vectors differ, which takes two. Leave out this encoder for this data set, "
            "or mend the text or the vectors of its items."
        )
