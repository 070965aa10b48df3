"""Spectral collapse: one chart and one table row per table of item vectors.

Source: SpecTran, Figure 1. Differs: before and after training, one chart per table of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.reporting.charts import Panel, Series, axis, line_chart, thin
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

LINES = {f"s{n}": f"{words} training" for n, words in enumerate(STATES.values())}
LINES["even"] = "all directions alike"
"""CSS class of a line -> its words."""

SIZE = 296, 150
"""Width and height of a chart, px."""

POINTS = 40
"""Of a line in a chart."""


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
    """Return the cumulative shares of every group, over shared axes."""
    widest = max([1, *(len(group.curve(state)) for group in groups for state in STATES)])
    x = axis("direction", [1, widest], log=True, marks=_marks(widest))
    y = axis("cumulative share", [0, 1])
    panels = []
    for group in groups:
        curves = [group.curve(state) for state in STATES]
        width = max(map(len, curves))
        curves.append(tuple((n, n / width) for n in range(1, width + 1)))
        lines = [
            Series(words, tuple(thin(curve, POINTS)), kind=kind)
            for (kind, words), curve in zip(LINES.items(), curves, strict=True)
        ]
        ranks = [group.mean(state, "effective_rank") for state in STATES]
        told = " to ".join("-" if rank is None else f"{rank:.1f}" for rank in ranks)
        chart = line_chart(lines, x, y, group.name, *SIZE)
        panels.append(Panel(group.name, chart, f"effective rank {told}"))
    return panels


def _marks(widest: int) -> list[int]:
    """Return the powers of ten below a width, and the width."""
    powers = [10**n for n in range(len(str(widest)))]
    return [n for n in powers if 2 * n <= widest] + [widest]


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
