"""The texts of a window of the catalogue, in batches of similar length.

A window is a bounded stretch of items, so memory does not grow with the catalogue; within it texts
are sorted by length, so that little is padded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.encoders import Encoder, Prepared
from pipeline.encoders.rows import ABSENT, RowCache, digest
from pipeline.errors import ConfigError, DataError

Label = Callable[[int], str]
"""Names an item by its row in the catalogue, 0 the first, for messages."""
Advance = Callable[[int, int], None]
"""Told of every stored batch: its texts and, where they are counted, its tokens."""

FLUSH_SECONDS = 30.0
"""Longest stretch of work that a power cut (not a kill) can cost."""
CUT = np.uint32(1 << 31)
"""Bit of a stored token count that says the text was cut."""


@dataclass(frozen=True)
class Batch:
    """Texts that are encoded together."""

    items: np.ndarray
    """[n] int64, for each text the row of the first item that has it, 0 the first of all."""
    hashes: np.ndarray
    """[n, 4] uint64."""
    tokens: np.ndarray
    """[n] uint32, token counts as the cache keeps them: 0 where not counted, CUT where cut."""
    inputs: Sequence[Any]
    """What the engine takes."""


def plan(tokens: np.ndarray, batch_tokens: int, batch_size: int) -> Iterator[np.ndarray]:
    """Yield the indices of batches, longest texts first.

    Longest first: a batch too large for the memory fails at once, not after hours, and the time
    left is over- rather than underestimated. Every text of a batch is padded to its first one.
    """
    order = np.argsort(-tokens, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(tokens[order[start]]))
        count = min(batch_size, max(1, batch_tokens // longest))
        yield order[start : start + count]
        start += count


class Window:
    """The texts of consecutive items, the distinct ones, and where each has its cached row."""

    def __init__(
        self, cache: RowCache, texts: Sequence[str], start: int = 0, *, fresh: bool = False
    ) -> None:
        """Look up every text; with `fresh`, take none from the cache. start: the first item."""
        self.cache = cache
        kinds: dict[str, int] = {}
        kind = (kinds.setdefault(text, len(kinds)) for text in texts)
        self.kind = np.fromiter(kind, np.int64, len(texts))
        """[n] int64, which distinct text each item has."""
        self.distinct = list(kinds)
        self.hashes = digest(self.distinct)
        self.places = np.full(len(kinds), ABSENT, np.int64) if fresh else cache.find(self.hashes)
        self._start = start

    @property
    def missing(self) -> np.ndarray:
        """[m] int64, distinct texts without a row."""
        return np.flatnonzero(self.places == ABSENT)

    def batches(self, engine: Encoder, kinds: np.ndarray) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield (distinct texts, batch) for some of the distinct texts."""
        if not len(kinds):
            return
        first = np.full(len(self.distinct), -1, np.int64)
        first[self.kind[::-1]] = np.arange(len(self.kind))[::-1]  # the last assignment stays
        ready = engine.prepare([self.distinct[i] for i in kinds])
        stored = _stored(ready)
        for part in plan(ready.tokens, engine.batch_tokens, engine.batch_size):
            chosen = kinds[part]
            yield (
                chosen,
                Batch(
                    self._start + first[chosen],
                    self.hashes[chosen],
                    stored[part],
                    [ready.inputs[i] for i in part],
                ),
            )

    def rows(self, chunk_bytes: int = 8 << 20) -> Iterator[np.ndarray]:
        """Yield [n, H] float32 in the order of the items, in chunks of bounded size."""
        step = max(1, chunk_bytes // (self.cache.width * 4))
        for start in range(0, len(self.kind), step):
            yield self.cache.read(self.places[self.kind[start : start + step]])


class Store:
    """Puts encoded batches into the cache, after looking at them."""

    def __init__(self, cache: RowCache, label: Label, advance: Advance) -> None:
        self._cache = cache
        self._label = label
        self._advance = advance
        self._flushed = time.monotonic()
        self.count = 0
        """Texts stored so far."""

    def add(self, batch: Batch, rows: np.ndarray) -> np.ndarray:
        """Append a batch; return the places of its rows.

        Raises DataError on NaN or infinity, ConfigError on a width other than promised; batches
        before stay in the cache.
        """
        self._check(batch, rows)
        places = self._cache.append(batch.hashes, rows, batch.tokens)
        self.count += len(rows)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
        self._advance(len(rows), int((batch.tokens & ~CUT).sum()))
        return places

    def flush(self) -> None:
        """Make what was added survive a power cut."""
        if self.count:
            self._cache.flush()
        self._flushed = time.monotonic()

    def _check(self, batch: Batch, rows: np.ndarray) -> None:
        width = self._cache.width
        if rows.shape != (len(batch.items), width):
            raise ConfigError(
                f"the encoder gave vectors of shape {list(rows.shape)} for {len(batch.items)} "
                f"texts, expected width {width}. Set `width` to the model's."
            )
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            first = int(batch.items[bad].min())
            raise DataError(
                f"the encoder gave NaN or infinity for {len(bad)} of {len(rows)} texts of a "
                f"batch; first: {self._label(first)}. The batch was not kept. "
                f"Try dtype: float32, or look at the text."
            )


def _stored(ready: Prepared) -> np.ndarray:
    """Return [n] uint32, the token counts as the cache keeps them."""
    counts = ready.tokens if ready.counted else np.zeros(len(ready.tokens))
    return counts.astype(np.uint32) | np.where(ready.cut, CUT, np.uint32(0))
