"""Named points with intervals as inline SVG, their names beside the chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipeline.reporting.charts import BOTTOM, TOP, Axis, Frame, opening

NAME_HEIGHT = 15
"""Line height of the names, px."""


@dataclass(frozen=True)
class Mark:
    """One named point with an interval of y."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    kind: str
    """CSS class: text, plain or baseline."""


def mark_chart(marks: Sequence[Mark], x: Axis, y: Axis, name: str) -> str:
    """Return named points; the names stand at the right in the order of their points."""
    longest = max((len(mark.name) for mark in marks), default=0)
    right = min(30 + 7 * longest, 230)
    width, height = 300 + right, max(240, TOP + BOTTOM + NAME_HEIGHT * len(marks))
    frame = Frame(x, y, width, height, right)
    parts = [opening(width, height, name), *frame.parts()]
    ordered = sorted(marks, key=lambda mark: (-mark.y, mark.name))
    heights = spread([frame.down(mark.y) for mark in ordered], height - BOTTOM)
    end = width - right
    for mark, label in zip(ordered, heights, strict=True):
        at_x, at_y, kind = frame.px(mark.x), frame.py(mark.y), escape(mark.kind)
        parts.append(
            f'<polyline class="leader" points="{at_x},{at_y} {end},{label:.1f} '
            f'{end + 8},{label:.1f}"/>'
            f'<text class="label" x="{end + 12}" y="{label:.1f}" dy="4">{escape(mark.name)}</text>'
        )
        if mark.low is not None and mark.high is not None:
            low, high = frame.py(max(mark.low, y.low)), frame.py(mark.high)
            parts.append(
                f'<line class="whisker {kind}" x1="{at_x}" x2="{at_x}" y1="{low}" y2="{high}"/>'
            )
        parts.append(f'<circle class="mean {kind}" cx="{at_x}" cy="{at_y}" r="4"/>')
    return "".join([*parts, "</svg>"])


def spread(heights: Sequence[float], lowest: float) -> list[float]:
    """Return ascending heights, moved as needed so that names do not cover each other, px."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + NAME_HEIGHT) if placed else height)
    limit = lowest
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - NAME_HEIGHT
    return placed
