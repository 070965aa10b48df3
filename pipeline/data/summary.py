"""What the data card says: counts after every step, ties, splits, popularity."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data.filters import Events, occurring
from pipeline.data.join import Join
from pipeline.errors import DataError
from pipeline.values import NOT_HELD, Catalog, Sequences

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)

_LOWER = "Lower {block}.preprocess.core (add: --core), or add data."
_CURES = {
    "min_rating": "Lower {block}.preprocess.min_rating or set it to null, or add data.",
    "core": _LOWER,
    "titles": (
        "{join}. Name the columns that hold the ids and titles in {block}.source.columns (add: "
        "--item, --item-id, --title), mend the item table, or set {block}.preprocess.require_title "
        "to false."
    ),
    "core_again": "{join}. Fill in the missing titles. " + _LOWER,
    "short_users": (
        "No user has a second event. Name the column of the users in {block}.source.columns (add: "
        "--user), or add data."
    ),
}
"""Step -> what to do when it takes everything."""


class Steps:
    """Counts after every step; a step that leaves nothing stops the stage."""

    def __init__(self, where: str, join: Join) -> None:
        self.where, self.join = where, join
        self.list: list[dict[str, Any]] = []

    def add(self, step: str, events: Events, **more: Any) -> None:
        """Count what is left after a step. Raises DataError when that is nothing."""
        counts = {
            "users": _distinct(events.user),
            "items": _distinct(events.item),
            "interactions": len(events),
        }
        if not len(events):
            path = ", ".join(f"{s['step']} {s['interactions']}" for s in self.list)
            cure = _CURES[step].format(block=f"datasets.{self.where}", join=self.join)
            raise DataError(
                f"{self.where}: no interaction is left after the step `{step}` (before: {path}). "
                f"{cure}"
            )
        self.list.append({"step": step, **counts, **more})


def describe(catalog: Catalog, sequences: Sequences) -> dict[str, Any]:
    """Return split sizes, density, lengths, popularity and title statistics."""
    trained = sequences.train_counts()[1:]
    lengths = np.diff(sequences.offsets)
    titles = [title for title in catalog.table["title"].to_pylist() if title]
    descending = np.sort(trained)[::-1]
    top = max(1, len(trained) // 10)
    events = int(trained.sum())
    return {
        "users": sequences.num_users,
        "items": len(catalog),
        "interactions": len(sequences.items),
        "density": len(sequences.items) / (sequences.num_users * len(catalog)),
        "split": _split(sequences, trained),
        "history_length": _quantiles(lengths),
        "popularity": {
            "train_events_per_item": _quantiles(trained),
            "items_without_train_event": int((trained == 0).sum()),
            "top_tenth_share": float(descending[:top].sum() / events) if events else 0.0,
        },
        "titles": {
            "items_without": len(catalog) - len(titles),
            "duplicates": len(titles) - len(set(titles)),
            "longest_characters": max(map(len, titles), default=0),
        },
    }


def _split(sequences: Sequences, trained: np.ndarray) -> dict[str, Any]:
    held: dict[str, float] = {}
    for part, at in (("valid", sequences.valid_at), ("test", sequences.test_at)):
        users = np.flatnonzero(at != NOT_HELD)
        targets = sequences.items[sequences.offsets[users] + at[users]]
        unseen = trained[targets - 1] == 0
        held[f"{part}_targets"] = len(users)
        held[f"{part}_targets_unseen_share"] = float(unseen.mean()) if len(users) else 0.0
    no_target = (sequences.valid_at == NOT_HELD) & (sequences.test_at == NOT_HELD)
    return {
        **held,
        "train_events": int(trained.sum()),
        "train_users": int((sequences.train_end > 0).sum()),
        "users_without_target": int(no_target.sum()),
    }


def _quantiles(values: np.ndarray) -> dict[str, int]:
    found = np.quantile(values, QUANTILES, method="inverted_cdf")
    return {f"{share:g}": int(value) for share, value in zip(QUANTILES, found, strict=True)}


def _distinct(codes: np.ndarray) -> int:
    return int(occurring(codes, int(codes.max()) + 1).sum()) if len(codes) else 0
