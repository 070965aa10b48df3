"""Cells put together as far as that goes without data: what they refuse is known before a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline import naming
from pipeline.cells import Cell
from pipeline.config import Params
from pipeline.errors import ConfigError


def refusals(params: Params, cells: Iterable[Cell]) -> Iterator[str]:
    """Yield, once each, what is wrong with cells' values of `train`, and sizes that do not fit.

    A backbone is built once per width and place where the width is set, on the CPU: that takes
    milliseconds. Blocks that are missing or cannot be read are left to others to tell.
    """
    said: dict[str, None] = {}
    built: set[tuple[str, int, str]] = set()
    for cell in cells:
        try:
            train = cell.train(params)
            key = params.width_key(cell.dataset, cell.backbone, cell.method)
            place = (cell.backbone, train.width, key)
            if cell.trained and place not in built:
                built.add(place)
                _backbone(params, cell.backbone, train.width, train.dropout, key)
        except ConfigError as error:
            said |= dict.fromkeys(str(error).splitlines())
    yield from said


def _backbone(params: Params, name: str, width: int, dropout: float, key: str) -> None:
    """Build a backbone and drop it. Raises ConfigError when its sizes do not fit the width."""
    try:
        config = naming.settings("backbones", name, params.backbones)
    except ConfigError:
        return  # told where every block is read, be it in the grid or not
    found = naming.module("backbones", naming.file_of("backbones", name, params.backbones))
    if hasattr(found, "build"):
        found.build(config, width, dropout, key)
