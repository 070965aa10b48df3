"""Axes and lines of the report's charts."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from pipeline.reporting.charts import (
    MAX_POINTS,
    Bar,
    Panel,
    Series,
    axis,
    interval_chart,
    line_chart,
    line_class,
    size_of,
    thin,
)
from pipeline.reporting.marks import NAME_HEIGHT, Mark, mark_chart, spread
from pipeline.reporting.pictures import picture


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0.2, 1.0], True, [0.2, 0.5, 1.0]),
        ([1, 384], True, [1, 2, 5, 10, 20, 50, 100, 200]),
        ([1e-6, 1], True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1]),
        ([0, 0.1], False, [0, 0.05, 0.1]),
        ([0, 12], False, [0, 5, 10]),
    ],
)
def test_ticks_are_round_and_inside(values, log, ticks):
    found = axis("x", values, log=log).ticks()
    assert found == pytest.approx(ticks)


def test_constant_and_empty_values_have_an_axis():
    for values in ([], [3.0], [0.0, 0.0]):
        made = axis("x", values)
        assert made.low < made.high and made.ticks()


def test_long_series_keep_both_ends():
    points = [(float(i), 1.0) for i in range(1, 4097)]
    found = thin(points)
    assert len(found) <= MAX_POINTS + 1 and (found[0], found[-1]) == (points[0], points[-1])


def test_zero_has_no_place_on_a_logarithm():
    one = Series("a", ((1.0, 1.0), (2.0, 0.0), (3.0, 0.1)))
    x, y = axis("x", [1, 3]), axis("y", [1, 0.0, 0.1], log=True)
    assert line_chart([one], x, y, "name").split('points="')[1].split('"')[0].count(",") == 2


def test_lines_beyond_the_palette_differ_by_their_dashes():
    classes = [line_class(place) for place in range(18)]
    assert len(set(classes)) == 18 and classes[:6] == [f"s{n}" for n in range(6)]
    one = Series("a", ((1.0, 1.0), (2.0, 2.0)))
    svg = line_chart([one] * 7, axis("x", [1, 2]), axis("y", [1, 2]), "name")
    assert svg.count("<polyline") == 7 and 'class="line s0 d1"' in svg


def test_marked_values_are_the_labels():
    assert axis("width", [16, 256], log=True, marks=[16, 32, 256]).ticks() == [16, 32, 256]


def test_intervals_of_one_x_stand_beside_each_other():
    lines = [Series(n, ((1.0, 2.0),), intervals=((1.0, 1.0, 3.0),)) for n in "abc"]
    svg = line_chart(lines, axis("x", [1, 2]), axis("y", [1, 3]), "name")
    places = [float(x) for x in re.findall(r'interval s\d" x1="([\d.]+)"', svg)]
    assert [b - a for a, b in pairwise(places)] == pytest.approx([4, 4])
    low, high = re.findall(r'interval s0".*? y1="([\d.]+)" y2="([\d.]+)"', svg)[0]
    assert float(low) > float(high), "low values lie further down"


@pytest.mark.parametrize("heights", [[], [50.0], [50, 50, 50], [10, 195, 198, 200], [200] * 5])
def test_names_keep_their_order_and_a_line_between_them(heights):
    found = spread(heights, 200)
    assert all(b - a >= NAME_HEIGHT for a, b in pairwise(found))
    assert all(height <= 200 for height in found)


def test_a_mark_has_its_name_its_interval_and_its_place():
    marks = [Mark("a<b", 10, 0.2, 0.1, 0.3, "text"), Mark("c", 1000, 0.4, None, None, "plain")]
    x, y = axis("x", [10, 1000], log=True), axis("y", [0, 0.4])
    svg = mark_chart(marks, x, y, "name")
    assert svg.count("<circle") == 2 and svg.count('class="whisker') == 1
    assert svg.index(">c</text>") < svg.index(">a&lt;b</text>"), "the highest first"
    circles = re.findall(r'circle class="mean (\w+)" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert {kind: float(cx) for kind, cx, _ in circles} == {"text": 46.0, "plain": 300.0}


def test_panels_of_a_picture_do_not_cover_each_other():
    low = Panel("low", interval_chart([Bar("a", 1.0, None, None, "text")], "x", None))
    bars = [Bar(str(n), 1.0, None, None, "text") for n in range(9)]
    high = Panel("high", interval_chart(bars, "x", None), note="of nine")
    root = ElementTree.fromstring(picture("both", [low, high, low], 1, {"": "a legend"}))
    inner = [svg for svg in root if svg.tag.endswith("svg")]
    places = [(int(svg.get("y")), int(svg.get("height"))) for svg in inner]
    assert [height for _, height in places] == [size_of(p.svg)[1] for p in (low, high, low)]
    ends = [y + height for y, height in places]
    assert all(end < y for end, (y, _) in zip(ends, places[1:], strict=False))
    assert ends[-1] < int(root.get("height"))
