"""Variants of a method beside the method itself: what each changes, and what that is worth.

Source: SpecTran, Table 3. Differences are the paired ones of COMPARISONS against `base`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import artifacts, naming
from pipeline.cells import NONE, Cell, bases
from pipeline.config import Params
from pipeline.reporting.charts import Bar, Panel, interval_chart
from pipeline.reporting.orderings import K
from pipeline.reporting.protocol import words
from pipeline.reporting.tables import Numbers, Row, cell_of, column_title, number, verdict

COLUMNS = (
    "dataset", "encoder", "backbone", "base", "method", "changes", "metric", "k", "users", "seeds",
    "mean", "deviation", "low", "high", "difference", "difference_low", "difference_high",
    "p_t_holm", "verdict", "paper_difference",
)  # fmt: skip
"""Of ablations.csv; base: the method that a variant is made from, of the base's own rows itself."""

VERDICTS = {"above": "above", "below": "below", "unclear": "not told apart"}
"""What the corrected paired t test says of a variant, seen from its base."""


@dataclass(frozen=True)
class Ablation:
    """A method and its variants on the same text and with the same backbone."""

    base: Cell
    changes: Mapping[Cell, str]
    """Variant -> everything in which its cell differs from the base's."""
    paper: Mapping[Cell, float]
    """Variant -> its NDCG@20 less that of the base, as printed; of those that the paper reports."""


def ablations(
    params: Params, shown: Sequence[Cell], published: Mapping[str, Mapping[str, float]]
) -> list[Ablation]:
    """Return the methods with a variant among the cells of one data set, in the order of the grid.

    published: backbone -> method -> NDCG@20. Encoders on changed text, which the paper does not
    have, are not compared with it.
    """
    pairs = bases(shown, params.methods)
    changes = {cell: _changes(params, cell, base) for cell, base in pairs.items()}
    return grouped(shown, pairs, changes, published, params.transformed)


def grouped(
    shown: Sequence[Cell],
    pairs: Mapping[Cell, Cell],
    changes: Mapping[Cell, str],
    published: Mapping[str, Mapping[str, float]],
    transformed: Collection[str],
) -> list[Ablation]:
    """Return methods with their variants, in the order of the cells shown.

    pairs: variant -> the cell of its method; changes: variant -> what it changes; transformed:
    encoders on changed text. published: see `ablations`.
    """
    found = []
    for base in (cell for cell in shown if cell in pairs.values()):
        own = [cell for cell in shown if pairs.get(cell) == base]
        known = {} if base.encoder in transformed else published.get(base.backbone, {})
        paper = {
            cell: known[cell.method] - known[base.method]
            for cell in own
            if {cell.method, base.method} <= known.keys()
        }
        found.append(Ablation(base, {cell: changes[cell] for cell in own}, paper))
    return found


def _changes(params: Params, cell: Cell, base: Cell) -> str:
    """Return what a variant changes in its method's block and in the values of `train` it uses."""
    block = naming.changes("methods", cell.method, params.methods)
    found = {key: v for key, v in block.items() if not key.startswith(f"{naming.TRAIN}.")}
    # Of `train` what counts is the values used: a block may repeat its base's own, or lack them.
    before, after = (
        naming.flat(one.train(params).model_dump(mode="json"), naming.TRAIN) for one in (base, cell)
    )
    found |= {key: v for key, v in after.items() if key not in before or before[key] != v}
    return words(found) or "nothing"


def refuse_untested(root: Path, numbers: Numbers, found: Sequence[Ablation]) -> None:
    """Raise ArtifactError when a variant was not compared with the method it is made from.

    root: artifacts. Without test users there is nothing to compare.
    """
    tests = _tests(numbers)
    for one in found if numbers.sizes()["all"] else ():
        for cell in one.changes:
            if (cell, one.base.method, "ndcg", numbers.main_k) not in tests:
                where = {"dataset": numbers.dataset}
                raise artifacts.COMPARISONS.fail(
                    root, where, f"holds no test of {cell} against {one.base.method}."
                )


def ablation_groups(
    numbers: Numbers, found: Sequence[Ablation]
) -> list[tuple[str, Panel, list[dict[str, str]]]]:
    """Return per text and backbone their names, the differences as a chart, and the table.

    All at the main cut-off of NDCG.
    """
    groups: dict[tuple[str, str], list[Ablation]] = {}
    for one in found:
        groups.setdefault((one.base.encoder, one.base.backbone), []).append(one)
    return [
        (
            ", ".join(name for name in names if name != NONE) or "not trained",
            _panel(numbers, own),
            _table(numbers, own),
        )
        for names, own in groups.items()
    ]


def _panel(numbers: Numbers, found: Sequence[Ablation]) -> Panel:
    tests, k = _tests(numbers), numbers.main_k
    bars = [
        Bar(cell.method, test["difference"], test["low"], test["high"], _kind(cell))
        for one in found
        for cell in one.changes
        if (test := tests.get((cell, one.base.method, "ndcg", k)))
    ]
    name = column_title("ndcg", k)
    chart = interval_chart(bars, f"difference in {name}", 0.0)
    return Panel(f"{name} less that of the method it is made from", chart)


def _kind(cell: Cell) -> str:
    return "baseline" if not cell.trained else "plain" if cell.encoder == NONE else "text"


def _table(numbers: Numbers, found: Sequence[Ablation]) -> list[dict[str, str]]:
    """Return one row for a method, then one for each of its variants."""
    tests, k = _tests(numbers), numbers.main_k
    values = dict(zip(numbers.cells, numbers.column("ndcg", k), strict=True))
    printed = any(one.paper for one in found)
    rows = []
    for one in found:
        for cell in (one.base, *one.changes):
            value, test = values[cell], tests.get((cell, one.base.method, "ndcg", k), {})
            said = verdict(test, numbers.alpha) if test else None
            row = {
                "method": cell.method,
                "of": "-" if cell == one.base else one.base.method,
                column_title("ndcg", k): _with_interval(value.mean, value.low, value.high),
                "difference": _with_interval(
                    test.get("difference"), test.get("low"), test.get("high")
                ),
                "verdict": VERDICTS.get(said or "", "-"),
            }
            if printed:
                row[f"NDCG@{K} difference in the paper"] = number(one.paper.get(cell))
            rows.append(row | {"changes": one.changes.get(cell, "-")})
    return rows


def _with_interval(mean: float | None, low: float | None, high: float | None) -> str:
    text = number(mean)
    return text if low is None or high is None else f"{text} [{number(low)}, {number(high)}]"


def ablation_rows(numbers: Numbers, found: Sequence[Ablation]) -> Iterator[dict[str, Any]]:
    """Yield every metric of the test users of a method and its variants, for ablations.csv."""
    measured: dict[Cell, list[Row]] = {}
    for row in numbers.metrics:
        if (row["split"], row["slice"]) == ("test", "all"):
            measured.setdefault(cell_of(numbers.dataset, row), []).append(row)
    tests = _tests(numbers)
    for one in found:
        for cell in (one.base, *one.changes):
            for row in measured.get(cell, []):
                where = row["metric"], row["k"]
                test = tests.get((cell, one.base.method, *where), {})
                said = verdict(test, numbers.alpha) if test else None
                own = {
                    **cell.fields,
                    "base": one.base.method,
                    "changes": one.changes.get(cell),
                    "difference": test.get("difference"),
                    "difference_low": test.get("low"),
                    "difference_high": test.get("high"),
                    "p_t_holm": test.get("p_t_holm"),
                    "verdict": VERDICTS.get(said or ""),
                    "paper_difference": one.paper.get(cell) if where == ("ndcg", K) else None,
                }
                yield {name: own[name] if name in own else row[name] for name in COLUMNS}


def _tests(numbers: Numbers) -> dict[tuple[Cell, str, str, int], Row]:
    """Return (variant, method of its base, metric, k) -> their paired test on the test users."""
    return {
        (cell_of(numbers.dataset, row), row["other_method"], row["metric"], row["k"]): row
        for row in numbers.comparisons
        if (row["split"], row["against"]) == ("test", "base")
    }
