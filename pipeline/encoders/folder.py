"""A model on disk: what it consists of, and whether it may be loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from math import prod
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.files import sha256_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_SETTINGS = {".json", ".txt", ".model", ".jinja", ".py"}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt")
_OF_TOKENIZER = {
    *_TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
}
_NOT_SETTINGS = {"README.md", "data_config.json"}
"""Files that describe training or people; they change no vector."""


class ModelFolder:
    """The folder of a model of the transformers library."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or str(path)

    @property
    def commit(self) -> str:
        """The hub commit; a snapshot's folder carries its name."""
        return self.path.name

    @cached_property
    def contents(self) -> dict[str, str]:
        """SHA-256 of weights, tokenizer and settings, names included; the place does not matter."""
        self.check_layout()
        parts: dict[str, list[Path]] = {"weights": [], "tokenizer": [], "settings": []}
        for file in sorted(self.path.rglob("*")):
            relative = file.relative_to(self.path)
            if not file.is_file() or any(part.startswith(".") for part in relative.parts):
                continue
            if file.suffix == ".safetensors":
                parts["weights"].append(relative)
            elif file.name in _OF_TOKENIZER:
                parts["tokenizer"].append(relative)
            elif file.suffix in _SETTINGS and file.name not in _NOT_SETTINGS:
                parts["settings"].append(relative)
        return {part: self._digest(files) for part, files in parts.items()}

    @property
    def weights_bytes(self) -> int:
        """Size of all weights, bytes."""
        return sum(file.stat().st_size for file in self.path.rglob("*.safetensors"))

    @property
    def parameters(self) -> int:
        """Number of weights, from the headers of the files."""
        from safetensors import safe_open

        files = [self.path / WEIGHTS]
        if not files[0].is_file():
            files = [self.path / name for name in self._shards()]
        count = 0
        for file in files:
            with safe_open(file, "np") as opened:
                names = opened.keys()
                count += sum(prod(opened.get_slice(name).get_shape()) for name in names)
        return count

    def check(self, weights_sha256: str | None) -> None:
        """Refuse a folder that is incomplete, carries other weights, or would run foreign code."""
        self.check_layout()
        if weights_sha256 is None:
            return
        weights = self.path / WEIGHTS
        if not weights.is_file():
            raise ConfigError(
                f"encoder model {self.name!r}: weights_sha256 is the checksum of {WEIGHTS}, but "
                f"the weights are split into several files. Set weights_sha256: null."
            )
        found = sha256_file(weights)
        if found != weights_sha256:
            raise ConfigError(
                f"encoder model {self.name!r}: {WEIGHTS} has sha256 {found}, params say "
                f"{weights_sha256}. Get the model again; set the new checksum only if you meant "
                f"to change the model."
            )

    def check_layout(self) -> None:
        """Raise ConfigError unless settings, safetensors weights and tokenizer are there."""
        if (self.path / ADAPTER).is_file():
            # The library would go and load the model that the adapter was made for.
            raise self.wrong(
                f"it is a LoRA adapter ({ADAPTER}). Name the model it was made for as `model`, "
                f"with the engine transformers, and this one under `adapters`."
            )
        self.require("config.json", "Is this a model of the transformers library?")
        self.json("config.json")
        self.check_weights(self.path)
        if not self.safe(self.path):
            raise self.wrong(f"{WEIGHTS} is missing.")
        if not any((self.path / name).is_file() for name in _TOKENIZERS):
            raise self.wrong("the tokenizer (tokenizer.json) is missing.")

    def require(self, name: str, hint: str = "") -> None:
        """Raise ConfigError unless a file is there."""
        if not (self.path / name).is_file():
            raise self.wrong(f"{name} is missing. {hint}".rstrip())

    def check_weights(self, folder: Path) -> None:
        """Raise ConfigError when a folder holds weights, but only pickled ones."""
        if not self.safe(folder) and any((folder / name).exists() for name in _PICKLES):
            place = folder.relative_to(self.path.resolve()) if folder != self.path else Path()
            raise self.wrong(
                f"{place} has pickled weights only ({_PICKLES[0]}). Loading them can run code; "
                f"convert them to {WEIGHTS} first."
            )

    def safe(self, folder: Path) -> bool:
        """Whether a folder holds safetensors weights. Raises ConfigError for an absent shard."""
        if (folder / WEIGHTS).is_file():
            return True
        if not (folder / INDEX).is_file():
            return False
        shards = self._shards(folder)
        absent = sorted(name for name in shards if not (folder / name).is_file())
        if absent:
            raise self.wrong(f"{absent[0]} is missing ({len(absent)} of {len(shards)} shards).")
        return True

    def json(self, name: str) -> object:
        """Return the content of a JSON file. Raises ConfigError when it is damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise self.wrong(f"{name} is damaged ({error}).") from None

    def wrong(self, problem: str) -> ConfigError:
        """Return the error for a folder that cannot be used."""
        return ConfigError(
            f"encoder model {self.name!r}: {problem} Looked in {self.path}. "
            f"Copy the whole model again, or set another `model` in params.yaml."
        )

    def _shards(self, folder: Path | None = None) -> set[str]:
        content = json.loads(((folder or self.path) / INDEX).read_text(encoding="utf-8"))
        return set(content["weight_map"].values())

    def _digest(self, files: Iterable[Path]) -> str:
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.as_posix()}\0{sha256_file(self.path / file)}\n".encode())
        return total.hexdigest()


class SbertFolder(ModelFolder):
    """The folder of a sentence-transformers model."""

    def check_layout(self) -> None:
        """Raise ConfigError unless every module has its settings and safetensors weights."""
        self.require("modules.json", "Is this a sentence-transformers model?")
        modules = self.json("modules.json")
        if not isinstance(modules, list) or not modules:
            raise self.wrong("modules.json lists no modules.")
        for module in modules:
            kind, place = str(module.get("type")), str(module.get("path", ""))
            if not kind.startswith("sentence_transformers."):
                raise self.wrong(
                    f"modules.json asks for {kind}, code from outside sentence-transformers. "
                    f"It is not run."
                )
            folder = (self.path / place).resolve()
            if not folder.is_relative_to(self.path.resolve()):
                raise self.wrong(f"modules.json points outside the folder: {place}.")
            if kind.endswith(".Pooling") and not (folder / "config.json").is_file():
                raise self.wrong(f"{place}/config.json is missing.")
            self.check_weights(folder)
        super().check_layout()
