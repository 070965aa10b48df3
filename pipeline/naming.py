"""Methods and backbones found by module name: the folder is the registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from pipeline.errors import ConfigError, near_miss
from pipeline.strict import build

_FOLDER = Path(__file__).parent


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


def settings(kind: str, name: str, blocks: Mapping[str, dict[str, Any]]) -> BaseModel:
    """Build the `Config` of a method or backbone from its block in params.yaml.

    Raises ConfigError for an unknown name, a missing block or a wrong value.
    """
    found = module(kind, name)
    if name not in blocks:
        raise ConfigError(f"params.yaml: {kind}.{name}: no such block.{near_miss(name, blocks)}")
    built: BaseModel = build(found.Config, blocks[name], f"params.yaml: {kind}.{name}")
    return built
