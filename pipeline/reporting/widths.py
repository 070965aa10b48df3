"""Width of the item vectors: cells that differ in nothing else, as a table and one line each.

Source: SpecTran, Table 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cells import NONE, Cell
from pipeline.reporting.charts import Panel, Series, axis, line_chart
from pipeline.reporting.tables import Numbers, cell_of, column_title, number

COLUMNS = (
    "dataset", "encoder", "backbone", "method", "width", "metric", "k", "users", "seeds",
    "mean", "deviation", "low", "high",
)  # fmt: skip
"""Of widths.csv; backbone: the file that all widths share."""


@dataclass(frozen=True)
class Sweep:
    """The cells of one method at several widths."""

    name: str
    backbone: str
    """File of the backbone."""
    cells: Mapping[int, Cell]
    """Width -> cell, ascending."""


def sweeps(
    numbers: Numbers, provenance: Mapping[str, Any], files: Mapping[str, str]
) -> list[Sweep]:
    """Return what was run at two widths or more, in the order of the grid.

    provenance: cell -> what made its ranks; files: backbone -> the file that reads its block.
    Cells belong together when file, encoder, method and all settings but the width are the same;
    the number of seeds may differ.
    """
    found: dict[tuple[str, ...], dict[int, Cell]] = {}
    for cell in numbers.cells:
        made = provenance[str(cell)]["params"]
        if not cell.trained:
            continue
        train = {name: value for name, value in made["train"].items() if name != "width"}
        same = json.dumps([made["method"], made["backbone"], train], sort_keys=True)
        key = (files[cell.backbone], cell.encoder, cell.method, same)
        # Two blocks of one width have the same numbers; the first stands for both.
        found.setdefault(key, {}).setdefault(made["train"]["width"], cell)
    several = {key: cells for key, cells in found.items() if len(cells) > 1}
    return [
        Sweep(_name(key, several), key[0], dict(sorted(cells.items())))
        for key, cells in several.items()
    ]


def _name(key: tuple[str, ...], several: Iterable[tuple[str, ...]]) -> str:
    """Return the method, with encoder, file and what else tells it from others of that method."""
    backbone, encoder, method, _ = key
    same = [other for other in several if other[2] == method]
    rest = [encoder] if encoder != NONE and len({other[1] for other in same}) > 1 else []
    if len({other[0] for other in same}) > 1:
        rest.append(backbone)
    alike = [other for other in same if other[:2] == key[:2]]
    if len(alike) > 1:
        rest.append(f"settings {alike.index(key) + 1}")
    return f"{method} ({', '.join(rest)})" if rest else method


def sweep_chart(numbers: Numbers, found: Sequence[Sweep]) -> Panel:
    """Return NDCG at the main cut-off with intervals against the width."""
    values = dict(zip(numbers.cells, numbers.column("ndcg", numbers.main_k), strict=True))
    lines = []
    for sweep in found:
        known = [(float(w), values[cell]) for w, cell in sweep.cells.items()]
        points = tuple((w, value.mean) for w, value in known if value.mean is not None)
        intervals = tuple(
            (w, value.low, value.high)
            for w, value in known
            if value.low is not None and value.high is not None
        )
        lines.append(Series(sweep.name, points, intervals=intervals))
    title = f"{column_title('ndcg', numbers.main_k)} against the width of the item vectors"
    widths = sorted({w for line in lines for w, _ in line.points})
    ends = [b for line in lines for _, low, high in line.intervals for b in (low, high)]
    x = axis("width", widths, log=True, marks=widths)
    y = axis(title, ends + [m for line in lines for _, m in line.points], zero=True)
    return Panel(title, line_chart(lines, x, y, title, 460, 260))


def sweep_table(numbers: Numbers, found: Sequence[Sweep]) -> list[dict[str, str]]:
    """Return one row per method, one column per width."""
    values = dict(zip(numbers.cells, numbers.column("ndcg", numbers.main_k), strict=True))
    widths = sorted({width for sweep in found for width in sweep.cells})
    table = []
    for sweep in found:
        row = {"method": sweep.name}
        for width in widths:
            value = values[sweep.cells[width]] if width in sweep.cells else None
            text = number(value.mean if value else None)
            if value is not None and value.low is not None:
                text += f" [{number(value.low)}, {number(value.high)}]"
            row[str(width)] = text
        table.append(row)
    return table


def sweep_rows(numbers: Numbers, found: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Return every metric of the test users at every width, for widths.csv."""
    places = {cell: (sweep, width) for sweep in found for width, cell in sweep.cells.items()}
    rows = []
    for row in numbers.metrics:
        cell = cell_of(numbers.dataset, row)
        if cell in places and (row["split"], row["slice"]) == ("test", "all"):
            sweep, width = places[cell]
            own = {"dataset": numbers.dataset, "backbone": sweep.backbone, "width": width}
            rows.append({name: own.get(name, row.get(name)) for name in COLUMNS})
    return rows
