"""Scores for the console: what a cell reached, and the cells of a data set beside one another."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.config import EvaluateConfig
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.outcomes import SPLITS, Outcomes
from pipeline.reporting.tables import Numbers, Value, column_title, number, shown_ks

SHOWN = ("ndcg", "hr")
MOST_LINES = 25
"""Cells that a terminal shows at once; all of them stand in the report."""


def scores_of(outcomes: Outcomes, config: EvaluateConfig) -> dict[str, float]:
    """Return the means over users and seeds of one cell by `split/metric@k`, at the main cut-off.

    They are those that `evaluate` writes. A split without users has none.
    """
    k = shown_ks(config.ks)[-1]
    return {
        f"{split}/{metric}@{k}": float(METRICS[metric](part.rank, k).mean())
        for split in SPLITS
        if (part := outcomes.of_split(split)).user.size
        for metric in SHOWN
    }


def scores_line(scores: Mapping[str, float]) -> str:
    """Return the scores of one cell for people: `valid NDCG@20 ..., HR@20 ...; test ...`."""
    told: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, value in scores.items():
        split, metric, k = re.split("[/@]", name)
        told[split].append(f"{column_title(metric, int(k))} {number(value)}")
    return "; ".join(f"{split} {', '.join(t) or 'has no users'}" for split, t in told.items())


def scores_table(numbers: Numbers) -> str:
    """Return the scores of test users with their intervals, one line per cell, highest first."""
    k, users = numbers.main_k, numbers.sizes()["all"]
    if not users:
        return f"{numbers.dataset}: no test users"
    columns = [numbers.column(metric, k, marks=False) for metric in SHOWN]
    lines = list(zip(numbers.cells, *columns, strict=True))
    lines.sort(key=lambda line: -1.0 if line[1].mean is None else line[1].mean, reverse=True)
    heads = ("method", "encoder", "backbone", *(column_title(metric, k) for metric in SHOWN))
    rows = [heads] + [
        (cell.method, cell.encoder, cell.backbone, *map(_with_interval, values))
        for cell, *values in lines[:MOST_LINES]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [f"{numbers.dataset}: {users} test users, {numbers.level} intervals over users"]
    for row in rows:
        words = [word.ljust(width) for word, width in zip(row, widths, strict=True)]
        text.append("  " + "  ".join(words).rstrip())
    if len(lines) > MOST_LINES:
        text.append(f"  and {len(lines) - MOST_LINES} lower ones: spectran report shows all")
    return "\n".join(text)


def _with_interval(value: Value) -> str:
    if value.low is None or value.high is None:
        return number(value.mean)
    return f"{number(value.mean)} [{number(value.low)}, {number(value.high)}]"
