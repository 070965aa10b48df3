"""Encode each distinct text of a window once, in batches of similar length, through the row cache.

A window is a bounded stretch of the catalogue, so memory does not grow with it; within a window
texts are sorted by length, so that little is padded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.encoders import Encoder, Prepared
from pipeline.encoders.rows import ABSENT, RowCache, digest
from pipeline.errors import ConfigError, DataError

Label = Callable[[int], str]
"""Names the text at an index, for messages."""
Advance = Callable[[int, int], None]
"""Told of every batch: its texts and their tokens."""
Work = Callable[[Iterable[Sequence[Any]]], Iterator[np.ndarray]]
"""Encodes batches of prepared inputs, in their order."""

FLUSH_SECONDS = 30.0
"""Longest stretch of work that a power cut (not a kill) can cost."""
CUT = np.uint32(1 << 31)
"""Bit of a stored token count that says the text was cut."""


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


class Lookup:
    """The texts of a window, the distinct ones, and where each has its row in the cache."""

    def __init__(self, cache: RowCache, texts: Sequence[str], *, fresh: bool) -> None:
        """Look up every text; with `fresh`, take none from the cache."""
        self.cache = cache
        self.texts = texts
        kinds: dict[str, int] = {}
        kind = (kinds.setdefault(text, len(kinds)) for text in texts)
        self.kind = np.fromiter(kind, np.int64, len(texts))
        self.distinct = list(kinds)
        self.hashes = digest(self.distinct)
        self.places = np.full(len(kinds), ABSENT, np.int64) if fresh else cache.find(self.hashes)

    @property
    def missing(self) -> np.ndarray:
        """[m] int64, distinct texts without a row."""
        return np.flatnonzero(self.places == ABSENT)

    def encode(self, engine: Encoder, work: Work, label: Label, advance: Advance) -> int:
        """Encode what is missing and append it batch by batch; return the number of texts.

        work: the engine's `encode` over batches, here or on other machines. label: names the
        first item of a text. Raises DataError on NaN or infinity, ConfigError on a width other
        than promised; batches before stay in the cache.
        """
        missing = self.missing
        if not len(missing):
            return 0
        ready = engine.prepare([self.distinct[i] for i in missing])
        batches = list(plan(ready.tokens, engine.batch_tokens, engine.batch_size))
        stored = _stored(ready)
        flushed = time.monotonic()
        results = work([ready.inputs[i] for i in batch] for batch in batches)
        for batch, rows in zip(batches, results, strict=True):
            kinds = missing[batch]
            self._check(engine, rows, kinds, label)
            self.places[kinds] = self.cache.append(self.hashes[kinds], rows, stored[batch])
            if time.monotonic() - flushed > FLUSH_SECONDS:
                self.cache.flush()
                flushed = time.monotonic()
            advance(len(batch), int(ready.tokens[batch].sum()) if ready.counted else 0)
        self.cache.flush()
        return len(missing)

    def rows(self, chunk_bytes: int = 32 << 20) -> Iterator[np.ndarray]:
        """Yield [n, H] float32 in the order of the texts, in chunks of bounded size."""
        step = max(1, chunk_bytes // (self.cache.width * 4))
        for start in range(0, len(self.kind), step):
            yield self.cache.read(self.places[self.kind[start : start + step]])

    def _check(self, engine: Encoder, rows: np.ndarray, kinds: np.ndarray, label: Label) -> None:
        if rows.shape != (len(kinds), engine.width):
            raise ConfigError(
                f"the encoder gave vectors of shape {list(rows.shape)} for {len(kinds)} texts, "
                f"expected width {engine.width}. Set `width` to the model's."
            )
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            first = int(np.flatnonzero(self.kind == kinds[bad[0]])[0])
            raise DataError(
                f"the encoder gave NaN or infinity for {len(bad)} of {len(kinds)} texts of a "
                f"batch; first: {label(first)}. The batch was not kept. "
                f"Try dtype: float32, or look at the text."
            )


def _stored(ready: Prepared) -> np.ndarray:
    """Return [n] uint32, the token counts as the cache keeps them; 0 where nothing counted."""
    if not ready.counted:
        return np.where(ready.cut, CUT, np.uint32(0))
    return ready.tokens.astype(np.uint32) | np.where(ready.cut, CUT, np.uint32(0))
