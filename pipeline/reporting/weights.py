"""What spectral attention learned, from the curves: SpecTran's Table 6 and the polynomial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.cells import Cell
from pipeline.reporting.tables import Numbers

COLUMNS = {
    "principal": "principal",
    "subordinate": "subordinate",
    "shrink": "lambda",
    "zeros": "exact zeros",
    "std_text": "std of text",
    "std_id": "std of IDs",
}
"""Curve -> title of its column."""

COEFFICIENT = "position_"
"""Curves of the polynomial's coefficients start so."""


def at_best(rows: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, float]:
    """Return every curve's value at the epoch of the best `monitor` value (the first such one)."""
    best = max(
        (row for row in rows if row["name"] == monitor),
        key=lambda row: (row["value"], -row["epoch"]),
    )
    same = (r for r in rows if (r["epoch"], r["phase"]) == (best["epoch"], best["phase"]))
    return {row["name"]: row["value"] for row in same}


def weights_table(
    numbers: Numbers,
    curves: Mapping[Cell, Mapping[int, Sequence[Mapping[str, Any]]]],
    monitor: str,
) -> list[dict[str, str]]:
    """Return one row per cell with spectral weights: means over seeds in their best states."""
    cells = {
        cell: [at_best(rows, monitor) for rows in seeds.values()] for cell, seeds in curves.items()
    }
    cells = {cell: found for cell, found in cells.items() if all("principal" in f for f in found)}
    powers = sorted(
        {n for found in cells.values() for f in found for n in f if n.startswith(COEFFICIENT)},
        key=lambda name: int(name.removeprefix(COEFFICIENT)),
    )
    titles = COLUMNS | {name: f"a{name.removeprefix(COEFFICIENT)}" for name in powers}
    table = []
    for cell, found in cells.items():
        row = {"cell": numbers.label(cell)}
        for name, title in titles.items():
            values = [f[name] for f in found if name in f]
            row[title] = f"{fmean(values):.4g}" if values else "-"
        table.append(row)
    return table
