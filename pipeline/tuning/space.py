"""What a search may try: the lists of params.yaml, read by the models that their keys belong to.

A configuration is a mapping of dotted keys to values. `train.KEY` is laid into the method's own
`train`, which outranks every other; `backbone.KEY` into the block of the backbone; the rest are the
method's own keys.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from pipeline import naming
from pipeline.config import Choice, Params
from pipeline.errors import ConfigError, near_miss
from pipeline.naming import TRAIN, flat
from pipeline.strict import build

Configuration = Mapping[str, Choice]
Lists = Mapping[str, Sequence[Choice]]

BACKBONE = "backbone"
"""First part of the keys that belong to the backbone; no method has a key of this name."""

FIXED = {
    "train.seeds": "every trial uses tune.train_seed",
    "train.monitor_k": "it decides what trials are judged by",
    "train.max_epochs": "every trial may take equally long",
    "train.patience": "every trial may take equally long",
    "train.threads": "it changes no setting of a method",
}
"""Values of `train` that must be the same for all trials, and why."""


@dataclass(frozen=True)
class Space:
    """All combinations of the listed values, and of the present ones where they are not listed."""

    listed: Mapping[str, tuple[Choice, ...]]
    first: Configuration
    """The present values: the first trial."""

    @cached_property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Key -> its values; a present value that is not listed comes last."""
        return {
            key: values if self.first[key] in values else (*values, self.first[key])
            for key, values in self.listed.items()
        }

    @property
    def size(self) -> int:
        """Number of configurations."""
        return math.prod(len(values) for values in self.choices.values())

    def at(self, index: int) -> dict[str, Choice]:
        """Return the configuration of an index in [0, size)."""
        found = {}
        for key, values in self.choices.items():
            index, place = divmod(index, len(values))
            found[key] = values[place]
        return found

    def index(self, configuration: Configuration) -> int:
        """Return the index of a configuration. Raises ValueError when it is not in the space."""
        index = 0
        for key, values in reversed(self.choices.items()):
            index = index * len(values) + values.index(configuration[key])
        return index


def space_for(params: Params, dataset: str, backbone: str, method: str) -> Space:
    """Return what may be tried for a method. Raises ConfigError listing every mistake."""
    train = params.train_for(dataset, backbone, method)
    shared = _Model(TRAIN, train)
    own = _Model("", naming.settings("methods", method, params.methods))
    encoder = _Model("", naming.settings("backbones", backbone, params.backbones))
    listed: dict[str, tuple[Choice, ...]] = {}
    mistakes: list[str] = []
    for prefix, where, lists, models in (
        ("", "tune.space", params.tune.space, [shared]),
        ("", *_own_lists(params, "methods", method), [own, shared]),
        (f"{BACKBONE}.", *_backbone_lists(params, backbone), [encoder]),
    ):
        found, wrong = _read(where, lists, models)
        listed |= {f"{prefix}{key}": values for key, values in found.items()}
        mistakes += wrong
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    if not listed:
        raise ConfigError(
            f"params.yaml: tune: nothing may change for {method}. "
            f"List values in tune.space, tune.methods.{method} or tune.backbones.{backbone}."
        )
    # Sorted, because the draws must not depend on the order of keys in params.yaml.
    listed = dict(sorted(listed.items()))
    present = shared.values | own.values
    present |= {f"{BACKBONE}.{key}": value for key, value in encoder.values.items()}
    return Space(listed, {key: present[key] for key in listed})


def mistakes(params: Params) -> Iterator[str]:
    """Yield what is wrong with `tune`, for every method and backbone that it names."""
    shared = _Model(TRAIN, params.train)
    yield from _read("tune.space", params.tune.space, [shared])[1]
    for kind, further in (("methods", [shared]), ("backbones", [])):
        blocks = getattr(params, kind)
        for name, lists in getattr(params.tune, kind).items():
            where = f"tune.{kind}.{name}"
            if name not in blocks:
                yield f"params.yaml: {where}: no such block in {kind}.{near_miss(name, blocks)}"
                continue
            try:
                own = naming.settings(kind, name, blocks)
            except ConfigError:
                continue  # the block itself is wrong, and said to be where it stands
            yield from _read(where, lists, [_Model("", own), *further])[1]


def area(key: str) -> tuple[str, str]:
    """Return the part of a cell that a key belongs to (train, backbone, method), and the key there.

    The parts have the names that they have in the identity of a cell.
    """
    first, _, rest = key.partition(".")
    return (first, rest) if first in (TRAIN, BACKBONE) else ("method", key)


def parted(configuration: Configuration) -> tuple[dict[str, Choice], dict[str, Choice]]:
    """Return what goes into the method's block, `train` included, and into the backbone's."""
    method: dict[str, Choice] = {}
    backbone: dict[str, Choice] = {}
    for key, value in configuration.items():
        part, own = area(key)
        if part == BACKBONE:
            backbone[own] = value
        else:
            method[key] = value
    return method, backbone


def lay(params: Params, backbone: str, method: str, configuration: Configuration) -> Params:
    """Return the parameters with a configuration in the blocks of the method and the backbone."""
    of_method, of_backbone = parted(configuration)
    searched = tuple(f".{key}" for key in configuration if key.startswith(f"{TRAIN}."))
    # What the command line says for a data set would win over the block.
    left = {
        key: value
        for key, value in params.changes.items()
        if not (key.startswith("datasets.") and key.endswith(searched))
    }
    changed = {
        "methods": {**params.methods, method: laid(params.methods[method], of_method)},
        "backbones": {**params.backbones, backbone: laid(params.backbones[backbone], of_backbone)},
    }
    return params.model_copy(update=changed).changed(left)


def laid(block: Mapping[str, Any], configuration: Configuration) -> dict[str, Any]:
    """Return a copy of nested mappings with dotted keys set."""
    changed: dict[str, Any] = copy.deepcopy(dict(block))
    for key, value in configuration.items():
        *parents, last = key.split(".")
        node = changed
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return changed


class _Model:
    """A model that keys belong to, under a prefix, at its present values."""

    def __init__(self, prefix: str, present: BaseModel) -> None:
        self.prefix = prefix
        self.kind = type(present)
        self.block = present.model_dump(mode="json")
        self.values: dict[str, Choice] = flat(self.block, prefix)

    def read(self, where: str, key: str, value: Choice) -> Choice:
        """Return a value as the model holds it. Raises ConfigError when it is not allowed."""
        inner = key.removeprefix(f"{self.prefix}.") if self.prefix else key
        where = f"{where}.{self.prefix}" if self.prefix else where
        built = build(self.kind, laid(self.block, {inner: value}), where)
        held: Choice = flat(built.model_dump(mode="json"), self.prefix)[key]
        return held


def _own_lists(params: Params, kind: str, name: str) -> tuple[str, Lists]:
    """Return the own lists of a method or backbone, else those of its file; where they stand."""
    listed: Mapping[str, Lists] = getattr(params.tune, kind)
    names = (name, naming.file_of(kind, name, getattr(params, kind)))
    found = next((name for name in names if name in listed), name)
    return f"tune.{kind}.{found}", listed.get(found, {})


def _backbone_lists(params: Params, backbone: str) -> tuple[str, Lists]:
    """Return the lists of a backbone as `_own_lists`; a variant keeps the keys it itself changes.

    With another rho bert4rec_rho_20 would not be what its name says, and no choice could be written
    by way of a variant.
    """
    where, lists = _own_lists(params, "backbones", backbone)
    if backbone in params.tune.backbones:
        return where, lists
    kept = naming.changes("backbones", backbone, params.backbones)
    return where, {k: values for k, values in lists.items() if k.partition(".")[0] not in kept}


def _read(
    where: str, lists: Lists, models: Sequence[_Model]
) -> tuple[dict[str, tuple[Choice, ...]], list[str]]:
    """Return the lists as the models hold their values, and what is wrong with them."""
    where = f"params.yaml: {where}"
    found: dict[str, tuple[Choice, ...]] = {}
    wrong: list[str] = []
    known = {key: model for model in models for key in model.values if key not in FIXED}
    for key, values in lists.items():
        if key in FIXED:
            wrong.append(f"{where}: {key}: cannot be searched: {FIXED[key]}. Remove it.")
            continue
        if key not in known:
            wrong.append(f"{where}: {key}: unknown key.{near_miss(key, known)}")
            continue
        held: list[Choice] = []
        for value in values:
            try:
                held.append(known[key].read(where, key, value))
            except ConfigError as error:
                wrong += str(error).splitlines()
        if len(set(held)) < len(held):
            wrong.append(f"{where}: {key}: a value is listed twice. Remove one of them.")
        found[key] = tuple(held)
    return found, wrong
