"""Methods and backbones found by module name: the folder is the registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel

from pipeline.errors import ConfigError, near_miss
from pipeline.strict import build

if TYPE_CHECKING:
    from pipeline.model import MethodConfig

_FOLDER = Path(__file__).parent

OF = "of"
"""Key of a block that is read by another block's file: a variant with its own name."""

TRAIN = "train"
"""Key of a block that holds its own values of `train`."""


def names(kind: str) -> list[str]:
    """Return the modules of a folder: kind is `methods`, `backbones` or `data/sources`."""
    return sorted(m.name for m in pkgutil.iter_modules([str(_FOLDER / kind)]))


def module(kind: str, name: str) -> ModuleType:
    """Import `pipeline/<kind>/<name>.py`. Raises ConfigError for an unknown name."""
    known = names(kind)
    if name not in known:
        raise ConfigError(
            f"{kind}: {name} is unknown: there is no pipeline/{kind}/{name}.py."
            f"{near_miss(name, known)}"
        )
    return importlib.import_module(f"pipeline.{kind.replace('/', '.')}.{name}")


def file_of(kind: str, name: str, blocks: Mapping[str, dict[str, Any]]) -> str:
    """Return the module a block is read by: the one it names with `of`, else its own name."""
    named = blocks.get(name, {}).get(OF, name)
    if not isinstance(named, str):
        raise ConfigError(f"params.yaml: {kind}.{name}.{OF}: {named!r} is not the name of a file.")
    return named


def settings(kind: str, name: str, blocks: Mapping[str, dict[str, Any]]) -> MethodConfig:
    """Build the `Config` of a method or backbone from its block in params.yaml.

    Raises ConfigError for an unknown name, a missing block or a wrong value.
    """
    if name not in blocks:
        files = names(kind)
        lacking = (
            "no such block" if name in files else f"no such block, and no pipeline/{kind}/{name}.py"
        )
        # A variant is a block without a file; a file without a block may be meant as well.
        hint = near_miss(name, {*blocks, *files} - {name})
        raise ConfigError(f"params.yaml: {kind}.{name}: {lacking}.{hint}")
    found = module(kind, file_of(kind, name, blocks))
    train = blocks[name].get(TRAIN, {})
    if not isinstance(train, Mapping):
        raise ConfigError(
            f"params.yaml: {kind}.{name}.{TRAIN}: found {train!r}, expected values of `train`."
        )
    own = {key: value for key, value in blocks[name].items() if key not in (OF, TRAIN)}
    built: MethodConfig = build(found.Config, own, f"params.yaml: {kind}.{name}")
    return built.at(f"{kind}.{name}")


def is_untrained(found: ModuleType) -> bool:
    """Whether a method's `build` says that it returns something without training."""
    kind = get_type_hints(found.build).get("return") if hasattr(found, "build") else None
    return getattr(kind, "__name__", "") == "Untrained"


def needs(found: ModuleType, config: BaseModel) -> tuple[str, ...]:
    """Return the inputs a method reads with these settings: its `needs`, else all of `NEEDS`."""
    own = getattr(found, "needs", None)
    listed: tuple[str, ...] = own(config) if own else found.NEEDS
    return listed


def views(needs: tuple[str, ...]) -> list[str]:
    """Return the views of the spectrum among a method's inputs."""
    kinds = (need.partition(":") for need in needs)
    return [view for kind, _, view in kinds if kind == "spectrum"]


def changes(kind: str, name: str, blocks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what a block changes: in the block of its file, and in `train`, as dotted keys."""
    block = blocks.get(name, {})
    base = blocks.get(file_of(kind, name, blocks), {})
    found = {key: value for key, value in block.items() if key not in (OF, TRAIN)}
    found = {key: value for key, value in found.items() if base.get(key, key) != value}
    return found | flat(block.get(TRAIN, {}), TRAIN)


def flat(block: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys; lists stay values."""
    if not isinstance(block, Mapping):
        return {prefix: block}
    found: dict[str, Any] = {}
    for key, value in block.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
