"""Rows that were set aside: kept in the cache with their reason; too many stop the stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from pipeline.data.raw import RawTables, check_rejected
from pipeline.files import write_atomic


@dataclass(frozen=True)
class Settled:
    """What became of the rejected rows."""

    counts: dict[str, int]
    """Reason -> rows, most frequent first."""
    path: Path | None
    """Where they lie; None when there are none."""


def without_duplicates(raw: RawTables) -> RawTables:
    """Keep the first row of every item; set the others aside, for sources that did not do so."""
    again = ~raw.items["item"].is_first_distinct()
    if not again.any():
        return raw
    aside = raw.items.filter(again).select(
        file=pl.lit("items"),
        line=pl.lit(None, pl.Int64),
        reason=pl.lit("duplicate item"),
        excerpt=pl.concat_str("item", pl.col("title").fill_null(""), separator=" | ").str.slice(
            0, 200
        ),
    )
    kept = raw.items.filter(~again)
    return replace(raw, items=kept, rejected=pl.concat([raw.rejected, aside]))


def settle(raw: RawTables, limit: float, dataset: str, cache: Path) -> Settled:
    """Write the rejected rows to <cache>/rejected/<dataset>.jsonl (raw text must not be pushed).

    Raises DataError when their share of all rows is above `limit`, or no interaction is left.
    """
    path = cache / "rejected" / f"{dataset}.jsonl"
    if len(raw.rejected):
        lines = [json.dumps(r, ensure_ascii=False) for r in raw.rejected.iter_rows(named=True)]
        write_atomic(path, ("\n".join(lines) + "\n").encode("utf-8", "replace"))
    else:
        path.unlink(missing_ok=True)
    check_rejected(raw, dataset, limit, str(path))
    tally = raw.rejected["reason"].value_counts()
    tally = tally.sort(["count", "reason"], descending=[True, False])
    return Settled(dict(tally.iter_rows()), path if len(raw.rejected) else None)
