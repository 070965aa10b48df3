"""What the logs of `spectran train` tell of finished seeds: the only place where times are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cells import Cell

Ended = dict[int, dict[str, Any]]
"""Seed -> its last event `done`, or `reuse` when it was not trained again."""


@dataclass(frozen=True)
class Times:
    """Means over the seeds of a cell, by the clock of the machine that trained it."""

    epoch_s: float | None
    """Seconds per epoch, ranking the validation users included; None without training."""
    rank_s: float
    """Seconds to rank the whole catalogue for 1,000 held-out users, item table included."""


def ended(logs: Path, cell: Cell) -> Ended:
    """Return what the log of a cell says of finished seeds; nothing when it is absent."""
    path = logs / ("-".join(cell.fields.values()) + ".jsonl")
    found: Ended = {}
    if not path.is_file():
        return found
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(text)
        except ValueError:
            continue  # the last line of a killed run may be cut short
        if event.get("event") in ("done", "reuse") and "seconds" in event:
            found[int(event["seed"])] = event
    return found


def minutes(logs: Path, cell: Cell, seeds: Iterable[int]) -> float | None:
    """Return the minutes that training the seeds took; None unless the log tells of every one."""
    found = _of(logs, cell, seeds, ("seconds",))
    return round(sum(event["seconds"] for event in found) / 60, 2) if found else None


def times(logs: Path, cell: Cell, seeds: Iterable[int]) -> Times | None:
    """Return the mean times of the seeds; None unless the log tells of every one."""
    found = _of(logs, cell, seeds, ("seconds", "epochs", "rank_seconds", "rank_users"))
    if not found:
        return None
    epochs = sum(event["epochs"] for event in found)
    users = sum(event["rank_users"] for event in found)
    return Times(
        sum(event["seconds"] for event in found) / epochs if epochs else None,
        1000 * sum(event["rank_seconds"] for event in found) / users,
    )


def _of(
    logs: Path, cell: Cell, seeds: Iterable[int], names: Iterable[str]
) -> list[dict[str, Any]] | None:
    """Return one event per seed; None when a seed, or one of the names, is not told."""
    told = ended(logs, cell)
    found = [told.get(seed, {}) for seed in seeds]
    whole = all(name in event for event in found for name in names)
    return found if whole else None
