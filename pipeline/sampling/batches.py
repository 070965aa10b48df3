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

from pipeline.config import Positions
from pipeline.sampling.negatives import Pool
from pipeline.values import Sequences

Split = Literal["valid", "test"]
SPLITS: tuple[Split, Split] = ("valid", "test")


def moved(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for what the device has to do."""
    if torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class History:
    """All that a backbone may see: targets cannot leak in."""

    items: Tensor
    """[B, L] long, right-aligned, 0 = padding or masked."""
    masked: Tensor | None = None
    """[B, L] bool, the positions to be told from the others; None where the next item is."""
    times: Tensor | None = None
    """[B, L] long, seconds since 1970, 0 = padding; None unless a backbone reads times."""

    @property
    def real(self) -> Tensor:
        """[B, L] bool, the positions that hold an item or a mask."""
        return self.items > 0 if self.masked is None else (self.items > 0) | self.masked

    def to(self, device: str) -> History:
        """Return the history on a device."""
        masked = None if self.masked is None else moved(self.masked, device)
        times = None if self.times is None else moved(self.times, device)
        return History(moved(self.items, device), masked, times)


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
            moved(self.targets, device),
            moved(self.negatives, device),
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
    times: np.ndarray | None
    """[E] seconds, as in Sequences; None when nothing reads them."""

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets [B, L] int64 of some windows."""
        index = self._index(rows)
        held = index >= 0
        place = self.start[rows, None] + np.maximum(index, 0)
        inputs = np.where(held, self.events[place], 0)
        counted = held & (index + 1 >= self.first[rows, None])
        targets = np.where(counted, self.events[place + 1], 0)
        return inputs, targets

    def take_times(self, rows: np.ndarray) -> Tensor | None:
        """Return when the inputs happened, [B, L] long, 0 = padding."""
        if self.times is None:
            return None
        return _times_at(self.times, self.start[rows, None], self._index(rows))

    def sequences(self, rows: np.ndarray) -> np.ndarray:
        """Return the events [B, L+1] int64 of some windows: inputs and last target, padded."""
        index = self.last[rows, None] - self.length + np.arange(self.length + 1)
        place = self.start[rows, None] + np.maximum(index, 0)
        return np.where(index >= 0, self.events[place], 0)

    def _index(self, rows: np.ndarray) -> np.ndarray:
        """Return the inputs' places within their users, [B, L]; negative = padding."""
        found: np.ndarray = self.last[rows, None] - self.length + np.arange(self.length)
        return found


Examples = Callable[[Windows, np.ndarray], tuple[History, Tensor]]
"""Some windows (by row) to histories and targets [B, L]."""


def next_items(cut: Windows, rows: np.ndarray) -> tuple[History, Tensor]:
    """Return histories [B, L] of some windows and the item that follows each position."""
    inputs, targets = cut.take(rows)
    history = History(torch.from_numpy(inputs), times=cut.take_times(rows))
    return history, torch.from_numpy(targets)


def windows(data: Sequences, length: int, positions: Positions, *, times: bool = False) -> Windows:
    """Cut the training events into histories, with times when something reads them.

    all: every training event but a user's first is a target exactly once, its input being up to
    `length` events before it. A history longer than `length` needs several windows; a later one
    overlaps the one before it so that its own targets keep their context.
    last: only the last training event of each user is a target.
    prefixes: the targets of `all`, each at the end of a history of its own.
    """
    users = np.flatnonzero(data.train_end >= 2)
    targets = data.train_end[users] - 1
    if positions == "last":
        return Windows(
            data.items, data.offsets[users], targets, targets, length, _times_of(data, times)
        )
    if positions == "prefixes":
        owner = np.repeat(users, targets)
        last = np.arange(len(owner)) - np.repeat(np.cumsum(targets) - targets, targets) + 1
        return Windows(data.items, data.offsets[owner], last, last, length, _times_of(data, times))
    pieces = -(-targets // length)
    owner = np.repeat(users, pieces)
    ordinal = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    last = np.minimum((ordinal + 1) * length, data.train_end[owner] - 1)
    return Windows(
        data.items, data.offsets[owner], last, ordinal * length + 1, length, _times_of(data, times)
    )


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
    times: np.ndarray | None = None
    """[E] seconds, as in Sequences; None when nothing reads them."""

    def __len__(self) -> int:
        return len(self.users)

    def history(self, rows: slice, length: int) -> History:
        """Return the last `length` events before each target, with times when they are read."""
        items = self.histories(rows, length)
        if self.times is None:
            return History(items)
        times = _times_at(self.times, self.start[rows, None], self._index(rows, length))
        return History(items, times=times)

    def histories(self, rows: slice, length: int) -> Tensor:
        """Return [B, L] long: the last `length` events before each target."""
        index = self._index(rows, length)
        place = self.start[rows, None] + np.maximum(index, 0)
        return torch.from_numpy(np.where(index >= 0, self.events[place], 0))

    def _index(self, rows: slice, length: int) -> np.ndarray:
        """Return the inputs' places within their users, [B, L]; negative = padding."""
        found: np.ndarray = self.at[rows, None] - length + np.arange(length)
        return found

    def seen(self, rows: slice) -> Tensor:
        """Return [B, S] long: each user's distinct items before the target, 0 = padding."""
        lists = [
            np.unique(self.events[s : s + a])
            for s, a in zip(self.start[rows], self.at[rows], strict=True)
        ]
        width = max((len(x) for x in lists), default=0)
        return torch.from_numpy(np.stack([np.pad(x, (0, width - len(x))) for x in lists]))


def held_out(data: Sequences, split: Split, *, times: bool = False) -> HeldOut:
    """Return the targets of a split; the input of each is everything before it.

    times: whether something reads when the inputs happened.
    """
    at = data.valid_at if split == "valid" else data.test_at
    users = np.flatnonzero(at >= 0)
    start = data.offsets[users]
    targets = data.items[start + at[users]]
    return HeldOut(users, targets, start, at[users], data.items, _times_of(data, times))


def _times_of(data: Sequences, read: bool) -> np.ndarray | None:
    assert data.times is not None or not read, "data without times are refused before training"
    return data.times if read else None


def _times_at(times: np.ndarray, start: np.ndarray, index: np.ndarray) -> Tensor:
    """Return [B, L] long, 0 where the index within the user is negative."""
    return torch.from_numpy(np.where(index >= 0, times[start + np.maximum(index, 0)], 0))
