"""Spectral collapse on the page: one line and one table row per table of item vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.reporting.charts import Panel, Series, axis, line_chart
from pipeline.reporting.tables import Numbers, cell_of

STATES = {"initial": "before", "trained": "after"}
"""State in COLLAPSE -> its word on the page."""

PARTS = {"semantic": "text part", "table": "whole vectors"}
"""Part in COLLAPSE -> its words on the page."""

STATISTICS = {
    "top_10": ("top 10", "{:.1%}"),
    "effective_rank": ("effective rank", "{:.1f}"),
    "participation_ratio": ("participation ratio", "{:.1f}"),
}
"""Column of COLLAPSE -> its title and its format."""


@dataclass(frozen=True)
class Group:
    """The rows of COLLAPSE about one part of one view of one cell, over states and seeds."""

    name: str
    rows: Sequence[Mapping[str, Any]]

    def mean(self, state: str, statistic: str) -> float | None:
        """Return the mean over seeds; None where no seed has a value."""
        values = [row[statistic] for row in self._of(state) if row[statistic] is not None]
        return fmean(values) if values else None

    def curve(self, state: str) -> tuple[tuple[float, float], ...]:
        """Return (direction, mean cumulative share over seeds)."""
        curves = [row["cumulative"] for row in self._of(state) if row["cumulative"]]
        return tuple((i + 1.0, fmean(v)) for i, v in enumerate(zip(*curves, strict=True)))

    def _of(self, state: str) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["state"] == state]


def collapse_groups(numbers: Numbers, rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Return what was measured of every cell, in the order of the grid.

    A cell of several views, or a view of several parts, says in its name which one it is.
    """
    found: dict[int, dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    cells = numbers.cells
    for row in rows:
        own = found.setdefault(cells.index(cell_of(numbers.dataset, row)), {})
        own.setdefault((row["view"], row["part"]), []).append(row)
    groups = []
    for place, own in sorted(found.items()):
        views = [view for view, _ in own]
        for (view, part), measured in own.items():
            name = numbers.label(cells[place])
            name += f", {view}" if len(set(views)) > 1 else ""
            name += f", {PARTS[part]}" if views.count(view) > 1 else ""
            groups.append(Group(name, measured))
    return groups


def collapse_charts(groups: Sequence[Group]) -> list[Panel]:
    """Return the cumulative shares before and after training, over shared axes."""
    charts = {
        words: [Series(group.name, group.curve(state)) for group in groups]
        for state, words in STATES.items()
    }
    points = [point for lines in charts.values() for one in lines for point in one.points]
    x = axis("direction", [a for a, _ in points], log=True)
    y = axis("cumulative share", [b for _, b in points], zero=True)
    panels = []
    for words, lines in charts.items():
        title = f"Cumulative share of the spread, {words} training"
        panels.append(Panel(title, line_chart(lines, x, y, title, 420, 240)))
    return panels


def collapse_table(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Return one row per group: what was measured, and each statistic before and after."""
    table = []
    for group in groups:
        first = group.rows[0]
        row = {"vectors": group.name, "measured": PARTS[first["part"]], "D": str(first["width"])}
        for statistic, (title, form) in STATISTICS.items():
            for state, words in STATES.items():
                value = group.mean(state, statistic)
                row[f"{title} {words}"] = "-" if value is None else form.format(value)
        table.append(row)
    return table
