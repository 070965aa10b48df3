"""Axes and lines of the report's charts."""

import pytest

from pipeline.reporting.charts import MAX_POINTS, Series, axis, line_chart, line_class, thin


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
