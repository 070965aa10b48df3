"""Engines that turn item text into vectors: the protocol they share, and how one is opened.

An engine says what its vectors mean (`identity`) without loading anything heavy, so that a run
whose rows are all cached never loads a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from pipeline.config.text import TextEncoder


@dataclass(frozen=True)
class Prepared:
    """Texts as an engine reads them, with their lengths: batches are formed by these."""

    inputs: Sequence[Any]
    """One per text, what `encode` takes: token ids, or the text itself."""
    tokens: np.ndarray
    """[n] int64, tokens of each text after it was cut; an estimate unless `counted`."""
    cut: np.ndarray
    """[n] bool, whether the text was longer than the engine reads."""
    counted: bool
    """Whether the engine's own tokenizer counted."""


class Encoder(Protocol):
    """What `pipeline.encoders.batches` needs of an engine."""

    width: int
    """H."""
    batch_size: int
    """Texts per call of `encode`, at most."""
    batch_tokens: int
    """Tokens per call of `encode`, padding included; a longer single text comes alone."""

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON, everything that changes a vector; it is the key of cached rows."""
        ...

    def memory_bytes(self) -> int:
        """Return a rough upper bound of the memory of model and one batch."""
        ...

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """Return the texts as `encode` takes them, and their lengths."""
        ...

    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        """Return [n, H] float32 for prepared inputs of similar length."""
        ...


def open_encoder(spec: TextEncoder, base: Path, device: str, threads: int | None = None) -> Encoder:
    """Return the engine of a params block.

    base: folder that relative model folders start from. device: cpu or cuda:N.
    threads: CPU threads of a model; None leaves the library's choice.
    Raises ConfigError when the model cannot be used as the block says.
    """
    from pipeline.config import Hash, OpenAI, Sbert, Transformers, Vllm

    match spec:
        case Hash():
            from pipeline.encoders.hash import HashEncoder

            return HashEncoder(spec.width, spec.seed)
        case Sbert():
            from pipeline.encoders.sbert import SbertEncoder

            return SbertEncoder(spec, base, device, threads)
        case Transformers():
            from pipeline.encoders.transformers import TransformersEncoder

            return TransformersEncoder(spec, base, device, threads)
        case Vllm():
            from pipeline.encoders.vllm import VllmEncoder

            return VllmEncoder(spec, base)
        case OpenAI():
            from pipeline.encoders.openai import OpenAIEncoder

            return OpenAIEncoder(spec)
