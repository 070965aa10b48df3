"""The parts of a cell: the code behind its names, put together, refused where they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pipeline import naming
from pipeline.cells import NONE, Cell, unlisted_view
from pipeline.config import Params, TrainConfig
from pipeline.errors import ConfigError
from pipeline.experiment.inputs import CellInputs
from pipeline.model import Backbone, Inputs, Method, MethodConfig, Objective, Parts, Untrained
from pipeline.objectives.ranking import ranking_loss


def code_of(kind: str, name: str, blocks: Mapping[str, dict[str, Any]]) -> ModuleType:
    """Return the module that a block of methods or backbones names."""
    return naming.module(kind, naming.file_of(kind, name, blocks))


def builder(
    found: ModuleType,
    encoder_code: ModuleType,
    method: MethodConfig,
    backbone: MethodConfig,
    inputs: Inputs,
    train: TrainConfig,
    width_key: str,
) -> Callable[[], Method | Untrained]:
    """Return what puts the cell's parts together; every call draws new initial values."""

    def sequence_encoder(width: int) -> Backbone:
        key = width_key if width == train.width else f"a part of {width_key} {train.width}"
        built = encoder_code.build(backbone, width, train.dropout, key)
        assert isinstance(built, Backbone)
        return built

    def ranking() -> Objective:
        return ranking_loss(train.loss, inputs.sequences.train_counts())

    parts = Parts(train, sequence_encoder, ranking, width_key)

    def build() -> Method | Untrained:
        made = found.build(method, inputs, parts)
        assert isinstance(made, Method | Untrained)
        return made

    return build


def refuse_absent_times(cell: Mapping[str, str], backbone: Backbone, inputs: CellInputs) -> None:
    """Raise ConfigError when the backbone reads times that the data set does not have."""
    if backbone.reads_times and inputs.sequences.times is None:
        raise ConfigError(
            f"params.yaml: backbones.{cell['backbone']} reads the times of events, but data set "
            f"{cell['dataset']} has no times: its log knows only an order, or misses the time of "
            "some event. Turn the setting off that reads times, or use another backbone."
        )


def refuse_unlisted_views(params: Params, cell: Mapping[str, str], needs: tuple[str, ...]) -> None:
    """Raise ConfigError when the cell reads a view of the spectrum that `spectran spectrum` skips.

    The command that a missing file names would then not make it.
    """
    for view in naming.views(needs):
        if view not in params.spectrum.views:
            raise ConfigError(unlisted_view(view, params.spectrum.views, [Cell(**cell)]))


def refuse_misfit(params: Params, cell: Mapping[str, str], reads_text: bool, trained: bool) -> None:
    """Raise ConfigError unless method, encoder and backbone belong together."""
    encoder, backbone = cell["encoder"], cell["backbone"]
    if reads_text and encoder != NONE:
        params.encoder(encoder)
    mistakes = []
    if reads_text and encoder == NONE:
        mistakes.append(f"reads item text: name an encoder instead of `{NONE}`")
        encoder = next(iter(params.encoders), "ENCODER")
    elif not reads_text and encoder != NONE:
        mistakes.append(f"reads no text, so its encoder is `{NONE}`, found {encoder}")
        encoder = NONE
    if trained and backbone == NONE:
        mistakes.append(f"is trained: name a backbone instead of `{NONE}`")
        # One that the grid trains is likelier meant than the first in the file.
        known = [*params.grid.plain.backbone, *params.grid.text.backbone, *params.backbones]
        backbone = next((name for name in known if name != NONE), "BACKBONE")
    elif not trained and backbone != NONE:
        mistakes.append(f"is not trained, so its backbone is `{NONE}`, found {backbone}")
        backbone = NONE
    if mistakes:
        command = f"spectran train {cell['dataset']} {encoder} {backbone} {cell['method']}"
        raise ConfigError(f"methods.{cell['method']} {', and '.join(mistakes)}. Run: {command}")
