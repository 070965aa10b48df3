"""What own tables become, in words: shown before their block is written."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from pipeline.config import Preprocess
from pipeline.data.prepare import Prepared
from pipeline.data.raw import RawTables

ROWS = 5


def preview(raw: RawTables, made: Prepared, config: Preprocess) -> list[str]:
    """Return lines: the first events as read, how the tables meet, the steps, what they keep."""
    return [
        f"{len(raw.interactions):,} events, {len(raw.items):,} items, read as:",
        *_rows(raw),
        *_rejected(raw),
        str(made.join),
        f"steps: {', '.join(f'{k} {_plain(v)}' for k, v in config.model_dump().items())}",
        kept(made.stats, config),
    ]


def kept(stats: dict[str, Any], config: Preprocess) -> str:
    """Return what all steps together keep, and what each of them takes."""
    steps = stats["steps"]
    read, left = steps[0]["interactions"], steps[-1]["interactions"]
    taken = []
    for before, after in pairwise(steps):
        lost = before["interactions"] - after["interactions"]
        if lost:
            value = getattr(config, after["step"], None)
            name = after["step"] if value is None else f"{after['step']} {_plain(value)}"
            taken.append(f"{name} takes {lost:,}")
    split = stats["split"]
    return (
        f"keeps {left:,} of {read:,} events{': ' if taken else ''}{', '.join(taken)}; "
        f"{stats['users']:,} users, {stats['items']:,} items, "
        f"{split['valid_targets']:,} validation and {split['test_targets']:,} test targets"
    )


def _rows(raw: RawTables) -> list[str]:
    titles = raw.items.select("item", "title")
    first = raw.interactions.head(ROWS).join(titles, on="item", how="left", maintain_order="left")
    lines = []
    for row in first.iter_rows(named=True):
        shown = {key: value for key, value in row.items() if value is not None}
        if "time" in shown:
            moment = datetime.fromtimestamp(shown["time"], UTC)
            shown["time"] = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
        lines.append("  " + "  ".join(f"{k}={str(v)[:60]}" for k, v in shown.items()))
    return lines


def _rejected(raw: RawTables) -> list[str]:
    if not len(raw.rejected):
        return []
    first = raw.rejected.row(0, named=True)
    where = f"{first['file']} line {first['line']}"
    return [
        f"{len(raw.rejected):,} of {raw.rows:,} rows are set aside, e.g. {where}: {first['reason']}"
    ]


def _plain(value: Any) -> str:
    """Return a value as params.yaml writes it, a block in brackets."""
    if isinstance(value, dict):
        return f"({', '.join(f'{k} {_plain(v)}' for k, v in value.items())})"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
