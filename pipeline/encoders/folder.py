"""A sentence-transformers model on disk: what it consists of, and whether it may be loaded."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.files import sha256_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_SETTINGS = {".json", ".txt", ".model"}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt")
_NEEDED = ("modules.json", "config.json")
_NOT_SETTINGS = {"README.md", "data_config.json"}
"""Files that describe training or people; they change no vector."""


class ModelFolder:
    """One model folder."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    @property
    def commit(self) -> str:
        """The hub commit; a snapshot's folder carries its name."""
        return self.path.name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and contents of weights and settings; the place does not matter."""
        self.check_layout()
        total = hashlib.sha256()
        for file in sorted(self.path.rglob("*")):
            relative = file.relative_to(self.path).as_posix()
            wanted = file.suffix in _SETTINGS or file.suffix == ".safetensors"
            hidden = any(part.startswith(".") for part in Path(relative).parts)
            if file.is_file() and wanted and not hidden and file.name not in _NOT_SETTINGS:
                total.update(f"{relative}\0{sha256_file(file)}\n".encode())
        return total.hexdigest()

    @property
    def weights_bytes(self) -> int:
        """Size of all weights, bytes."""
        return sum(file.stat().st_size for file in self.path.rglob("*.safetensors"))

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
        """Raise ConfigError unless every module has its settings and safetensors weights."""
        for name in _NEEDED:
            if not (self.path / name).is_file():
                raise self._wrong(f"{name} is missing. Is this a sentence-transformers model?")
        modules = self._json("modules.json")
        if not isinstance(modules, list) or not modules:
            raise self._wrong("modules.json lists no modules.")
        for module in modules:
            kind, place = str(module.get("type")), str(module.get("path", ""))
            if not kind.startswith("sentence_transformers."):
                raise self._wrong(
                    f"modules.json asks for {kind}, code from outside sentence-transformers. "
                    f"It is not run."
                )
            folder = (self.path / place).resolve()
            if not folder.is_relative_to(self.path.resolve()):
                raise self._wrong(f"modules.json points outside the folder: {place}.")
            if kind.endswith(".Pooling") and not (folder / "config.json").is_file():
                raise self._wrong(f"{place}/config.json is missing.")
            if not self._safe(folder) and any((folder / n).exists() for n in _PICKLES):
                raise self._wrong(
                    f"{place or '.'} has pickled weights only ({_PICKLES[0]}). Loading them can "
                    f"run code; convert them to {WEIGHTS} first."
                )
        if not self._safe(self.path):
            raise self._wrong(f"{WEIGHTS} is missing.")
        if not any((self.path / name).is_file() for name in _TOKENIZERS):
            raise self._wrong("the tokenizer (tokenizer.json) is missing.")

    def _safe(self, folder: Path) -> bool:
        if (folder / WEIGHTS).is_file():
            return True
        if not (folder / INDEX).is_file():
            return False
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        shards = set(content["weight_map"].values())
        absent = sorted(name for name in shards if not (folder / name).is_file())
        if absent:
            raise self._wrong(f"{absent[0]} is missing ({len(absent)} of {len(shards)} shards).")
        return True

    def _json(self, name: str) -> object:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._wrong(f"{name} is damaged ({error}).") from None

    def _wrong(self, problem: str) -> ConfigError:
        return ConfigError(
            f"encoder model {self.name!r}: {problem} Looked in {self.path}. "
            f"Copy the whole model again, or set another `model` in params.yaml."
        )
