"""Vectors from hashed words: deterministic, without a model. For tests and for trying things out.

A text is the sum of one random sign vector per word and per pair of neighbouring words, divided by
its length, so texts that share words are near each other. Sums are of integers and the division is
one IEEE operation, so the bytes are the same on every machine and in every process.

Source: feature hashing with signs, Weinberger et al., ICML 2009 (dense signs instead of one slot).
Differs: every word touches all H entries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.data.text import well_formed
from pipeline.encoders import Prepared

_WORD = re.compile(r"\w+")


class HashEncoder:
    """The `hash` engine."""

    batch_size = 1024
    batch_tokens = 1 << 16

    def __init__(self, width: int, seed: int) -> None:
        self.width = width
        self.seed = seed
        # Bounded: a catalogue of millions of titles must not fill the memory with words.
        self._signs = lru_cache(maxsize=1 << 15)(self._draw)

    def identity(self) -> dict[str, Any]:
        """Return what changes a vector."""
        return {"engine": "hash", "version": 1, "width": self.width, "seed": self.seed}

    def memory_bytes(self) -> int:
        """Return the memory of the word cache and a batch."""
        return (1 << 15) * (self.width + 200) + self.batch_size * self.width * 12

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """Count the words; nothing is cut."""
        texts = well_formed(texts)
        words = np.fromiter((len(_WORD.findall(text)) for text in texts), np.int64, len(texts))
        return Prepared(texts, words, np.zeros(len(texts), bool), counted=True)

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        """Return [n, H] float32 unit rows; a text without a word gives a row of zeros."""
        rows = np.zeros((len(inputs), self.width), np.float32)
        for row, text in zip(rows, inputs, strict=True):
            words = _WORD.findall(text.lower())
            pairs = [f"{a} {b}" for a, b in pairwise(words)]
            total = np.zeros(self.width, np.int64)
            for feature in (*words, *pairs):
                total += self._signs(feature)
            norm = np.sqrt(float((total * total).sum()))
            if norm > 0:
                row[:] = total / norm
        return rows

    def _draw(self, feature: str) -> np.ndarray:
        seeded = f"{self.seed}\x1f{feature}".encode("utf-8", "surrogatepass")
        data = hashlib.shake_256(seeded).digest((self.width + 7) // 8)
        bits = np.unpackbits(np.frombuffer(data, np.uint8))[: self.width]
        return bits.astype(np.int8) * 2 - 1
