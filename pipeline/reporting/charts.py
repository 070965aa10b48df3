"""Line and interval charts as inline SVG: text stays text, colours come from the page's CSS.

Coordinates have one decimal, so equal numbers give equal bytes everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
"""Margins of a line chart, px."""

ROW = 25
"""Height of a row of an interval chart, px."""

DODGE = 4
"""Distance of neighbouring intervals at the same x, px."""

MAX_POINTS = 160
"""Longer series are thinned; a chart is a few hundred pixels wide."""

PALETTE = 6
"""Series colours in the page's CSS: .s0 to .s5."""

DASHES = 3
"""Line styles in the page's CSS: solid, .d1 and .d2."""


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: tuple[tuple[float, float], ...]
    dot: tuple[float, float] | None = None
    """A point to mark."""
    intervals: tuple[tuple[float, float, float], ...] = ()
    """(x, low, high), beside the other series' of the same x."""
    kind: str = ""
    """CSS classes of the line; empty: those of its place among the series."""


@dataclass(frozen=True)
class Axis:
    """Scale of one axis."""

    title: str
    low: float
    high: float
    log: bool = False
    marks: tuple[float, ...] = ()
    """Values to label; empty: round ones."""

    def place(self, value: float) -> float:
        """Return where a value lies, 0 to 1."""
        if self.log:
            return self._share(math.log10(value), math.log10(self.low), math.log10(self.high))
        return self._share(value, self.low, self.high)

    @staticmethod
    def _share(value: float, low: float, high: float) -> float:
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Return the values to label: the marks, else round ones inside the axis."""
        if self.marks:
            return list(self.marks)
        if self.log:
            first = math.floor(math.log10(self.low))
            last = math.ceil(math.log10(self.high))
            steps = (1,) if last - first > 3 else (1, 2, 5)
            found = [m * 10.0**p for p in range(first, last + 1) for m in steps]
            inside = [t for t in found if self.low * (1 - 1e-9) <= t <= self.high * (1 + 1e-9)]
            return inside[:: max(1, len(inside) // 4)] if len(steps) == 1 else inside
        if self.high <= self.low:
            return [self.low]
        raw = (self.high - self.low) / 4
        scale = 10.0 ** math.floor(math.log10(raw))
        step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw - 1e-12)
        lowest = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(lowest, math.floor(self.high / step + 1e-9) + 1)]


def axis(
    title: str,
    values: Sequence[float],
    *,
    log: bool = False,
    zero: bool = False,
    marks: Sequence[float] = (),
) -> Axis:
    """Return an axis that holds the values; zero: it starts at 0; marks: what to label."""
    usable = [v for v in values if v > 0] if log else list(values)
    if not usable:
        return Axis(title, 0.1 if log else 0.0, 1.0, log)
    low, high = min(usable), max(usable)
    if zero:
        low = min(low, 0.0)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    if not log:
        high += 0.04 * (high - low)
    return Axis(title, low, high, log, tuple(marks))


def line_chart(
    series: Sequence[Series], x: Axis, y: Axis, name: str, width: int = 300, height: int = 190
) -> str:
    """Return lines over shared axes. Series beyond the palette reuse its colours, dashed."""
    frame = Frame(x, y, width, height)
    parts = [opening(width, height, name), *frame.parts()]
    for place, one in enumerate(series):
        points = [
            (a, b) for a, b in one.points if not (x.log and a <= 0) and not (y.log and b <= 0)
        ]
        # Intervals at the same x would cover each other; none may leave the picture.
        step = min(DODGE, 2 * RIGHT / len(series))
        shift = step * (place - (len(series) - 1) / 2) if one.intervals else 0.0
        path = " ".join(f"{frame.px(a, shift)},{frame.py(b)}" for a, b in thin(points))
        colour = f"s{place % PALETTE}"
        for at, low, high in one.intervals:
            parts.append(
                f'<line class="line interval {colour}" x1="{frame.px(at, shift)}" '
                f'x2="{frame.px(at, shift)}" y1="{frame.py(low)}" y2="{frame.py(high)}"/>'
            )
        parts.append(f'<polyline class="line {one.kind or line_class(place)}" points="{path}"/>')
        if one.dot is not None:
            at_x, at_y = frame.px(one.dot[0]), frame.py(one.dot[1])
            parts.append(f'<circle class="dot {colour}" cx="{at_x}" cy="{at_y}" r="3.5"/>')
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class Frame:
    """Where values lie in a chart with two axes, and what is drawn of the axes."""

    x: Axis
    y: Axis
    width: int
    height: int
    right: int = RIGHT
    """Margin, px."""

    def px(self, value: float, shift: float = 0.0) -> str:
        """Return the horizontal place of a value, moved by some px."""
        return f"{LEFT + (self.width - LEFT - self.right) * self.x.place(value) + shift:.1f}"

    def down(self, value: float) -> float:
        """Return how far below the top a value lies, px."""
        return TOP + (self.height - TOP - BOTTOM) * (1 - self.y.place(value))

    def py(self, value: float) -> str:
        """Return the vertical place of a value."""
        return f"{self.down(value):.1f}"

    def parts(self) -> list[str]:
        """Return grid, base line, ticks and the name of the horizontal axis."""
        end, base = self.width - self.right, self.height - BOTTOM
        parts = []
        for tick in self.y.ticks():
            at = self.py(tick)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{end}" y1="{at}" y2="{at}"/>'
                f'<text class="tick" x="{LEFT - 5}" y="{at}" dy="3.5" text-anchor="end">'
                f"{_tick(tick)}</text>"
            )
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{end}" y1="{base}" y2="{base}"/>')
        for tick in self.x.ticks():
            parts.append(
                f'<text class="tick" x="{self.px(tick)}" y="{base + 14}" text-anchor="middle">'
                f"{_tick(tick)}</text>"
            )
        middle = LEFT + (end - LEFT) / 2
        parts.append(
            f'<text class="name" x="{middle:.1f}" y="{self.height - 5}" text-anchor="middle">'
            f"{escape(self.x.title)}</text>"
        )
        return parts


def line_class(place: int) -> str:
    """Return the CSS classes of a series: its colour, and its dashes once the colours are used."""
    dashes = place // PALETTE % DASHES
    return f"s{place % PALETTE}" + (f" d{dashes}" if dashes else "")


def thin(
    points: Sequence[tuple[float, float]], most: int = MAX_POINTS
) -> list[tuple[float, float]]:
    """Return at most that many points, denser at the start, with both ends."""
    count = len(points)
    if count <= most:
        return list(points)
    places = {round(count ** (i / (most - 1))) - 1 for i in range(most)}
    return [points[i] for i in sorted(places | {count - 1})]


@dataclass(frozen=True)
class Panel:
    """One chart with its caption."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One row of an interval chart."""

    name: str
    mean: float
    low: float | None
    high: float | None
    kind: str
    """CSS class: text, plain or baseline."""


def _names(bars: Sequence[Bar]) -> int:
    """Return the width that the names of the rows take, px."""
    return min(40 + 7 * max((len(bar.name) for bar in bars), default=0), 340)


def interval_chart(bars: Sequence[Bar], title: str, reference: float | None) -> str:
    """Return means with intervals, one row each; a dashed line marks the reference."""
    left = _names(bars)
    width, height = max(460, left + 250), TOP + ROW * len(bars) + BOTTOM
    values = [v for bar in bars for v in (bar.mean, bar.low, bar.high) if v is not None]
    values += [] if reference is None else [reference]
    x = axis(title, values, zero=True)
    base = height - BOTTOM

    def px(value: float) -> str:
        return f"{left + (width - left - 16) * x.place(max(value, x.low)):.1f}"

    parts = [opening(width, height, title)]
    for tick in x.ticks():
        parts.append(
            f'<line class="grid" x1="{px(tick)}" x2="{px(tick)}" y1="{TOP}" y2="{base}"/>'
            f'<text class="tick" x="{px(tick)}" y="{base + 14}" text-anchor="middle">'
            f"{_tick(tick)}</text>"
        )
    if reference is not None:
        parts.append(
            f'<line class="reference" x1="{px(reference)}" x2="{px(reference)}" '
            f'y1="{TOP}" y2="{base}"/>'
        )
    for place, bar in enumerate(bars):
        y = TOP + ROW * place + ROW / 2
        kind = escape(bar.kind)
        parts.append(
            f'<text class="label" x="{left - 12}" y="{y:.1f}" dy="4" text-anchor="end">'
            f"{escape(bar.name)}</text>"
        )
        if bar.low is not None and bar.high is not None:
            parts.append(
                f'<line class="whisker {kind}" x1="{px(bar.low)}" x2="{px(bar.high)}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        parts.append(f'<circle class="mean {kind}" cx="{px(bar.mean)}" cy="{y:.1f}" r="5"/>')
    parts.append(
        f'<text class="name" x="{(left + width) / 2:.1f}" y="{height - 5}" text-anchor="middle">'
        f"{escape(title)}</text>"
    )
    return "".join([*parts, "</svg>"])


def opening(width: int, height: int, name: str) -> str:
    """Return the first tag of a chart; name: for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}" '
        f'style="max-width:{width}px">'
    )


def size_of(svg: str) -> tuple[int, int]:
    """Return width and height of a chart, px, as `opening` wrote them."""
    found = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', svg)
    assert found, "not a chart of this module"
    return int(found[1]), int(found[2])


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        mantissa, power = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:.4f}".rstrip("0").rstrip(".")
