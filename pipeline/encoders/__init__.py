"""Engines that turn item text into vectors: the protocol they share, and how one is opened.

An engine says what its vectors mean (`identity`) without loading anything heavy, so that a run
whose rows are all cached never loads a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.config import Hash, Sbert


class Encoder(Protocol):
    """What `pipeline.encoders.batches` needs of an engine."""

    width: int
    """H."""
    batch_size: int
    """Texts per call of `encode`."""

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON, everything that changes a vector; it is the key of cached rows."""
        ...

    def memory_bytes(self) -> int:
        """Return a rough upper bound of the memory of model and one batch."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return [n, H] float32 for n <= batch_size texts of similar length."""
        ...


def open_encoder(
    spec: Hash | Sbert, base: Path, device: str, threads: int | None = None
) -> Encoder:
    """Return the engine of a params block.

    base: folder that relative model folders start from. device: cpu or cuda:N.
    threads: CPU threads of a model; None leaves the library's choice.
    Raises ConfigError when the model cannot be used as the block says.
    """
    if isinstance(spec, Hash):
        from pipeline.encoders.hash import HashEncoder

        return HashEncoder(spec.width, spec.seed)
    from pipeline.encoders.sbert import SbertEncoder

    return SbertEncoder(spec, base, device, threads)
