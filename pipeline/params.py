"""Reading params.yaml, and the places outside it that a command touches.

Keys written twice are refused, and all mistakes are reported at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Params
from pipeline.errors import ConfigError, near_miss
from pipeline.strict import build

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
"""Names become folder names and DVC cell names, so they stay plain."""

_YAML_WORDS = {"none", "null", "true", "false", "yes", "no", "on", "off", "y", "n"}
"""Words that YAML 1.1 or 1.2 reads as something else than text; `none` is reserved."""

OWN_TRAIN = ("datasets", "backbones", "methods")
"""Sections whose blocks may hold their own values of `train`."""


REVISED = ("encode", "train")
"""Costly stages, whose meaning revisions.yaml numbers."""

FOLDER = "Run the command in the folder that holds params.yaml, or name it with --params."
"""What to do when params.yaml is not there."""


class _UniqueLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: the second would silently win."""


def _mapping(loader: _UniqueLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None, None, "a key is a mapping or a list; quote braces", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_UniqueLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, cure: str = FOLDER) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises ConfigError with line and column.

    cure: what to do when there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. {cure}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}).") from None
    try:
        value = yaml.load(text, Loader=_UniqueLoader)  # SafeLoader subclass: no objects are made
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date with a month 13
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {type(value).__name__}.")
    return value


def scalar(value: Any) -> str:
    """Return a value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n...\n").strip()


def read_revisions(base: Path) -> dict[str, int]:
    """Return what revisions.yaml says the costly stages mean. Raises ConfigError that says why not.

    base: folder of params.yaml.
    """
    path, cure = base / "revisions.yaml", "Take the file from the repository again."
    found = read_yaml(path, cure)
    mistakes = [
        f"{path}: {stage}: found {found.get(stage)!r}, allowed is a whole number. {cure}"
        for stage in REVISED
        if type(found.get(stage)) is not int
    ]
    known = ", ".join(REVISED)
    mistakes += [f"{path}: {n}: unknown key. Known: {known}." for n in found if n not in REVISED]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return found


def load(path: Path, changes: Mapping[str, Any] | None = None) -> Params:
    """Read and check params.yaml; `changes` are dotted keys laid over it.

    A changed `train.x` or `datasets.NAME.train.x` wins over what backbones and methods bring.
    Raises ConfigError that lists every mistake.
    """
    raw = _unshared(read_yaml(path))
    for key, value in (changes or {}).items():
        _assign(raw, key, value)
        _outrank(raw, key, value)
    params = build(Params, raw, path.name).changed(changes or {})
    mistakes = []
    for section in ("datasets", "encoders", "backbones", "methods"):
        for name in getattr(params, section):
            reserved = name == "none" and section != "backbones"
            if reserved or not NAME.fullmatch(name):
                mistakes.append(
                    f"{section}.{name}: a name is small letters, digits and _, and not `none`."
                )
    for name in params.datasets:
        try:
            params.train_for(name)
        except ConfigError as error:
            mistakes.append(str(error).removeprefix(f"{path.name}: "))
    if mistakes:
        raise ConfigError("\n".join(f"{path.name}: {line}" for line in mistakes))
    return params


def new_name_problem(name: str) -> str | None:
    """Return what is wrong with the name of a new block, None where nothing is.

    Stricter than NAME, which blocks written by hand may meet with quotes: `123`, `2020_01` and
    `1e3` are numbers to one YAML reader or another.
    """
    if name in _YAML_WORDS or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return (
            "a name begins with a small letter, goes on with small letters, digits and _, and is "
            f"not one of {', '.join(sorted(_YAML_WORDS))}, which YAML reads as something else"
        )
    return None


def _unshared(value: Any) -> Any:
    """Return a copy whose blocks are each their own: YAML gives an anchor's aliases one object.

    A copy by `deepcopy` would share them as well.
    """
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _assign(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = raw
    for depth, key in enumerate(parents):
        if not isinstance(node.get(key), dict):
            where = ".".join(parents[: depth + 1])
            raise ConfigError(f"--set {dotted}: {where} is not a block.{near_miss(key, node)}")
        node = node[key]
    if last not in node and parents[:1] != ["datasets"]:
        raise ConfigError(f"--set {dotted}: unknown key.{near_miss(last, node)}")
    node[last] = value


def _outrank(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Lay a changed `train.x` over the blocks' own `train.x` too: the command line wins."""
    section, *parents = dotted.split(".")
    if section != "train" or not parents:
        return
    last = parents.pop()
    for block in (b for kind in OWN_TRAIN for b in (raw.get(kind) or {}).values()):
        node = block.get("train") if isinstance(block, dict) else None
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            node[last] = value


def expand(path: str, base: Path) -> Path:
    """Resolve a path of params.yaml: a leading $NAME from the environment, else below `base`.

    Raises ConfigError when the variable is not set.
    """
    match = re.match(r"\$(\w+)", path)
    if match:
        value = os.environ.get(match[1])
        if not value:
            raise ConfigError(
                f"params.yaml: {path}: the environment variable {match[1]} is not set. "
                f"Set it to the folder that holds the data."
            )
        path = value + path[match.end() :]
    found = Path(path).expanduser()
    return found if found.is_absolute() else base / found


def cache_folder(base: Path) -> Path:
    """Return the prunable store beside DVC: $SPECTRAN_CACHE, or .cache below `base`."""
    return Path(os.environ.get("SPECTRAN_CACHE") or base / ".cache")


def save_every_s() -> float:
    """Return how often training keeps its state: $SPECTRAN_SAVE_EVERY_S, or every 10 seconds.

    Changes no result. Raises ConfigError for what is no number of seconds.
    """
    text = os.environ.get("SPECTRAN_SAVE_EVERY_S") or "10"
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ConfigError(
            f"SPECTRAN_SAVE_EVERY_S: {text} is no number of seconds. Allowed: 0 (after every "
            f"epoch) and more. Unset it, or write a number."
        )
    return float(text)
