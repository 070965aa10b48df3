"""What a search may try: the lists of params.yaml, read by the models that their keys belong to.

A configuration is a mapping of dotted keys to values. `train.KEY` is laid into the method's own
`train`, which outranks every other; the rest are the method's own keys.
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
from pipeline.config import Choice, Params, TrainConfig
from pipeline.errors import ConfigError, near_miss
from pipeline.naming import TRAIN, flat
from pipeline.strict import build

Configuration = Mapping[str, Choice]

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
    own = naming.settings("methods", method, params.methods)
    listed: dict[str, tuple[Choice, ...]] = {}
    mistakes: list[str] = []
    for where, lists, models in (
        ("tune.space", params.tune.space, [_Model(TRAIN, train)]),
        _own_lists(params, method, train, own),
    ):
        found, wrong = _read(where, lists, models)
        listed |= found
        mistakes += wrong
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    if not listed:
        raise ConfigError(
            f"params.yaml: tune: nothing may change for {method}. "
            f"List values in tune.space or tune.methods.{method}."
        )
    # Sorted, because the draws must not depend on the order of keys in params.yaml.
    listed = dict(sorted(listed.items()))
    present = _Model(TRAIN, train).values | _Model("", own).values
    return Space(listed, {key: present[key] for key in listed})


def mistakes(params: Params) -> Iterator[str]:
    """Yield what is wrong with `tune`, for every method that it names."""
    yield from _read("tune.space", params.tune.space, [_Model(TRAIN, params.train)])[1]
    for name in params.tune.methods:
        if name not in params.methods:
            yield (
                f"params.yaml: tune.methods.{name}: no such block in methods."
                f"{near_miss(name, params.methods)}"
            )
            continue
        try:
            own = naming.settings("methods", name, params.methods)
        except ConfigError:
            continue  # the block itself is wrong, and said to be where it stands
        yield from _read(*_own_lists(params, name, params.train, own))[1]


def lay(params: Params, method: str, configuration: Configuration) -> Params:
    """Return the parameters with a configuration in the method's block."""
    block = laid(params.methods[method], configuration)
    searched = tuple(f".{key}" for key in configuration if key.startswith(f"{TRAIN}."))
    # What the command line says for a data set would win over the block.
    left = {
        key: value
        for key, value in params.changes.items()
        if not (key.startswith("datasets.") and key.endswith(searched))
    }
    methods = {**params.methods, method: block}
    return params.model_copy(update={"methods": methods}).changed(left)


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


def _own_lists(
    params: Params, method: str, train: TrainConfig, own: BaseModel
) -> tuple[str, Mapping[str, Sequence[Choice]], list[_Model]]:
    """Return the method's own lists, else those of its file: where they stand, lists, models."""
    names = (method, naming.file_of("methods", method, params.methods))
    name = next((name for name in names if name in params.tune.methods), method)
    lists = params.tune.methods.get(name, {})
    return f"tune.methods.{name}", lists, [_Model("", own), _Model(TRAIN, train)]


def _read(
    where: str, lists: Mapping[str, Sequence[Choice]], models: Sequence[_Model]
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
