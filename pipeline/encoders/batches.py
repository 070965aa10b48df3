"""Encode each distinct text once, in batches of similar length, through the row cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipeline.encoders import Encoder
from pipeline.encoders.rows import ABSENT, RowCache, digest
from pipeline.errors import ConfigError, DataError

Label = Callable[[int], str]
"""Names the text at an index, for messages."""

FLUSH_SECONDS = 30.0
"""Longest stretch of work that a power cut (not a kill) can cost."""


class Lookup:
    """Texts, the distinct ones among them, and where each has its row in the cache."""

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
        """[m] int64, distinct texts without a row, longest first.

        Longest first: a batch too large for the memory fails at once, not after hours, and the
        time left is over- rather than underestimated. Characters stand for tokens.
        """
        absent = np.flatnonzero(self.places == ABSENT)
        lengths = np.fromiter((len(self.distinct[i]) for i in absent), np.int64, len(absent))
        return absent[np.argsort(-lengths, kind="stable")]

    def encode(self, engine: Encoder, label: Label, advance: Callable[[int], None]) -> int:
        """Encode what is missing and append it batch by batch; return the number of texts.

        label: names the first item of a text. Raises DataError on NaN or infinity, ConfigError on
        a width other than promised; batches before stay in the cache.
        """
        missing = self.missing
        flushed = time.monotonic()
        for start in range(0, len(missing), engine.batch_size):
            batch = missing[start : start + engine.batch_size]
            rows = engine.encode([self.distinct[i] for i in batch])
            self._check(engine, rows, batch, label)
            tokens = np.zeros(len(batch), np.uint32)
            self.places[batch] = self.cache.append(self.hashes[batch], rows, tokens)
            if time.monotonic() - flushed > FLUSH_SECONDS:
                self.cache.flush()
                flushed = time.monotonic()
            advance(len(batch))
        if len(missing):
            self.cache.flush()
        return len(missing)

    def rows(self, chunk_bytes: int = 32 << 20) -> Iterator[np.ndarray]:
        """Yield [n, H] float32 in the order of the texts, in chunks of bounded size."""
        step = max(1, chunk_bytes // (self.cache.width * 4))
        for start in range(0, len(self.kind), step):
            yield self.cache.read(self.places[self.kind[start : start + step]])

    def _check(self, engine: Encoder, rows: np.ndarray, batch: np.ndarray, label: Label) -> None:
        if rows.shape != (len(batch), engine.width):
            raise ConfigError(
                f"the encoder gave vectors of shape {list(rows.shape)} for {len(batch)} texts, "
                f"expected width {engine.width}. Set `width` to the model's."
            )
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            first = int(np.flatnonzero(self.kind == batch[bad[0]])[0])
            raise DataError(
                f"the encoder gave NaN or infinity for {len(bad)} of {len(batch)} texts of a "
                f"batch; first: {label(first)}. The batch was not kept. "
                f"Try dtype: float32, or look at the text."
            )
