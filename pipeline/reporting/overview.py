"""The main metric of all cells of a data set in one chart."""

from __future__ import annotations

from pipeline.cells import NONE
from pipeline.evaluation.comparisons import ID_ONLY
from pipeline.reporting.charts import Bar, interval_chart
from pipeline.reporting.tables import Numbers

KINDS = {
    "text": "reads text",
    "plain": "trained without text",
    "baseline": "not trained",
}
"""CSS class of a bar -> its words."""


def overview_chart(numbers: Numbers) -> str:
    """Return means and intervals of all cells; the line is the ID-only one."""
    bars, reference = [], None
    column = numbers.column("ndcg", numbers.main_k)
    for cell, value in zip(numbers.cells, column, strict=True):
        if value.mean is None:
            continue
        kind = "baseline" if not cell.trained else "plain" if cell.encoder == NONE else "text"
        bars.append(Bar(numbers.label(cell), value.mean, value.low, value.high, kind))
        if cell.method == ID_ONLY and reference is None:
            reference = value.mean
    return interval_chart(bars, f"NDCG@{numbers.main_k} on test users", reference)
