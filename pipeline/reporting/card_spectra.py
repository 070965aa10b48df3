"""Spectral collapse in a card: cumulative spectra of the item vectors, kept and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.cells import Cell
from pipeline.reporting.card_analyses import KEY, collapse_rows
from pipeline.reporting.card_files import SPECTRA
from pipeline.reporting.collapse import LINES, STATES, Group, collapse_charts, collapse_groups
from pipeline.reporting.pictures import line_key, picture
from pipeline.reporting.tables import Numbers

COLUMNS = 3
"""Charts beside one another."""


def gather_spectra(root: Path, cells: Iterable[tuple[Cell, Sequence[int]]]) -> pa.Table:
    """Return SPECTRA of cells and their seeds; nothing of those that were not measured.

    root: artifacts.
    """
    found = []
    for cell, seeds in cells:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in collapse_rows(root, cell, seeds):
            groups.setdefault((row["view"], row["part"]), []).append(row)
        for (view, part), rows in groups.items():
            for state in STATES:
                mean = [share for _, share in Group(view, rows).curve(state)]
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
    panels = collapse_charts(collapse_groups(numbers, rows))
    legend = {line_key(kind): words for kind, words in LINES.items()}
    name = f"{numbers.dataset}: cumulative share of the spread of item vectors over directions"
    return picture(name, panels, COLUMNS, legend)


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
