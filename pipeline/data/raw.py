"""What every source format is read into: three plain tables."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

INTERACTIONS = {
    "user": pl.String,
    "item": pl.String,
    "time": pl.Int64,
    "position": pl.Int64,
    "rating": pl.Float64,
}
"""Rows in file order. time: Unix seconds, null where unknown; position: place in the user's
history where the source gives one; rating: null where there is none."""

ITEM_TEXT = {
    "item": pl.String,
    "title": pl.String,
    "brand": pl.String,
    "categories": pl.String,
    "description": pl.String,
}
"""Null where the source says nothing."""

REJECTED = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "excerpt": pl.String}
"""Rows set aside: 1-based line (or row) number, why, and the first 200 characters."""


@dataclass(frozen=True)
class RawTables:
    """Everything a source holds, as text and numbers, nothing dropped silently."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    rejected: pl.DataFrame
    rows: int
    """Rows seen in all files, rejected ones included."""
