"""Charts as picture files: SVG documents that bring their own colours and a background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pipeline.reporting.charts import Panel, size_of

STYLE = Path(__file__).parent / "templates" / "charts.css"
MARGIN = 14
"""Around everything and between the panels, px."""
TITLE = 18
NOTE = 15
"""Heights of lines of text, px."""


def picture(name: str, panels: Sequence[Panel], columns: int, legend: Mapping[str, str]) -> str:
    """Return an SVG document of charts with their captions, side by side in columns.

    name: for those who cannot see it. legend: markup of a key 14 px wide and 10 px high -> its
    words, in one line below the charts. A row is as high as its highest chart.
    """
    sizes = [size_of(panel.svg) for panel in panels]
    across = max(width for width, _ in sizes) + MARGIN
    heights = [
        _top(panel) + height + MARGIN for panel, (_, height) in zip(panels, sizes, strict=True)
    ]
    parts, below = [], MARGIN
    for start in range(0, len(panels), columns):
        row = range(start, min(start + columns, len(panels)))
        for column, place in enumerate(row):
            parts.append(_placed(panels[place], MARGIN + column * across, below))
        below += max(heights[place] for place in row)
    x = MARGIN
    for key, words in legend.items():
        parts.append(f'<g transform="translate({x} {below})">{key}</g>')
        parts.append(_words(words, "tick", x + 20, below + 9))
        x += 20 + 6 * len(words) + MARGIN
    width, height = max(MARGIN + min(columns, len(panels)) * across, x), below + TITLE + MARGIN // 2
    style = STYLE.read_text(encoding="utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        f'<style>\n{style}</style><rect class="sheet" width="{width}" height="{height}"/>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def line_key(kind: str) -> str:
    """Return the key of a line; kind: its CSS classes."""
    return f'<polyline class="line {kind}" points="0,5 14,5"/>'


def dot_key(kind: str) -> str:
    """Return the key of a mean; kind: its CSS class."""
    return f'<circle class="mean {kind}" cx="7" cy="5" r="5"/>'


def _top(panel: Panel) -> int:
    """Return the height of the lines above a chart, px."""
    return TITLE * bool(panel.title) + NOTE * bool(panel.note)


def _placed(panel: Panel, x: int, y: int) -> str:
    """Return the lines and the chart at a place of the picture."""
    parts = []
    for words, kind, height in ((panel.title, "label", TITLE), (panel.note, "tick", NOTE)):
        if words:
            parts.append(_words(words, kind, x, y + height - 5))
            y += height
    width, height = size_of(panel.svg)
    parts.append(f'<svg x="{x}" y="{y}" width="{width}" height="{height}">{panel.svg}</svg>')
    return "".join(parts)


def _words(words: str, kind: str, x: int, y: int) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'
