"""Rows that were set aside: kept in the cache with their reason; too many stop the stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.raw import RawTables
from pipeline.errors import DataError
from pipeline.files import write_atomic


@dataclass(frozen=True)
class Settled:
    """What became of the rejected rows."""

    counts: dict[str, int]
    """Reason -> rows, most frequent first."""
    path: Path | None
    """Where they lie; None when there are none."""


def settle(raw: RawTables, limit: float, dataset: str, cache: Path) -> Settled:
    """Write the rejected rows to <cache>/rejected/<dataset>.jsonl (raw text must not be pushed).

    Raises DataError when their share of all rows is above `limit`.
    """
    path = cache / "rejected" / f"{dataset}.jsonl"
    if not len(raw.rejected):
        path.unlink(missing_ok=True)
        return Settled({}, None)
    lines = (json.dumps(row, ensure_ascii=False) for row in raw.rejected.iter_rows(named=True))
    write_atomic(path, ("\n".join(lines) + "\n").encode("utf-8", "replace"))
    tally = (
        raw.rejected["reason"].value_counts().sort(["count", "reason"], descending=[True, False])
    )
    counts = dict(tally.iter_rows())
    share = len(raw.rejected) / max(raw.rows, 1)
    if share > limit:
        main = ", ".join(f"{reason}: {count}" for reason, count in list(counts.items())[:4])
        raise DataError(
            f"{dataset}: {len(raw.rejected)} of {raw.rows} rows ({share:.1%}) cannot be read, "
            f"allowed are {limit:.1%} (source.max_rejected_share). {main}. See {path}, mend the "
            f"rows or the columns, or raise the share."
        )
    return Settled(counts, path)
