"""Line and interval charts as inline SVG: text stays text, colours come from the page's CSS.

Coordinates have one decimal, so equal numbers give equal bytes everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
"""Margins of a line chart, px."""

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


@dataclass(frozen=True)
class Axis:
    """Scale of one axis."""

    title: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, 0 to 1."""
        if self.log:
            return self._share(math.log10(value), math.log10(self.low), math.log10(self.high))
        return self._share(value, self.low, self.high)

    @staticmethod
    def _share(value: float, low: float, high: float) -> float:
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Return round values inside the axis."""
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


def axis(title: str, values: Sequence[float], *, log: bool = False, zero: bool = False) -> Axis:
    """Return an axis that holds the values; zero: it starts at 0."""
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
    return Axis(title, low, high, log)


def line_chart(
    series: Sequence[Series], x: Axis, y: Axis, name: str, width: int = 300, height: int = 190
) -> str:
    """Return lines over shared axes. Series beyond the palette reuse its colours, dashed."""
    inner_w, inner_h = width - LEFT - RIGHT, height - TOP - BOTTOM

    def px(value: float) -> str:
        return f"{LEFT + inner_w * x.place(value):.1f}"

    def py(value: float) -> str:
        return f"{TOP + inner_h * (1 - y.place(value)):.1f}"

    parts = [_open(width, height, name)]
    for tick in y.ticks():
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{py(tick)}" y2="{py(tick)}"/>'
            f'<text class="tick" x="{LEFT - 5}" y="{py(tick)}" dy="3.5" text-anchor="end">'
            f"{_tick(tick)}</text>"
        )
    base = height - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{base}" y2="{base}"/>')
    for tick in x.ticks():
        parts.append(
            f'<text class="tick" x="{px(tick)}" y="{base + 14}" text-anchor="middle">'
            f"{_tick(tick)}</text>"
        )
    middle = LEFT + inner_w / 2
    parts.append(
        f'<text class="name" x="{middle:.1f}" y="{height - 5}" text-anchor="middle">'
        f"{escape(x.title)}</text>"
    )
    for place, one in enumerate(series):
        points = [
            (a, b) for a, b in one.points if not (x.log and a <= 0) and not (y.log and b <= 0)
        ]
        path = " ".join(f"{px(a)},{py(b)}" for a, b in thin(points))
        colour = f"s{place % PALETTE}"
        parts.append(f'<polyline class="line {line_class(place)}" points="{path}"/>')
        if one.dot is not None:
            at_x, at_y = px(one.dot[0]), py(one.dot[1])
            parts.append(f'<circle class="dot {colour}" cx="{at_x}" cy="{at_y}" r="3.5"/>')
    return "".join([*parts, "</svg>"])


def line_class(place: int) -> str:
    """Return the CSS classes of a series: its colour, and its dashes once the colours are used."""
    dashes = place // PALETTE % DASHES
    return f"s{place % PALETTE}" + (f" d{dashes}" if dashes else "")


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most MAX_POINTS points, denser at the start, with both ends."""
    count = len(points)
    if count <= MAX_POINTS:
        return list(points)
    places = {round(count ** (i / (MAX_POINTS - 1))) - 1 for i in range(MAX_POINTS)}
    return [points[i] for i in sorted(places | {count - 1})]


@dataclass(frozen=True)
class Panel:
    """One chart with its caption."""

    title: str
    svg: str


@dataclass(frozen=True)
class Bar:
    """One row of an interval chart."""

    name: str
    mean: float
    low: float | None
    high: float | None
    kind: str
    """CSS class: text, plain or baseline."""


def interval_chart(bars: Sequence[Bar], title: str, reference: float | None) -> str:
    """Return means with intervals, one row each; a dashed line marks the reference."""
    width, row, left = 460, 25, 40 + 7 * max((len(bar.name) for bar in bars), default=0)
    left = min(left, 210)
    height = TOP + row * len(bars) + BOTTOM
    values = [v for bar in bars for v in (bar.mean, bar.low, bar.high) if v is not None]
    x = axis(title, values, zero=True)
    base = height - BOTTOM

    def px(value: float) -> str:
        return f"{left + (width - left - 16) * x.place(max(value, x.low)):.1f}"

    parts = [_open(width, height, title)]
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
        y = TOP + row * place + row / 2
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


def _open(width: int, height: int, name: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}" '
        f'style="max-width:{width}px">'
    )


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        mantissa, power = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:.4f}".rstrip("0").rstrip(".")
