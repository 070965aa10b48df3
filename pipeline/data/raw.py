"""What every source format is read into: three plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pipeline.errors import DataError

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


def gather(
    interactions: pl.DataFrame, items: pl.DataFrame, rejected: Sequence[pl.DataFrame], rows: int
) -> RawTables:
    """Put columns in their written order and type; a column a source lacks becomes null."""

    def shaped(frame: pl.DataFrame, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
        lacking = [pl.lit(None).alias(name) for name in schema if name not in frame.columns]
        return frame.with_columns(lacking).select(
            pl.col(name).cast(kind) for name, kind in schema.items()
        )

    apart = pl.concat([pl.DataFrame(schema=REJECTED), *rejected])
    return RawTables(shaped(interactions, INTERACTIONS), shaped(items, ITEM_TEXT), apart, rows)


def check_rejected(tables: RawTables, dataset: str, limit: float, kept_at: str) -> None:
    """Raise DataError when more than `limit` of the rows were set aside, or none is left.

    kept_at: where the rejected rows were written, for the message.
    """
    count = len(tables.rejected)
    share = count / tables.rows if tables.rows else 0.0
    if share <= limit and len(tables.interactions):
        return
    reasons = (
        tables.rejected.group_by("file", "reason")
        .agg(pl.len().alias("count"), pl.col("line").min().alias("first"))
        .sort(["count", "file", "reason"], descending=[True, False, False])
        .head(3)
    )
    listed = "; ".join(
        f"{row['count']} of {row['file']}: {row['reason']} (first: line {row['first']})"
        for row in reasons.iter_rows(named=True)
    )
    if share > limit:
        raise DataError(
            f"{dataset}: {count} of {tables.rows} rows were set aside ({share:.1%}, allowed "
            f"{limit:.1%}): {listed}. They are listed in {kept_at}. Mend the files, or raise "
            f"datasets.{dataset}.source.max_rejected_share in params.yaml (add: "
            f"--max-rejected-share)."
        )
    raise DataError(
        f"{dataset}: no interaction was read from {tables.rows} rows"
        f"{': ' + listed if listed else ''}. At least one user and one item are needed."
    )
