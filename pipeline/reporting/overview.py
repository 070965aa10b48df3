"""The main metric of all cells of a data set in one chart."""

from __future__ import annotations

from pipeline.cells import NONE
from pipeline.evaluation.comparisons import ID_ONLY
from pipeline.reporting.charts import Bar, Panel, interval_chart
from pipeline.reporting.pictures import dot_key, picture
from pipeline.reporting.tables import Numbers

KINDS = {
    "text": "reads text",
    "plain": "trained without text",
    "baseline": "not trained",
}
"""CSS class of a bar -> its words."""


def overview_chart(numbers: Numbers) -> str:
    """Return means and intervals of all cells; the line is the ID-only one."""
    return interval_chart(*_content(numbers))


def scores_picture(numbers: Numbers) -> str:
    """Return the same as a picture file."""
    bars, title, reference = _content(numbers)
    used = {bar.kind for bar in bars}
    legend = {dot_key(kind): words for kind, words in KINDS.items() if kind in used}
    if reference is not None:
        legend['<line class="reference" x1="0" x2="14" y1="5" y2="5"/>'] = ID_ONLY
    return picture(
        f"{numbers.dataset}: {title}",
        [Panel("", interval_chart(bars, title, reference))],
        1,
        legend,
    )


def _content(numbers: Numbers) -> tuple[list[Bar], str, float | None]:
    """Return rows, title and reference of the chart."""
    bars, reference = [], None
    column = numbers.column("ndcg", numbers.main_k)
    for cell, value in zip(numbers.cells, column, strict=True):
        if value.mean is None:
            continue
        kind = "baseline" if not cell.trained else "plain" if cell.encoder == NONE else "text"
        bars.append(Bar(numbers.label(cell), value.mean, value.low, value.high, kind))
        if cell.method == ID_ONLY and reference is None:
            reference = value.mean
    return bars, f"NDCG@{numbers.main_k} on test users", reference
