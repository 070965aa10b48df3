"""Cells put together as far as that goes without data: what they refuse is known before a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import torch

from pipeline import naming
from pipeline.cells import NONE, Cell
from pipeline.checks.standin import StandIn
from pipeline.checks.traits import reads_text
from pipeline.config import Params
from pipeline.errors import ConfigError, DataError
from pipeline.experiment.parts import builder, code_of

WIDEST = 1024
"""Of wider cells only the backbone is tried: a whole one would take seconds and gigabytes."""


def refusals(params: Params, cells: Iterable[Cell]) -> Iterator[str]:
    """Yield, once each, what is wrong with cells' values of `train`, and sizes that do not fit.

    Every method is built once per backbone, size of the text and place where the width is set, on
    the CPU and on a few random items. Blocks that are missing or cannot be read, and methods beside
    no encoder or one that they do not read, are left to others to tell; what only the data can tell
    to the run.
    """
    said: dict[str, None] = {}
    built: set[tuple[str, str, int, int, str]] = set()
    for cell in cells:
        try:
            width = cell.train(params).width
            key = params.width_key(cell.dataset, cell.backbone, cell.method)
            encoder = params.encoders.get(cell.encoder)
            columns = encoder.width if encoder else 0
            place = (cell.method, cell.backbone, columns, width, key)
            possible = bool(encoder) == bool(reads_text(params, cell.method))
            if cell.trained and possible and place not in built:
                built.add(place)
                _build(params, cell, columns, key)
        except ConfigError as error:
            said |= dict.fromkeys(str(error).splitlines())
    yield from said


def _placed(line: str, cell: Cell) -> str:
    """Return what a cell refuses, with the blocks that it is about where they are not named."""
    if line.startswith("params.yaml:"):
        return line
    text = "" if cell.encoder == NONE else f" with encoders.{cell.encoder}"
    return f"params.yaml: methods.{cell.method}{text}: {line}"


def _build(params: Params, cell: Cell, columns: int, key: str) -> None:
    """Build a cell and drop it. Raises ConfigError when its sizes do not fit each other.

    Of a cell wider than WIDEST it builds the backbone alone, and that without numbers.
    """
    try:
        method = naming.settings("methods", cell.method, params.methods)
        backbone = naming.settings("backbones", cell.backbone, params.backbones)
    except ConfigError:
        return  # told where every block is read, be it in the grid or not
    found = code_of("methods", cell.method, params.methods)
    encoder = code_of("backbones", cell.backbone, params.backbones)
    if not (hasattr(found, "build") and hasattr(encoder, "build")):
        return
    train = cell.train(params)
    if train.width > WIDEST:
        with torch.device("meta"):  # sizes without numbers
            encoder.build(backbone, train.width, train.dropout, key)
        return
    inputs = StandIn(columns, train.width)
    try:
        with torch.random.fork_rng(devices=()), suppress(DataError):
            builder(found, encoder, method, backbone, inputs, train, key)()
    except ConfigError as error:
        raise ConfigError("\n".join(_placed(x, cell) for x in str(error).splitlines())) from None
