"""Spectra of the text embeddings on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.charts import Panel, Series, axis, line_chart


def spectrum_views(stats: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the blocks of SPECTRUM_STATS that hold a list of numbers, by view."""
    return {
        str(name): block
        for name, block in stats["views"].items()
        if isinstance(block, Mapping) and any(_numbers(value) for value in block.values())
    }


def spectrum_charts(views: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """Return singular values (largest = 1, both axes logarithmic) and cumulative energy."""
    panels = []
    falling = {v: _find(block, "singular") for v, block in views.items()}
    rising = {v: _find(block, "energy") for v, block in views.items()}
    values = [
        Series(view, tuple((i + 1.0, s / found[0]) for i, s in enumerate(found)))
        for view, found in falling.items()
        if found and found[0] > 0
    ]
    energy = [
        Series(view, tuple((i + 1.0, e) for i, e in enumerate(found)))
        for view, found in rising.items()
        if found
    ]
    for title, lines, log in (
        ("Singular values, largest = 1", values, True),
        ("Cumulative share of energy", energy, False),
    ):
        if lines:
            x = axis("component", [a for one in lines for a, _ in one.points], log=True)
            y = axis(title, [b for one in lines for _, b in one.points], log=log, zero=not log)
            panels.append(Panel(title, line_chart(lines, x, y, title, 420, 240)))
    return panels


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    )


def _find(block: Mapping[str, Any], part: str) -> list[float]:
    for key, value in block.items():
        if part in str(key) and _numbers(value):
            return [float(v) for v in value]
    return []
