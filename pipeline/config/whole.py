"""The whole of params.yaml.

The blocks `methods` and `backbones` are typed by the modules of the same name and built only for
the cell that runs (`pipeline.naming`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, PrivateAttr

from pipeline.config.data import Preprocess, Source
from pipeline.config.evaluation import EvaluateConfig
from pipeline.config.numbers import Positive
from pipeline.config.text import AnyEncoder, Encoder, SpectrumConfig
from pipeline.config.training import TrainConfig, Tune
from pipeline.errors import ConfigError, near_miss
from pipeline.strict import Strict, build

BlockT = TypeVar("BlockT")


class Cells(Strict):
    """One group of cells: every backbone with every method."""

    backbone: list[str]
    method: list[str]


class TextCells(Cells):
    """One group of cells with item text: every encoder with every backbone and method."""

    encoder: list[str]


class Grid(Strict):
    """What `dvc repro` makes."""

    dataset: Annotated[list[str], Field(min_length=1)]
    encoder: Annotated[list[str], Field(min_length=1)]
    """Encoded and decomposed; the groups name which of them they train on."""
    text: TextCells
    """Trained methods that read item text."""
    plain: Cells
    """Trained methods without text; encoder `none`."""
    ablation: TextCells
    """As text, also for methods that name another one's file (`of`): variants of a method."""
    protocol: TextCells
    """As text, also for backbones with `of`: other losses, negatives, sizes."""
    protocol_plain: Cells
    """As plain, also for blocks with `of`."""
    control: TextCells
    """As text, on changed text: encoders with a `transform`."""
    baseline: Cells
    """Untrained methods without text; encoder and backbone `none`."""
    baseline_text: TextCells
    """Untrained methods with text; backbone `none`."""


class Download(Strict):
    """How files are fetched; changes no number."""

    mirror: str | None
    """Folder or URL tried instead of the publisher: MIRROR/DATASET/FILENAME."""
    retries: Annotated[int, Field(ge=0)]
    timeout_s: Positive
    """Seconds without a byte before an attempt ends."""
    max_unpacked_bytes: Positive
    """Archives that unpack to more are refused."""


class Dataset(Strict):
    """One data set, and what it changes in `train`."""

    source: Source
    preprocess: Preprocess
    train: dict[str, Any]
    """Values that replace those of `train` for this data set; {} for none."""


MEANINGLESS = ("permute", "same_spectrum")
"""Kinds of transform after which a row says nothing about its item."""


class Params(Strict):
    """params.yaml."""

    grid: Grid
    datasets: dict[str, Dataset]
    encoders: dict[str, Encoder]
    spectrum: SpectrumConfig
    backbones: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    train: TrainConfig
    tune: Tune
    evaluate: EvaluateConfig
    download: Download

    _changes: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def changes(self) -> Mapping[str, Any]:
        """What the command line laid over params.yaml: dotted key -> value."""
        return self._changes

    def changed(self, changes: Mapping[str, Any]) -> Params:
        """Return the same parameters, of which the command line is said to have laid `changes`."""
        copied = self.model_copy()
        copied._changes = dict(changes)
        return copied

    def dataset(self, name: str) -> Dataset:
        """Return the block of a data set. Raises ConfigError for an unknown name."""
        return _named(self.datasets, "datasets", name)

    def encoder(self, name: str) -> AnyEncoder:
        """Return the block of an encoder. Raises ConfigError for an unknown name."""
        return _named(self.encoders, "encoders", name)

    @property
    def transformed(self) -> frozenset[str]:
        """Encoders on changed text: what they score says nothing of what the text is worth."""
        return frozenset(name for name, block in self.encoders.items() if block.transform)

    @property
    def controls(self) -> dict[str, str]:
        """Encoders whose rows no longer belong to their items -> the encoder they are made from.

        Permuted rows and random ones of the same spectrum; an added common direction keeps what
        the titles say. The other encoder's block is the same without the transform.
        """
        plain = {name: _untransformed(e) for name, e in self.encoders.items() if not e.transform}
        return {
            name: base
            for name, encoder in self.encoders.items()
            if encoder.transform and encoder.transform.kind in MEANINGLESS
            for base, block in plain.items()
            if block == _untransformed(encoder)
        }

    def train_for(
        self, dataset: str, backbone: str | None = None, method: str | None = None
    ) -> TrainConfig:
        """Return `train` with the own values of a data set, a backbone and a method in place.

        The later named wins, and the command line's own for the data set win over all.
        Raises ConfigError when what comes out is not allowed.
        """
        values = _merge(self.train.model_dump(), self.dataset(dataset).train)
        where = f"datasets.{dataset}.train"
        for kind, name in (("backbones", backbone), ("methods", method)):
            own = getattr(self, kind).get(name, {}).get("train")
            if isinstance(own, Mapping) and own:
                if "monitor_k" in own:
                    raise ConfigError(
                        f"params.yaml: {kind}.{name}.train.monitor_k: all cells of a data set are "
                        f"stopped by the same curve. Set train.monitor_k, or "
                        f"datasets.{dataset}.train.monitor_k."
                    )
                values = _merge(values, own)
                where += f" and {kind}.{name}.train"
        prefix = f"datasets.{dataset}.train."
        for key, value in self.changes.items():
            if key.startswith(prefix):
                values = _merge(values, _nested(key.removeprefix(prefix), value))
        return build(TrainConfig, values, f"train (with {where})")

    def width_key(self, dataset: str, backbone: str, method: str) -> str:
        """Return the key of params.yaml that sets the width of a cell: the last in `train_for`."""
        if (key := f"datasets.{dataset}.train.width") in self.changes:
            return key
        blocks = (
            (f"methods.{method}", self.methods.get(method, {}).get("train")),
            (f"backbones.{backbone}", self.backbones.get(backbone, {}).get("train")),
            (f"datasets.{dataset}", self.dataset(dataset).train),
        )
        own = (
            f"{name}." for name, train in blocks if isinstance(train, Mapping) and "width" in train
        )
        return f"{next(own, '')}train.width"


def _untransformed(encoder: AnyEncoder) -> dict[str, Any]:
    return encoder.model_dump(exclude={"transform"})


def _named(blocks: Mapping[str, BlockT], section: str, name: str) -> BlockT:
    if name not in blocks:
        raise ConfigError(f"params.yaml: {section}.{name}: no such block.{near_miss(name, blocks)}")
    return blocks[name]


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    first, _, rest = dotted.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes over a mapping; a block with another `name` (of a loss) replaces the old one."""
    if changes.get("name", base.get("name")) != base.get("name"):
        return dict(changes)
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
