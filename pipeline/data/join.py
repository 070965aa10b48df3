"""How far the log and the item table meet, in words: the first thing wrong with own tables."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

SHOWN = 3
"""Ids shown as examples."""


@dataclass(frozen=True)
class Join:
    """What the item table knows of the items in the log, as it was read."""

    events: int
    with_row: int
    """Events whose item has a row in the table."""
    with_title: int
    """Events whose item has a title that is not empty."""
    unmatched: list[str]
    """Some ids of the log that have no row."""
    table: list[str]
    """Some ids of the table, to see how they are written."""

    def __str__(self) -> str:
        said = (
            f"{percent(self.with_row, self.events)} of events have an item in the table, "
            f"{percent(self.with_title, self.events)} a title"
        )
        if self.unmatched:
            said += (
                f"; not in the table: {', '.join(self.unmatched)}; "
                f"ids of the table: {', '.join(self.table) or 'none'}"
            )
        return said


def join(item: np.ndarray, texts: pl.DataFrame, known: np.ndarray, items: pl.DataFrame) -> Join:
    """Count what meets.

    item: [E] code; texts: cleaned text by code; known: [codes] bool, items with a row; items: the
    table.
    """
    count = np.bincount(item, minlength=len(known))
    titled = (texts["title"] != "").to_numpy()
    lacking = np.flatnonzero(~known & (count > 0))[:SHOWN]
    return Join(
        events=len(item),
        with_row=int(count[known].sum()),
        with_title=int(count[titled].sum()),
        unmatched=[_short(found) for found in texts["item"].gather(lacking)],
        table=[_short(found) for found in items["item"].head(SHOWN)],
    )


def percent(part: int, whole: int) -> str:
    """Return a share, rounded down to a tenth of a percent, so that 100% means all."""
    return f"{math.floor(1000 * part / whole) / 10:g}%" if whole else "0%"


def _short(found: str) -> str:
    return found if len(found) <= 40 else found[:37] + "..."
