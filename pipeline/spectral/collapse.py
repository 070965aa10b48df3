"""Spectral collapse: how much of the spread of item vectors lies in how few directions.

Source: SpecTran, Figure 1: singular values of the covariance of the item vectors, divided by their
sum. Effective rank and participation ratio are additions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.spectral.decompose import SAME
from pipeline.spectral.stats import effective_rank, nine, participation_ratio

TOP = 10
"""Directions whose joint share is stated, as in the paper."""


@dataclass(frozen=True)
class Collapse:
    """The shares of one table; numbers carry nine digits, more would be the machine's rounding."""

    cumulative: list[float]
    """[D], ascending to 1; empty where all rows are the same."""
    top_10: float | None
    """Share of the ten widest directions; 1 when there are no more."""
    effective_rank: float | None
    """exp(-sum p log p) of the shares p."""
    participation_ratio: float | None
    """1 / sum p^2."""


def shares(rows: np.ndarray) -> np.ndarray | None:
    """Return [D] float64, descending, sum one: eigenvalues of the covariance over their sum.

    rows: [N, D] item vectors without padding. They are centred first: the mean direction alone
    would hold most of the raw spread of any table made from text. None where all rows are the same.
    N D^2 + D^3.
    """
    x = rows.astype(np.float64)
    energy = float(np.square(x).sum())
    x -= x.mean(axis=0)
    values = np.clip(np.linalg.eigvalsh(x.T @ x)[::-1], 0, None)
    total = float(values.sum())
    return None if total <= SAME**2 * energy else values / total


def summarise(rows: np.ndarray) -> Collapse:
    """Return the statistics of a table [N, D] without padding."""
    found = shares(rows)
    if found is None:
        return Collapse([], None, None, None)
    cumulative = np.cumsum(found)
    return Collapse(
        cumulative=[nine(value) for value in cumulative],
        top_10=nine(cumulative[min(TOP, len(cumulative)) - 1]),
        effective_rank=nine(effective_rank(found)),
        participation_ratio=nine(participation_ratio(np.sqrt(found))),
    )
