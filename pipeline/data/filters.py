"""Filters and order of interactions, on integer codes.

Raw ids become int32 codes once; everything after that is arithmetic on codes, so 20 million events
fit in little memory. What the filters leave is renumbered by ascending raw id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.randomness import derive

NO_TIME = int(np.iinfo(np.int64).min)
"""Time of an event whose time is unknown, in memory."""


@dataclass(frozen=True)
class Events:
    """Interactions as arrays of equal length E, in file order unless said otherwise."""

    user: np.ndarray
    """[E] int32 code."""
    item: np.ndarray
    """[E] int32 code."""
    time: np.ndarray
    """[E] int64 seconds, or NO_TIME."""
    position: np.ndarray | None
    """[E] int64, or None where the source gives none."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> Events:
        """Keep the rows of a boolean mask, or reorder by an index array."""
        position = None if self.position is None else self.position[rows]
        return Events(self.user[rows], self.item[rows], self.time[rows], position)


def encode(ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Return [E] int32 codes by first appearance, and the id of every code.

    ids: String without nulls. Rows are matched by a 64-bit hash, much faster than by text, and
    then compared with the id they were matched to.
    """
    codes, distinct = _match(ids, ids.hash().rechunk().to_arrow())
    if not (distinct.gather(codes) == ids).all():  # two ids with one hash: match by text
        codes, distinct = _match(ids, ids.rechunk().to_arrow().cast(pa.large_string()))
    return codes, distinct


def _match(ids: pl.Series, keys: pa.Array) -> tuple[np.ndarray, pl.Series]:
    """Return [E] int32 codes of equal keys by first appearance, and an id for every code."""
    found = keys.dictionary_encode()
    codes = found.indices.to_numpy()
    row = np.empty(len(found.dictionary), np.int32)
    row[codes] = np.arange(len(codes), dtype=np.int32)
    return codes, ids.gather(row)


def ranked(codes: np.ndarray, ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Renumber the codes that occur by ascending id (byte order); return them and their ids.

    Done after the filters, because most of a log's ids may be gone by then.
    """
    present = np.flatnonzero(occurring(codes, len(ids)))
    left = ids.gather(present)
    order = left.arg_sort().to_numpy()
    rank = np.empty(len(ids), np.int32)
    rank[present[order]] = np.arange(len(order), dtype=np.int32)
    return rank[codes], left.gather(order)


def occurring(codes: np.ndarray, size: int) -> np.ndarray:
    """Return [size] bool: the codes that occur."""
    found = np.zeros(size, bool)
    found[codes] = True
    return found


def k_core(user: np.ndarray, item: np.ndarray, core: int) -> tuple[np.ndarray, int]:
    """Return ([E] bool, rounds): the largest set whose users and items all have `core` events.

    A round drops every short user and then every item that is short by now; the last look, which
    finds none, is not counted. The result does not depend on the order of the drops.
    """
    kept = np.ones(len(user), bool)
    if core == 1 or not len(user):
        return kept, 0
    rows = np.arange(len(user), dtype=np.int32)
    codes = [user.astype(np.intp), item.astype(np.intp)]  # numpy looks up int32 three times slower
    left = [np.bincount(column) for column in codes]
    rounds = 0
    while True:
        dropped = False
        for side in (0, 1):
            short = (left[side] > 0) & (left[side] < core)
            if not short.any():
                continue
            dropped = True
            gone = short[codes[side]]
            for other in (0, 1):
                left[other] -= np.bincount(codes[other][gone], minlength=len(left[other]))
            kept[rows[gone]] = False
            stay = ~gone
            rows, codes = rows[stay], [column[stay] for column in codes]
        if not dropped:
            return kept, rounds
        rounds += 1


def chronological(events: Events, shuffle_seed: int | None) -> np.ndarray:
    """Return [E] int: the permutation that sorts by user, time, position, file order.

    A user with any event of unknown time is ordered by position alone. With `shuffle_seed`, events
    of one user at one time are ordered by a hash of seed and row instead of position.
    """
    time = events.time
    unknown = time == NO_TIME
    if unknown.any():
        partly = np.bincount(events.user[unknown], minlength=int(events.user.max()) + 1) > 0
        time = np.where(partly[events.user], 0, time)
        unknown = partly[events.user]
    keys = [events.user, time]
    if shuffle_seed is not None:
        drawn = _hashes(derive(shuffle_seed, "ties"), len(events))
        keys.append(np.where(unknown, 0, drawn))
        if events.position is not None:
            keys.append(np.where(unknown, events.position, 0))
    elif events.position is not None:
        keys.append(events.position)
    return _order(keys)


def repeats(events: Events, rule: Literal["keep", "first", "last"]) -> np.ndarray:
    """Return [E] bool: what stays of a user's repeats of one item. Needs sorted events."""
    if rule == "keep":
        return np.ones(len(events), bool)
    pair = events.user.astype(np.int64) << 32 | events.item
    seen = pair if rule == "first" else pair[::-1]
    first = np.zeros(len(events), bool)
    first[np.unique(seen, return_index=True)[1]] = True
    return first if rule == "first" else first[::-1]


def last_events(user: np.ndarray, limit: int) -> np.ndarray:
    """Return [E] bool: the last `limit` events of every user. Needs events sorted by user."""
    first = np.cumsum(np.bincount(user)) - limit
    kept: np.ndarray = np.arange(len(user), dtype=np.int32) >= first.astype(np.int32)[user]
    return kept


def collision_rate(user: np.ndarray, time: np.ndarray) -> float:
    """Return the share of users with two events or more whose last two share a known time.

    Needs sorted events. 0.0 when there is no such user.
    """
    last = np.flatnonzero(np.append(user[1:] != user[:-1], True)) if len(user) else np.empty(0, int)
    last = last[last > 0]
    last = last[user[last - 1] == user[last]]
    if not len(last):
        return 0.0
    return float(np.mean((time[last] == time[last - 1]) & (time[last] != NO_TIME)))


def _order(keys: list[np.ndarray]) -> np.ndarray:
    """Stable argsort by several integer keys, most significant first; one key where 63 bits do."""
    if not len(keys[0]):
        return np.empty(0, np.int64)
    packed = np.zeros(len(keys[0]), np.int64)
    bits = 0
    for key in keys:
        low, high = int(key.min()), int(key.max())
        width = (high - low).bit_length()
        bits += width
        if bits > 63:
            order: np.ndarray = np.lexsort(keys[::-1])
            return order
        packed <<= width
        packed |= (key - low).astype(np.int64, copy=False)
    sorted_rows: np.ndarray = np.argsort(packed, kind="stable")
    return sorted_rows


def _hashes(seed: int, size: int) -> np.ndarray:
    """Return [E] int64, non-negative: splitmix64 of seed and row; equal on every machine."""
    with np.errstate(over="ignore"):
        state = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(1)).astype(np.int64)
