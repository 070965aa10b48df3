"""Models of the transformers library, decoders and encoders, with the pooling written here.

Reaches what other engines do not: any block's state, the last one before the final normalisation,
decoders that attend both ways (LLM2Vec), and LoRA adapters.

Source: the transformers library, version 5; BehnamGhader et al., LLM2Vec, COLM 2024.
Differs: LLM2Vec leaves the opening token and an instruction out of its mean; here `mean` takes all
tokens. Weights are read from safetensors only, and nothing is asked of the hub for models that lie
on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Transformers
from pipeline.data.text import well_formed
from pipeline.encoders import Prepared
from pipeline.encoders.folder import ModelFolder
from pipeline.encoders.hidden import HiddenState
from pipeline.encoders.hub import Located, hub_off, major, need
from pipeline.encoders.limits import check_length, check_width
from pipeline.encoders.lora import AdapterFolder, merge
from pipeline.errors import ConfigError, DataError

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
        self.located = Located(spec, base, ModelFolder, code=spec.trust_remote_code)
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
        """Return token ids, cut at the end of the text; tokens around it stay.

        Raises DataError for a text without any token.
        """
        texts = well_formed(texts)
        ids = self._tokenize(texts)
        # The end token that pooling asks for needs a place.
        limit = self.spec.max_tokens - (self._end is not None)
        cut = np.fromiter((len(row) > limit for row in ids), bool, len(ids))
        long = np.flatnonzero(cut)
        if len(long):
            shorter = self._tokenize([texts[i] for i in long], truncation=True, max_length=limit)
            for i, row in zip(long, shorter, strict=True):
                ids[i] = row
        empty = next((text for text, row in zip(texts, ids, strict=True) if not row), None)
        if empty is not None:
            raise DataError(
                f"encoder model {self.spec.model!r}: the text {empty[:80]!r} has no tokens. "
                f"Change the item's text, or write words into `template`."
            )
        if self._end is not None:
            ids = [row if row[-1] == self._end else [*row, self._end] for row in ids]
        lengths = np.fromiter((len(row) for row in ids), np.int64, len(ids))
        return Prepared(ids, lengths, cut, counted=True)

    def encode(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """Return [n, H] float32 for token ids; padded on the right, so positions stay."""
        import torch

        lengths = torch.tensor([len(row) for row in inputs])
        ids = torch.full((len(inputs), int(lengths.max())), self._padding)
        for row, tokens in zip(ids, inputs, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        with torch.inference_mode():
            mask, lengths = mask.to(self.device), lengths.to(self.device)
            states = self._model(ids.to(self.device), mask)
            rows = _pool(states, mask, lengths, self.spec.pooling)
            if self.spec.normalize:
                rows = torch.nn.functional.normalize(rows, dim=1)
            return np.ascontiguousarray(rows.cpu().numpy())

    # ------------------------------------------------------------ tokens

    def _tokenize(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        found = self._tokenizer(
            list(texts), padding=False, verbose=False, return_attention_mask=False, **options
        )
        return list(found["input_ids"])

    @cached_property
    def _tokenizer(self) -> Any:
        folder = self._checked
        with self._loading():
            from transformers import AutoTokenizer

            found = AutoTokenizer.from_pretrained(
                str(folder.path),
                local_files_only=True,
                trust_remote_code=self.spec.trust_remote_code,
            )
        found.truncation_side = "right"
        check_length(self.spec, found, self._settings)
        around = found.num_special_tokens_to_add()
        if self.spec.max_tokens <= around + (self.spec.pooling == "eos"):
            raise ConfigError(
                f"encoder model {self.spec.model!r}: max_tokens: {self.spec.max_tokens} leaves no "
                f"room for text beside special tokens. Set more."
            )
        return found

    @cached_property
    def _end(self) -> int | None:
        """The token to put behind texts; None when pooling asks for none or it comes by itself."""
        if self.spec.pooling != "eos":
            return None
        end = self._tokenizer.eos_token_id
        if end is None:
            raise ConfigError(
                f"encoder model {self.spec.model!r}: pooling: eos needs an end token, but its "
                f"tokenizer has no eos_token. Set pooling: last, mean or cls."
            )
        return None if self._tokenize(["a"])[0][-1] == end else int(end)

    @cached_property
    def _padding(self) -> int:
        """Any token does, being masked; models that count positions by it want their own."""
        found = self._tokenizer.pad_token_id
        if found is None:
            found = getattr(self._settings, "pad_token_id", None)
        return 0 if found is None else int(found)

    # ------------------------------------------------------------ loading

    @cached_property
    def _checked(self) -> ModelFolder:
        folder = self.located.folder
        folder.check(self.spec.weights_sha256)
        return folder

    @cached_property
    def _settings(self) -> Any:
        """The model's config, checked against the params block before anything is loaded."""
        folder = self._checked
        with self._loading():
            from transformers import AutoConfig

            whole = AutoConfig.from_pretrained(
                str(folder.path),
                local_files_only=True,
                trust_remote_code=self.spec.trust_remote_code,
            )
        if whole.is_encoder_decoder:
            raise ConfigError(
                f"encoder model {self.spec.model!r} has an encoder and a decoder, which this "
                f"engine does not run. Use the engine sbert, or another model."
            )
        text = whole.get_text_config()
        check_width(self.spec, getattr(text, "hidden_size", None))
        return text

    @cached_property
    def _model(self) -> HiddenState:
        """The loaded model, checked against the params block."""
        folder, _ = self._checked, self._settings
        adapters = [adapter.folder for adapter in self.adapters]
        with self._loading():
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

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Keep hub and library quiet, and tell what the library refuses as the user's mistake."""
        need("transformers")
        from safetensors import SafetensorError
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the stage shows its own
        try:
            with hub_off():
                yield
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            whole = str(error).strip()
            foreign = " If you trust it, set trust_remote_code: true."
            raise ConfigError(
                f"encoder model {self.spec.model!r} cannot be loaded: {whole.splitlines()[0]} "
                f"Looked in {self._checked.path}.{foreign if 'trust_remote_code' in whole else ''}"
            ) from error
        finally:
            logging.set_verbosity(before)


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
