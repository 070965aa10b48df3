"""Which epoch early stopping chose, from the curves, and what stood there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def best_row(rows: Sequence[Mapping[str, Any]], monitor: str) -> Mapping[str, Any]:
    """Return the row of CURVES with the best `monitor` value, the first such one.

    Of the last phase, whose best state training keeps, whatever an earlier one reached.
    """
    found = [row for row in rows if row["name"] == monitor]
    return max(
        (row for row in found if row["phase"] == found[-1]["phase"]),
        key=lambda row: (row["value"], -row["epoch"]),
    )


def at_best(rows: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, float]:
    """Return every curve's value at the epoch of the best `monitor` value."""
    best = best_row(rows, monitor)
    same = (r for r in rows if (r["epoch"], r["phase"]) == (best["epoch"], best["phase"]))
    return {row["name"]: row["value"] for row in same}


def best_epoch(seeds: Sequence[Sequence[Mapping[str, Any]]], monitor: str) -> float:
    """Return the mean over seeds of the best epoch, counted from 1."""
    return fmean(best_row(rows, monitor)["epoch"] for rows in seeds)


def hardly_trained(epochs: Mapping[str, float]) -> list[str]:
    """Say which cells were best after their first epoch in every seed; epochs: label -> mean."""
    names = [label for label, epoch in epochs.items() if epoch == 1]
    if not names:
        return []
    who, whose = ("It ranks", "its") if len(names) == 1 else ("They rank", "their")
    return [
        f"Best after the first epoch in every seed: {', '.join(names)}. {who} by {whose} start and "
        f"one epoch of training; a longer `train.patience` tells whether more would help."
    ]
