"""Spectral collapse in a card: cumulative spectra of the item vectors, kept and drawn.

Source: SpecTran, Figure 1. Differs: before and after training, one panel per table of vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.cells import Cell
from pipeline.reporting.card_analyses import KEY, collapse_rows
from pipeline.reporting.card_files import SPECTRA
from pipeline.reporting.charts import Series, axis, line_chart, thin
from pipeline.reporting.collapse import STATES, collapse_groups
from pipeline.reporting.pictures import Framed, line_key, picture
from pipeline.reporting.tables import Numbers

COLUMNS, WIDTH, HEIGHT = 3, 296, 150
"""Panels beside one another, and the size of one, px."""
POINTS = 40
"""Of a line; spectra-DATASET.parquet holds all."""
LINES = {line_key(f"s{n}"): f"{words} training" for n, words in enumerate(STATES.values())}
LINES[line_key("even")] = "all directions alike"
"""Keys of the legend -> their words."""


def gather_spectra(root: Path, cells: Iterable[tuple[Cell, Sequence[int]]]) -> pa.Table:
    """Return SPECTRA of cells and their seeds; nothing of those that were not measured.

    root: artifacts.
    """
    found = []
    for cell, seeds in cells:
        groups: dict[tuple[str, str, str], list[list[float]]] = {}
        for row in collapse_rows(root, cell, seeds):
            key = row["view"], row["part"], row["state"]
            groups.setdefault(key, []).append(row["cumulative"])
        for (view, part, state), curves in groups.items():
            told = [curve for curve in curves if curve]  # empty where all vectors are the same
            mean = [sum(values) / len(values) for values in zip(*told, strict=True)]
            where = {"cell": str(cell), "view": view, "part": part, "state": state}
            found.append({**where, "cumulative": mean})
    return pa.Table.from_pylist(found, schema=SPECTRA.schema)


def spectra_picture(
    numbers: Numbers, block: Mapping[str, Any], spectra: Sequence[Mapping[str, Any]]
) -> str:
    """Return the picture of a data set.

    block: of provenance.json; spectra: rows of SPECTRA.
    """
    kept = {
        (row["cell"], row["view"], row["part"], row["state"]): row["cumulative"] for row in spectra
    }
    rows = [
        {**Cell.parse(entry["cell"]).fields, **row, "cumulative": kept[where]}
        for entry in block["cells"]
        for row in entry.get(KEY, {}).get("collapse", [])
        if (where := (entry["cell"], row["view"], row["part"], row["state"])) in kept
    ]
    widest = max(len(row["cumulative"]) for row in rows)
    x = axis("direction", [1, widest], log=True, marks=_marks(widest))
    y = axis("cumulative share", [0, 1])
    panels = []
    for group in collapse_groups(numbers, rows):
        curves = {words: group.curve(state) for state, words in STATES.items()}
        width = max(map(len, curves.values()))
        even = [(n, n / width) for n in range(1, width + 1)]
        lines = [Series(words, tuple(thin(curve, POINTS))) for words, curve in curves.items()]
        lines.append(Series("even", tuple(thin(even, POINTS)), kind="even"))
        chart = line_chart(lines, x, y, group.name, WIDTH, HEIGHT)
        ranks = [group.mean(state, "effective_rank") for state in STATES]
        told = " to ".join("-" if rank is None else f"{rank:.1f}" for rank in ranks)
        panels.append(Framed(chart, WIDTH, HEIGHT, group.name, f"effective rank {told}"))
    name = f"{numbers.dataset}: cumulative share of the spread of item vectors over directions"
    return picture(name, panels, COLUMNS, LINES)


def not_kept(
    numbers: Numbers, block: Mapping[str, Any], spectra: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the labels of cells that the block measures and spectra lacks."""
    kept = {row["cell"] for row in spectra}
    return [
        numbers.label(Cell.parse(entry["cell"]))
        for entry in block["cells"]
        if entry.get(KEY, {}).get("collapse") and entry["cell"] not in kept
    ]


def _marks(widest: int) -> list[int]:
    """Return the powers of ten below a width, and the width."""
    powers = [10**n for n in range(len(str(widest)))]
    return [n for n in powers if 2 * n <= widest] + [widest]
