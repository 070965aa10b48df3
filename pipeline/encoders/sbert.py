"""Sentence-transformers models: a local folder, a hub model, or weights that a package carries.

Source: the sentence-transformers library, versions 5.5 to 6. A model is a list of modules
(transformer, pooling, often a closing normalisation) beside their settings.
Differs: weights are read from safetensors only, modules outside the library are refused, and
nothing is asked of the hub for models that lie on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Sbert
from pipeline.data.text import well_formed
from pipeline.encoders import Prepared
from pipeline.encoders.folder import SbertFolder
from pipeline.encoders.hub import Located, hub_off, major, need
from pipeline.encoders.limits import check_length, check_width
from pipeline.errors import ConfigError

_NORMALIZE = "Normalize"
OFF_ONE = 0.02
"""From the norm one; bfloat16 moves it by less."""


class SbertEncoder:
    """The `sbert` engine. The model is loaded by the first call of `prepare` or `encode`."""

    def __init__(self, spec: Sbert, base: Path, device: str, threads: int | None = None) -> None:
        self.spec = spec
        self.width = spec.width
        self.batch_size = spec.batch_size
        self.batch_tokens = spec.batch_tokens
        self.device = device
        self.located = Located(spec, base, SbertFolder, code=False)
        self._threads = threads

    def identity(self) -> dict[str, Any]:
        """Return what changes a vector: contents of the model and how it is run."""
        return {
            "engine": "sbert",
            "model": self.located.identity(),
            "versions": {name: major(name) for name in ("sentence-transformers", "transformers")},
            "normalize": self.spec.normalize,
            "max_tokens": self.spec.max_tokens,
            "dtype": self.spec.dtype,
        }

    def memory_bytes(self) -> int:
        """Return twice the weights (read, then converted), a batch, and the libraries."""
        longest = max(self.spec.batch_tokens, self.spec.max_tokens)
        return 2 * self.located.weights_bytes() + longest * self.width * 4 * 16 + 600_000_000

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """Count the tokens; the model tokenizes again, because its modules may differ in how."""
        texts = well_formed(texts)
        found = self._model.tokenizer(
            texts, truncation=False, padding=False, verbose=False, return_attention_mask=False
        )
        lengths = np.fromiter((len(ids) for ids in found["input_ids"]), np.int64, len(texts))
        limit = self.spec.max_tokens
        return Prepared(texts, np.minimum(lengths, limit), lengths > limit, counted=True)

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        """Return [n, H] float32."""
        rows = self._model.encode(
            list(inputs),
            batch_size=len(inputs),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=False,
        )
        return np.ascontiguousarray(rows, np.float32)

    # ------------------------------------------------------------ loading

    @cached_property
    def _model(self) -> Any:
        """The loaded model, checked against the params block."""
        folder = self.located.folder
        folder.check(self.spec.weights_sha256)
        need("sentence_transformers")
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]  # the stage shows its own
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        with hub_off():
            model = SentenceTransformer(
                str(folder.path),
                device=self.device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "dtype": getattr(torch, self.spec.dtype)},
            )
        if not self.spec.normalize:
            kept = [m for m in model if type(m).__name__ != _NORMALIZE]
            model = SentenceTransformer(modules=kept, device=self.device)
        self._check(model)
        model.max_seq_length = self.spec.max_tokens
        return model

    def _check(self, model: Any) -> None:
        row = model.encode("width", show_progress_bar=False)
        check_width(self.spec, int(row.shape[-1]))
        norm = float(np.linalg.norm(row.astype(np.float32)))
        if self.spec.normalize and abs(norm - 1) > OFF_ONE:
            raise ConfigError(
                f"encoder model {self.spec.model!r}: normalize: true keeps the model's closing "
                f"normalisation, but it has none: rows have norms such as {norm:.3g}. Set "
                f"normalize: false, or take the engine transformers, which normalises itself."
            )
        settings = getattr(getattr(model[0], "auto_model", None), "config", None)
        check_length(self.spec, model.tokenizer, settings)
        if model.tokenizer.pad_token is None:
            raise ConfigError(
                f"encoder model {self.spec.model!r}: its tokenizer has no padding token, so texts "
                f"cannot be batched. Set pad_token in its tokenizer_config.json, or take the "
                f"engine transformers, which needs none."
            )
