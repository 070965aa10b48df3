"""Whether published values of a cell lie in our intervals for the same cell.

Of methods without text only: what a method reads from text depends on the text encoder, which need
not be the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.cells import NONE
from pipeline.evaluation.metrics import METRICS, crossed_interval, interval, run_interval
from pipeline.evaluation.outcomes import Outcomes
from pipeline.reporting.exports import escape, table_row
from pipeline.reporting.tables import column_title, number

COLUMNS = (
    "dataset",
    "backbone",
    "method",
    "metric",
    "k",
    "published",
    "source",
    "users",
    "seeds",
    "mean",
    "low_users",
    "high_users",
    "low",
    "high",
    "low_run",
    "high_run",
    "published_is",
)
"""Of replication.csv; low and high: over users and seeds; low_run and high_run: of one more seed on
the same users."""

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Replicated:
    """A published value and ours of the same backbone, method and metric."""

    backbone: str
    method: str
    metric: str
    k: int
    published: float
    source: str
    users: int
    seeds: int
    mean: float
    over_users: Bounds
    bounds: Bounds
    """Over users and seeds."""
    one_run: Bounds
    """Of one more seed on the same users."""

    @property
    def verdict(self) -> Literal["inside", "above", "below"]:
        """Where the published value lies, seen from our interval over users and seeds."""
        low, high = self.bounds
        if low <= self.published <= high:
            return "inside"
        return "above" if self.published > high else "below"


def replications(
    outcomes: Sequence[Outcomes],
    reference: Sequence[Mapping[str, Any]],
    ks: Sequence[int],
    alpha: float,
) -> list[Replicated]:
    """Compare published values with the test users of one data set.

    reference: rows of reference.yaml; those without a backbone, as older cards keep them, tell
    nothing. Cells of one seed have no interval over seeds and are left out.
    """
    mine = {(o.cell.backbone, o.cell.method): o for o in outcomes if o.cell.encoder == NONE}
    found = []
    for row in reference:
        cell = mine.get((row.get("backbone", ""), row.get("method", "")))
        if cell is None:
            continue
        rank = cell.of_split("test").rank
        for metric, function in METRICS.items():
            for k in ks:
                published = row.get(column_title(metric, k))
                values = function(rank, k)
                bounds = crossed_interval(values, alpha)
                over_users = interval(values.mean(axis=0), alpha)
                one_run = run_interval(values, alpha)
                if published is None or not (bounds and over_users and one_run):
                    continue
                found.append(
                    Replicated(
                        cell.cell.backbone,
                        cell.cell.method,
                        metric,
                        k,
                        published,
                        row["source"],
                        values.shape[1],
                        values.shape[0],
                        float(values.mean()),
                        over_users,
                        bounds,
                        one_run,
                    )
                )
    return found


def replication_rows(dataset: str, found: Sequence[Replicated]) -> Iterator[dict[str, Any]]:
    """Yield a row of COLUMNS for every value."""
    for one in found:
        row = (
            dataset,
            one.backbone,
            one.method,
            one.metric,
            one.k,
            one.published,
            one.source,
            one.users,
            one.seeds,
            one.mean,
            *one.over_users,
            *one.bounds,
            *one.one_run,
            one.verdict,
        )
        yield dict(zip(COLUMNS, row, strict=True))


def replication_markdown(
    found: Sequence[Replicated], level: str, protocol: Sequence[str]
) -> list[str]:
    """Return the lines of the section, none without values; protocol: lines below the table."""
    if not found:
        return []
    heads = ["backbone", "method", "metric", "paper", "here", f"{level} interval over users"]
    heads += ["over users and seeds", "of one more seed", "paper's value"]
    lines = ["### Published values of models without text", "", table_row(heads)]
    lines.append("|---|---|---|---:|---:|" + "---|" * 4)
    for one in found:
        bounds = (one.over_users, one.bounds, one.one_run)
        spans = [f"{number(low)} to {number(high)}" for low, high in bounds]
        names = map(escape, (one.backbone, one.method))
        values = [number(one.published), number(one.mean)]
        lines.append(
            table_row([*names, column_title(one.metric, one.k), *values, *spans, one.verdict])
        )
    legend = (
        "inside: in the interval over users and seeds, both taken as drawn at random (two-way "
        "random effects, Satterthwaite; where seeds differ no more than chance it is that over "
        "users); above and below: the paper's value lies on that side. inside does not show that "
        "values are equal. Of one more seed: where the mean of a further seed would lie on these "
        "very users, which are the fitting bounds if the paper tested the same ones. The paper's "
        "own spread is not printed and not counted. All values: `replication.csv`."
    )
    return [*lines, "", legend, *protocol]
