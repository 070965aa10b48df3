"""Windows over the stored sequences: training batches, and the inputs of held-out targets.

Windows are views: `items[o + e - L : o + e]` of the flat event array, right-aligned, padded with 0
on the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.data.negatives import Pool
from pipeline.values import Sequences

Split = Literal["valid", "test"]
SPLITS: tuple[Split, Split] = ("valid", "test")


@dataclass(frozen=True)
class History:
    """All that a backbone may see: targets cannot leak in."""

    items: Tensor
    """[B, L] long, right-aligned, 0 = padding or masked."""
    masked: Tensor | None = None
    """[B, L] bool, the positions to be told from the others; None where the next item is."""

    def to(self, device: str) -> History:
        """Return the history on a device."""
        masked = None if self.masked is None else self.masked.to(device)
        return History(self.items.to(device), masked)


@dataclass(frozen=True)
class Batch:
    """One training step."""

    history: History
    targets: Tensor
    """[B, L] long; the item that each position's state is to find, 0 = no loss here."""
    negatives: Tensor
    """[B, M] long, drawn from a pool, shared by the positions of a history; M = 0 for losses
    without."""

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.history.to(device),
            self.targets.to(device),
            self.negatives.to(device),
        )


@dataclass(frozen=True)
class Windows:
    """Which stretch of which user every training history covers."""

    events: np.ndarray
    """[E] items, as in Sequences."""
    start: np.ndarray
    """[W] first event of the user in `events`."""
    last: np.ndarray
    """[W] index (within the user) of the window's last target."""
    first: np.ndarray
    """[W] index (within the user) of the first target this window is responsible for."""
    length: int
    """L."""

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets [B, L] int64 of some windows."""
        index = self.last[rows, None] - self.length + np.arange(self.length)
        base = self.start[rows, None]
        held = index >= 0
        place = base + np.maximum(index, 0)
        inputs = np.where(held, self.events[place], 0)
        counted = held & (index + 1 >= self.first[rows, None])
        targets = np.where(counted, self.events[place + 1], 0)
        return inputs, targets

    def sequences(self, rows: np.ndarray) -> np.ndarray:
        """Return the events [B, L+1] int64 of some windows: inputs and last target, padded."""
        index = self.last[rows, None] - self.length + np.arange(self.length + 1)
        place = self.start[rows, None] + np.maximum(index, 0)
        return np.where(index >= 0, self.events[place], 0)


Examples = Callable[[Windows, np.ndarray], tuple[History, Tensor]]
"""Some windows (by row) to histories and targets [B, L]."""


def next_items(cut: Windows, rows: np.ndarray) -> tuple[History, Tensor]:
    """Return histories [B, L] of some windows and the item that follows each position."""
    inputs, targets = cut.take(rows)
    return History(torch.from_numpy(inputs)), torch.from_numpy(targets)


def windows(data: Sequences, length: int, positions: Literal["all", "last"]) -> Windows:
    """Cut the training events into histories.

    all: every training event but a user's first is a target exactly once, its input being up to
    `length` events before it. A history longer than `length` needs several windows; a later one
    overlaps the one before it so that its own targets keep their context.
    last: only the last training event of each user is a target.
    """
    users = np.flatnonzero(data.train_end >= 2)
    targets = data.train_end[users] - 1
    if positions == "last":
        return Windows(data.items, data.offsets[users], targets, targets, length)
    pieces = -(-targets // length)
    owner = np.repeat(users, pieces)
    ordinal = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    last = np.minimum((ordinal + 1) * length, data.train_end[owner] - 1)
    return Windows(data.items, data.offsets[owner], last, ordinal * length + 1, length)


def epoch(
    cut: Windows,
    examples: Examples,
    pool: Pool,
    negatives: int,
    batch_size: int,
    order: torch.Generator,
    draw: torch.Generator,
) -> Iterator[Batch]:
    """Yield one pass over all windows in random order, with fresh negatives for every step."""
    shuffled = torch.randperm(len(cut), generator=order).numpy()
    for start in range(0, len(shuffled), batch_size):
        history, targets = examples(cut, shuffled[start : start + batch_size])
        yield Batch(history, targets, pool.draw(len(targets), negatives, draw))


@dataclass(frozen=True)
class HeldOut:
    """The targets of one split with everything a ranking needs."""

    users: np.ndarray
    """[n] int64."""
    targets: np.ndarray
    """[n] int64."""
    start: np.ndarray
    """[n] first event of the user."""
    at: np.ndarray
    """[n] index of the target within the user."""
    events: np.ndarray
    """[E], as in Sequences."""

    def __len__(self) -> int:
        return len(self.users)

    def histories(self, rows: slice, length: int) -> Tensor:
        """Return [B, L] long: the last `length` events before each target."""
        index = self.at[rows, None] - length + np.arange(length)
        place = self.start[rows, None] + np.maximum(index, 0)
        return torch.from_numpy(np.where(index >= 0, self.events[place], 0))

    def seen(self, rows: slice) -> Tensor:
        """Return [B, S] long: each user's distinct items before the target, 0 = padding."""
        lists = [
            np.unique(self.events[s : s + a])
            for s, a in zip(self.start[rows], self.at[rows], strict=True)
        ]
        width = max((len(x) for x in lists), default=0)
        return torch.from_numpy(np.stack([np.pad(x, (0, width - len(x))) for x in lists]))


def held_out(data: Sequences, split: Split) -> HeldOut:
    """Return the targets of a split; the input of each is everything before it."""
    at = data.valid_at if split == "valid" else data.test_at
    users = np.flatnonzero(at >= 0)
    start = data.offsets[users]
    return HeldOut(users, data.items[start + at[users]], start, at[users], data.items)
