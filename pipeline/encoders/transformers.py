"""Models of the transformers library, decoders and encoders, with the pooling written here.

Reaches what other engines do not: any block's state, the last one before the final normalisation,
decoders that attend both ways (LLM2Vec), and LoRA adapters.

Source: the transformers library, version 5; BehnamGhader et al., LLM2Vec, COLM 2024.
Differs: LLM2Vec leaves the opening token and an instruction out of its mean; here `mean` takes all
tokens. Weights are read from safetensors only, and nothing is asked of the hub for models that lie
on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Transformers
from pipeline.encoders import Prepared
from pipeline.encoders.hidden import HiddenState
from pipeline.encoders.hub import Located, major
from pipeline.encoders.lora import AdapterFolder, merge
from pipeline.encoders.tokens import TokenizedModel
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_UNREAD = ("pooler.",)
"""Weights that may be absent: no state that is pooled here passes through them."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class TransformersEncoder:
    """The `transformers` engine. `prepare` loads the tokenizer, `encode` the model."""

    def __init__(
        self, spec: Transformers, base: Path, device: str, threads: int | None = None
    ) -> None:
        self.spec = spec
        self.width = spec.width
        self.batch_size = spec.batch_size
        self.batch_tokens = spec.batch_tokens
        self.device = device
        self.files = TokenizedModel(spec, base)
        self.located = self.files.located
        self.adapters = [Located(a, base, AdapterFolder, code=False) for a in spec.adapters]
        self._threads = threads

    def identity(self) -> dict[str, Any]:
        """Return what changes a vector: contents of the model and how it is run."""
        return {
            "engine": "transformers",
            "model": self.located.identity(),
            "adapters": [adapter.identity() for adapter in self.adapters],
            "versions": {"transformers": major("transformers")},
            "layer": self.spec.layer,
            "norm": self.spec.norm,
            "pooling": self.spec.pooling,
            "bidirectional": self.spec.bidirectional,
            "trust_remote_code": self.spec.trust_remote_code,
            "normalize": self.spec.normalize,
            "max_tokens": self.spec.max_tokens,
            "dtype": self.spec.dtype,
        }

    def memory_bytes(self) -> int:
        """Return the weights as they are computed with, adapters, a batch, and the libraries.

        A model that is not fetched yet counts nothing. Attention is computed in pieces, so that
        only its mask grows with the square of a text's length.
        """
        folder = self.located.present
        weights = 0 if folder is None else folder.parameters * _BYTES[self.spec.dtype]
        adapters = sum(2 * adapter.weights_bytes() for adapter in self.adapters)
        longest = max(self.spec.batch_tokens, self.spec.max_tokens)
        states = longest * self.width * 4 * 24  # the widest layers of a block are 4 to 8 H wide
        mask = longest * self.spec.max_tokens * 4
        return weights + adapters + states + mask + 600_000_000

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """Return token ids."""
        return self.files.prepare(texts)

    def encode(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """Return [n, H] float32 for token ids; padded on the right, so positions stay."""
        import torch

        lengths = torch.tensor([len(row) for row in inputs])
        ids = torch.full((len(inputs), int(lengths.max())), self._padding)
        for row, tokens in zip(ids, inputs, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        self._check(int(ids.max()))
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        with torch.inference_mode():
            mask, lengths = mask.to(self.device), lengths.to(self.device)
            states = self._model(ids.to(self.device), mask)
            rows = _pool(states, mask, lengths, self.spec.pooling)
            if self.spec.normalize:
                rows = torch.nn.functional.normalize(rows, dim=1)
            return np.ascontiguousarray(rows.cpu().numpy())

    @cached_property
    def _padding(self) -> int:
        """Any token does, being masked; models that count positions by it want their own."""
        found = self.files.tokenizer.pad_token_id
        if found is None:
            found = getattr(self.files.settings, "pad_token_id", None)
        # Tokenizers may add one of their own that the model has no row for.
        return 0 if found is None or found >= self.files.settings.vocab_size else int(found)

    def _check(self, highest: int) -> None:
        """Raise ConfigError for a token that the model has no row for."""
        known = self.files.settings.vocab_size
        if highest >= known:
            raise ConfigError(
                f"encoder model {self.spec.model!r}: its tokenizer gives the token {highest}, the "
                f"model knows {known} tokens. The tokenizer belongs to another model; copy the "
                f"whole model again."
            )

    # ------------------------------------------------------------ loading

    @cached_property
    def _model(self) -> HiddenState:
        """The loaded model, checked against the params block."""
        folder, _ = self.files.folder, self.files.settings
        adapters = [adapter.folder for adapter in self.adapters]
        with self.files.loading():
            import torch
            from transformers import AutoModel

            if self._threads is not None:
                torch.set_num_threads(self._threads)
            model, report = AutoModel.from_pretrained(
                str(folder.path),
                dtype=getattr(torch, self.spec.dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=self.spec.trust_remote_code,
                output_loading_info=True,
            )
            # The library fills absent weights with random ones.
            absent = [k for k in report["missing_keys"] if not k.startswith(_UNREAD)]
            absent += [str(key) for key, *_ in report["mismatched_keys"]]
            if absent:
                raise folder.wrong(f"{len(absent)} weights are missing, first {sorted(absent)[0]}.")
            model = merge(model, adapters)
        model.requires_grad_(False).eval().to(self.device)
        return HiddenState(
            model,
            self.spec.layer,
            self.spec.norm,
            bidirectional=self.spec.bidirectional,
            name=self.spec.model,
        )


def _pool(states: Tensor, mask: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Return [B, H] float32 of states [B, L, H], a mask [B, L] bool and its lengths [B]."""
    import torch

    match pooling:
        case "mean":
            kept = states.float().masked_fill(~mask[..., None], 0.0)
            return kept.sum(dim=1) / lengths[:, None]
        case "cls":
            return states[:, 0].float()
        case _:  # last, and eos, which is the last one by then
            return states[torch.arange(len(states), device=states.device), lengths - 1].float()
