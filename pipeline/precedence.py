"""Whose values of `train` a cell uses: those that a data set writes in vain.

From weak to strong: `train`, the data set's block, the backbone's, the method's, `--set`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.cells import Cell
from pipeline.config import Params, TrainConfig
from pipeline.naming import TRAIN, flat


def outranked(params: Params, cell: Cell) -> dict[str, tuple[str, Any]]:
    """Return the values of its data set's `train` that a cell does not use.

    Dotted key below the data set -> the block whose value it uses instead, and that value. Raises
    ConfigError when the values of the cell are not allowed.
    """
    if not cell.trained:
        return {}
    said = _values(params.train_for(cell.dataset))
    used = _values(cell.train(params))
    by_method = _values(params.train_for(cell.dataset, method=cell.method))
    found = {}
    for key in flat(params.dataset(cell.dataset).train, TRAIN):
        # A loss of another name has other keys.
        if used.get(key) != said.get(key):
            own = by_method.get(key) != said.get(key)
            block = f"methods.{cell.method}" if own else f"backbones.{cell.backbone}"
            found[key] = f"{block}.{TRAIN}", used.get(key)
    return found


def warnings(params: Params, cells: Iterable[Cell]) -> Iterator[str]:
    """Yield a line for every value of a data set that some of these cells do not use."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for key, (block, value) in outranked(params, cell).items():
            found.setdefault(f"datasets.{cell.dataset}.{key}", {})[block] = value
    for key, blocks in found.items():
        named = ", ".join(f"{block} ({value})" for block, value in blocks.items())
        yield f"params.yaml: {key} is outranked by {named}. Change it there, or take it out there."


def _values(train: TrainConfig) -> dict[str, Any]:
    return flat(train.model_dump(mode="json"), TRAIN)
