"""What a spectrum says about text embeddings, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import DataError

if TYPE_CHECKING:
    from pipeline.spectral.decompose import Basis


def cumulative_energy(singular: np.ndarray, total: float | None = None) -> np.ndarray:
    """Share of the squared singular values up to each.

    singular: [R], descending. total: sum of all squares where some were dropped. Result [R] in
    (0, 1].
    """
    squares = np.square(np.asarray(singular, np.float64))
    return np.cumsum(squares) / (squares.sum() if total is None else total)


def effective_rank(singular: np.ndarray) -> float:
    """Exponential of the entropy of the singular values divided by their sum.

    singular: [R], non-negative, any order. Result in [1, R].
    Source: Roy & Vetterli, EUSIPCO 2007, definition 1.
    Raises DataError when all values are zero.
    """
    values = np.asarray(singular, np.float64)
    if not values.sum() > 0:
        raise DataError("effective rank: all singular values are zero.")
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def participation_ratio(singular: np.ndarray) -> float:
    """Squared sum over sum of squares of the eigenvalues (squared singular values).

    singular: [R], non-negative. Result in [1, R]; R when all are equal.
    Raises DataError when all values are zero.
    """
    squares = np.square(np.asarray(singular, np.float64))
    if not squares.sum() > 0:
        raise DataError("participation ratio: all singular values are zero.")
    return float(squares.sum() ** 2 / np.square(squares).sum())


def describe(basis: Basis) -> dict[str, Any]:
    """Return the statistics of one view as JSON; call it after the second pass.

    Numbers carry nine digits: more would be the rounding of the machine.
    """
    energy = cumulative_energy(basis.s, basis.energy)
    cosine = basis.directions.mean_cosine()
    return {
        "items": basis.num_items,
        "width": len(basis.mean),
        "components": len(basis.s),
        "zero_rows": basis.zero_rows,
        "singular_values": [nine(x) for x in basis.s],
        "cumulative_energy": [nine(x) for x in energy],
        "effective_rank": nine(effective_rank(basis.s)),
        "participation_ratio": nine(participation_ratio(basis.s)),
        "mean_cosine": None if cosine is None else round(cosine, 9),
        "mean_norm": nine(float(np.linalg.norm(basis.mean))),
    }


def nine(value: float) -> float:
    """Return a number of nine significant digits: more would be the rounding of the machine."""
    return float(f"{value:.9g}")
