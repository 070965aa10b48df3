"""The numbers of the page's figures as CSV, for programs."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reporting import ablations, efficiency, weights, widths
from pipeline.reporting.exports import table_csv
from pipeline.reporting.page import Chapter


def figure_tables(chapters: Sequence[Chapter]) -> tuple[str, ...]:
    """Return the files efficiency, spectral_weights, spectral_summary, ablations and widths.

    In this order.
    """
    return (
        table_csv(
            [row for c in chapters for row in efficiency.cost_rows(c.numbers, c.costs)],
            efficiency.COLUMNS,
        ),
        table_csv(
            [row for c in chapters for row in weights.position_rows(c.positions)],
            weights.POSITION_COLUMNS,
        ),
        table_csv(*weights.summary_table([row for c in chapters for row in c.weights_summary])),
        table_csv(
            [row for c in chapters for row in ablations.ablation_rows(c.numbers, c.ablations)],
            ablations.COLUMNS,
        ),
        table_csv(
            [row for c in chapters for row in widths.sweep_rows(c.numbers, c.sweeps)],
            widths.COLUMNS,
        ),
    )
