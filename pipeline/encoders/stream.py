"""A catalogue's vectors in the order of its items, window by window: from the cache, or encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.text import PLACEHOLDER, ItemText, check_blank
from pipeline.encoders import Encoder
from pipeline.encoders.batches import CUT, Batch, Store, Window
from pipeline.encoders.rows import RowCache


@dataclass(frozen=True)
class Survey:
    """What is to be done, before anything is."""

    blank: int
    """Items without text for the template."""
    missing: int
    """Texts without a row in the cache; one that comes in several windows counts in each."""


class Encoding:
    """One catalogue, one engine and the row cache between them."""

    def __init__(self, text: ItemText, engine: Encoder, cache: RowCache, *, fresh: bool) -> None:
        """fresh: encode every text again, whatever the cache holds."""
        self.text = text
        self.engine = engine
        self.cache = cache
        self.encoded = 0
        """Texts encoded for it, once all chunks are through."""
        self._fresh = fresh
        self._lengths = Lengths()
        self._seen = Bitmap()

    def survey(self) -> Survey:
        """Look every text up. Raises DataError when no item has any text."""
        blank = missing = 0
        for texts in self.text.windows():
            blank += texts.count(PLACEHOLDER)
            missing += len(Window(self.cache, texts, fresh=self._fresh).missing)
        check_blank(blank, len(self.text), self.text.template)
        return Survey(blank, missing)

    def pending(self) -> Iterator[Batch]:
        """Yield what the cache lacks, in the batches that `chunks` would form: each text once."""
        planned = np.zeros(0, np.uint64)  # the first 8 bytes of a hash tell texts apart
        for window in self._windows():
            kinds = window.missing
            new = window.hashes[kinds, 0]
            kinds = kinds[~np.isin(new, planned)]
            planned = np.concatenate([planned, new])
            for _, batch in window.batches(self.engine, kinds):
                yield batch
        self._fresh = False  # what is stored now need not be encoded again

    def chunks(self, store: Store) -> Iterator[np.ndarray]:
        """Yield [n, H] float32 for all items in order, encoding what the cache lacks."""
        for window in self._windows():
            for kinds, batch in window.batches(self.engine, window.missing):
                window.places[kinds] = store.add(batch, self.engine.encode(batch.inputs))
            store.flush()
            self._seen.add(self.cache.number(window.places))
            self._lengths.add(self.cache.tokens(window.places)[window.kind])
            yield from window.rows()
        self.encoded = store.count

    def texts(self) -> dict[str, Any]:
        """Return what is known of the texts once all chunks are through."""
        return {"distinct": len(self._seen), **self._lengths.summary()}

    def _windows(self) -> Iterator[Window]:
        start = 0
        for texts in self.text.windows():
            yield Window(self.cache, texts, start, fresh=self._fresh)
            start += len(texts)


class Lengths:
    """Token counts of many texts, as a histogram."""

    def __init__(self) -> None:
        self._histogram = np.zeros(1, np.int64)
        self._cut = 0

    def add(self, stored: np.ndarray) -> None:
        """Count the texts of [n] uint32 counts as the row cache keeps them."""
        self._cut += int(np.count_nonzero(stored & CUT))
        found = np.bincount((stored & ~CUT).astype(np.int64), minlength=len(self._histogram))
        found[: len(self._histogram)] += self._histogram
        self._histogram = found

    def summary(self) -> dict[str, Any]:
        """Return cut texts and quantiles of the tokens; no quantiles where none were counted."""
        total = int(self._histogram.sum())
        counted = total - int(self._histogram[0])
        found: dict[str, Any] = {"cut": self._cut, "cut_share": round(self._cut / max(1, total), 6)}
        if not counted:
            return {**found, "tokens": None}
        cumulative = np.cumsum(self._histogram)
        quantiles = {
            name: int(np.searchsorted(cumulative, max(1, share * total)))
            for name, share in (("min", 0.0), ("median", 0.5), ("p95", 0.95), ("max", 1.0))
        }
        mean = float(np.arange(len(cumulative)) @ self._histogram) / total
        return {**found, "tokens": {**quantiles, "mean": round(mean, 2)}}


class Bitmap:
    """A set of small whole numbers, one bit each: millions cost little memory."""

    def __init__(self) -> None:
        self._bits = np.zeros(0, np.uint8)

    def add(self, numbers: np.ndarray) -> None:
        """Add [n] int64 numbers, each >= 0."""
        if not len(numbers):
            return
        needed = int(numbers.max()) // 8 + 1
        if needed > len(self._bits):
            self._bits = np.concatenate([self._bits, np.zeros(needed - len(self._bits), np.uint8)])
        np.bitwise_or.at(self._bits, numbers >> 3, (1 << (numbers & 7)).astype(np.uint8))

    def __len__(self) -> int:
        return int(np.bitwise_count(self._bits).sum())
