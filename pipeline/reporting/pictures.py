"""Charts as picture files: SVG documents that bring their own colours and a background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = Path(__file__).parent / "templates" / "charts.css"
MARGIN = 14
"""Around everything and between the panels, px."""
TITLE = 18
NOTE = 15
"""Heights of lines of text, px."""


@dataclass(frozen=True)
class Framed:
    """A chart of a known size, px, with lines above it."""

    svg: str
    width: int
    height: int
    title: str = ""
    note: str = ""

    @property
    def top(self) -> int:
        """Height of the lines above the chart, px."""
        return TITLE * bool(self.title) + NOTE * bool(self.note)

    def at(self, x: int, y: int) -> str:
        """Return the lines and the chart at a place of the picture."""
        parts = []
        for words, kind, height in ((self.title, "label", TITLE), (self.note, "tick", NOTE)):
            if words:
                parts.append(_words(words, kind, x, y + height - 5))
                y += height
        size = f'width="{self.width}" height="{self.height}"'
        return "".join([*parts, f'<svg x="{x}" y="{y}" {size}>{self.svg}</svg>'])


def picture(name: str, charts: Sequence[Framed], columns: int, legend: Mapping[str, str]) -> str:
    """Return an SVG document of charts of one size, side by side in columns.

    name: for those who cannot see it. legend: markup of a key 14 px wide and 10 px high -> its
    words, in one line below the charts.
    """
    first = charts[0]
    across, down = first.width + MARGIN, first.top + first.height + MARGIN
    rows = -(-len(charts) // columns)
    below = MARGIN + rows * down
    parts = [
        chart.at(MARGIN + place % columns * across, MARGIN + place // columns * down)
        for place, chart in enumerate(charts)
    ]
    x = MARGIN
    for key, words in legend.items():
        parts.append(f'<g transform="translate({x} {below})">{key}</g>')
        parts.append(_words(words, "tick", x + 20, below + 9))
        x += 20 + 6 * len(words) + MARGIN
    width, height = max(MARGIN + min(columns, len(charts)) * across, x), below + TITLE + MARGIN // 2
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


def _words(words: str, kind: str, x: int, y: int) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'
