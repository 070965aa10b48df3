"""What is read of a model before its weights: files, settings and tokenizer; texts to token ids.

Engines that pool the same model share it, so that they give it the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Transformers, Vllm
from pipeline.data.text import well_formed
from pipeline.encoders import Prepared
from pipeline.encoders.folder import ModelFolder
from pipeline.encoders.hub import Located, hub_off, need
from pipeline.encoders.limits import check_length, check_width
from pipeline.errors import ConfigError, DataError


class TokenizedModel:
    """The model of a block, without its weights; every part is checked when it is first read."""

    def __init__(self, spec: Transformers | Vllm, base: Path) -> None:
        self.spec = spec
        self.located = Located(spec, base, ModelFolder, code=spec.trust_remote_code)

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

    @cached_property
    def folder(self) -> ModelFolder:
        """The files, whole and with the weights that the block names."""
        folder = self.located.folder
        folder.check(self.spec.weights_sha256)
        return folder

    @cached_property
    def settings(self) -> Any:
        """The config of the model's text part."""
        with self.loading():
            from transformers import AutoConfig

            whole = AutoConfig.from_pretrained(str(self.folder.path), **self._options)
        if whole.is_encoder_decoder:
            raise ConfigError(
                f"encoder model {self.spec.model!r} has an encoder and a decoder, which this "
                f"engine does not run. Use the engine sbert, or another model."
            )
        text = whole.get_text_config()
        check_width(self.spec, getattr(text, "hidden_size", None))
        return text

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, set to cut texts at their end."""
        settings = self.settings
        with self.loading():
            from transformers import AutoTokenizer

            found = AutoTokenizer.from_pretrained(str(self.folder.path), **self._options)
        found.truncation_side = "right"
        check_length(self.spec, found, settings)
        around = found.num_special_tokens_to_add()
        if self.spec.max_tokens <= around + (self.spec.pooling == "eos"):
            raise ConfigError(
                f"encoder model {self.spec.model!r}: max_tokens: {self.spec.max_tokens} leaves no "
                f"room for text beside special tokens. Set more."
            )
        return found

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Keep hub and library quiet, and tell what the library refuses as the user's mistake."""
        need("transformers")
        from logging import ERROR

        from safetensors import SafetensorError
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity(ERROR)
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the stage shows its own
        try:
            with hub_off():
                yield
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            whole = str(error).strip()
            foreign = " If you trust it, set trust_remote_code: true."
            raise ConfigError(
                f"encoder model {self.spec.model!r} cannot be loaded: {whole.splitlines()[0]} "
                f"Looked in {self.folder.path}.{foreign if 'trust_remote_code' in whole else ''}"
            ) from error
        finally:
            logging.set_verbosity(before)

    # ------------------------------------------------------------ tokens

    @property
    def _options(self) -> dict[str, Any]:
        return {"local_files_only": True, "trust_remote_code": self.spec.trust_remote_code}

    @cached_property
    def _end(self) -> int | None:
        """The token to put behind texts; None when pooling asks for none or it comes by itself."""
        if self.spec.pooling != "eos":
            return None
        end = self.tokenizer.eos_token_id
        if end is None:
            raise ConfigError(
                f"encoder model {self.spec.model!r}: pooling: eos needs an end token, but its "
                f"tokenizer has no eos_token. Set pooling: last or mean."
            )
        return None if self._tokenize(["a"])[0][-1] == end else int(end)

    def _tokenize(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        found = self.tokenizer(
            list(texts), padding=False, verbose=False, return_attention_mask=False, **options
        )
        return list(found["input_ids"])
