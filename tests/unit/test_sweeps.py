"""Which cells are one method at several widths."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cells import Cell
from pipeline.reporting.tables import Numbers
from pipeline.reporting.widths import sweeps

NAMES = ("sasrec", "sasrec_d64")


def found(first: dict[str, Any], second: dict[str, Any]) -> list[list[int]]:
    """Return the widths of every sweep of two cells; given: what made their ranks."""
    rows = [{"encoder": "minilm", "backbone": name, "method": "svd"} for name in NAMES]
    made = {
        str(Cell("shop", "minilm", name, "svd")): {"params": params}
        for name, params in zip(NAMES, (first, second), strict=True)
    }
    files = dict.fromkeys(NAMES, "sasrec")
    return [list(sweep.cells) for sweep in sweeps(Numbers("shop", rows, [], 0.05), made, files)]


def made(width: int, **changes: Any) -> dict[str, Any]:
    train = {"width": width, "learning_rate": 1e-3, "weight_decay": 0.0}
    params: dict[str, Any] = {"method": {"scale": 1.0}, "backbone": {"blocks": 2}, "train": train}
    for key, value in changes.items():
        part = next(block for block in params.values() if key in block)
        part[key] = value
    return params


def test_cells_that_differ_in_their_width_alone_are_a_sweep() -> None:
    assert found(made(64), made(16)) == [[16, 64]]
    assert found(made(64), made(64)) == []


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay", "blocks", "scale"])
def test_another_setting_parts_them(key: str) -> None:
    assert found(made(64), made(16, **{key: 3})) == []
