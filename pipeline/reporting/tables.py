"""Result tables as values: which numbers stand where, which is best, and what the tests say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.cells import NONE, Cell
from pipeline.evaluation.metrics import METRICS, SLICES

Row = Mapping[str, Any]
Verdict = Literal["above", "below", "unclear"]

TITLES = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}
SHOWN_KS = (10, 20)
"""Cut-offs of the papers; others stand in results.csv."""


@dataclass(frozen=True)
class Value:
    """One number of a table."""

    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    best: bool = False
    """The highest mean of its column."""
    versus_id: Verdict | None = None
    """Corrected paired t test against the ID-only cell; None where there is none."""
    near_best: bool = False
    """Not the best, but the paired test does not tell it from the best."""


@dataclass(frozen=True)
class Line:
    """One cell of the grid in a table."""

    cell: Cell
    values: tuple[Value, ...]
    label: str = ""
    """Name of the cell in this table."""


@dataclass(frozen=True)
class Results:
    """A table of cells by columns."""

    columns: tuple[str, ...]
    users: tuple[int, ...]
    """Of every column."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Numbers:
    """All metrics and tests of one data set, found by name."""

    dataset: str
    metrics: Sequence[Row]
    comparisons: Sequence[Row]
    alpha: float
    transformed: Collection[str] = ()
    """Encoders on changed text."""

    @property
    def level(self) -> str:
        """Level of the intervals."""
        return f"{100 * (1 - self.alpha):g}%"

    @property
    def cells(self) -> list[Cell]:
        """Cells in the order of the grid."""
        return list(dict.fromkeys(cell_of(self.dataset, row) for row in self.metrics))

    def reads_text(self, cell: Cell) -> bool:
        """Whether a cell reads the items' own text, not a control's."""
        return cell.encoder != NONE and cell.encoder not in self.transformed

    def label(self, cell: Cell) -> str:
        """Return the method, with encoder and backbone where it stands in more than one cell."""
        if sum(other.method == cell.method for other in self.cells) == 1:
            return cell.method
        return cell.full_name

    @property
    def ks(self) -> list[int]:
        """Cut-offs, ascending."""
        return sorted({int(row["k"]) for row in self.metrics})

    @property
    def shown(self) -> list[int]:
        """The cut-offs that tables show: those of the papers, else the two smallest."""
        return shown_ks(self.ks)

    @property
    def main_k(self) -> int:
        """The cut-off of strata, charts and findings."""
        return self.shown[-1]

    def sizes(self, split: str = "test") -> dict[str, int]:
        """Users of every slice."""
        found = {r["slice"]: int(r["users"]) for r in self.metrics if r["split"] == split}
        return {name: found.get(name, 0) for name in SLICES}

    def column(
        self,
        metric: str,
        k: int,
        part: str = "all",
        *,
        split: str = "test",
        marks: bool = True,
    ) -> list[Value]:
        """Values of all cells for one metric, cut-off and slice; verdicts for slice `all` only."""
        wanted = (split, part, metric, k)
        rows = {
            cell_of(self.dataset, row): row
            for row in self.metrics
            if (row["split"], row["slice"], row["metric"], row["k"]) == wanted
        }
        means = {cell: row["mean"] for cell, row in rows.items() if row["mean"] is not None}
        highest = max(means.values(), default=None)
        tests = self._tests(metric, k, split) if part == "all" and marks else {}
        values = []
        for cell in self.cells:
            row = rows.get(cell)
            if row is None:
                values.append(Value(None, None, None, None))
                continue
            best = row["mean"] is not None and row["mean"] == highest
            against_best = tests.get((cell, "best"))
            values.append(
                Value(
                    row["mean"],
                    row["deviation"],
                    row["low"],
                    row["high"],
                    best=best,
                    versus_id=verdict(tests.get((cell, "id")), self.alpha),
                    near_best=not best and verdict(against_best, self.alpha) == "unclear",
                )
            )
        return values

    def _tests(self, metric: str, k: int, split: str) -> dict[tuple[Cell, str], Row]:
        return {
            (cell_of(self.dataset, row), row["against"]): row
            for row in self.comparisons
            if (row["metric"], row["k"], row["split"]) == (metric, k, split)
        }

    def results(self) -> Results:
        """NDCG and HR on the test users, at the cut-offs of the papers."""
        wanted = [(m, k) for m in ("ndcg", "hr") if m in METRICS for k in self.shown]
        names = [column_title(m, k) for m, k in wanted]
        return self._table(names, [self.column(m, k) for m, k in wanted], [self.sizes()["all"]] * 4)

    def strata(self) -> Results:
        """NDCG at the main cut-off by how often the target was trained on."""
        sizes = self.sizes()
        columns = [self.column("ndcg", self.main_k, part, marks=False) for part in SLICES]
        return self._table(list(SLICES), columns, [sizes[part] for part in SLICES])

    def _table(
        self, names: Sequence[str], columns: Sequence[list[Value]], users: Sequence[int]
    ) -> Results:
        lines = tuple(
            Line(cell, tuple(column[place] for column in columns), self.label(cell))
            for place, cell in enumerate(self.cells)
        )
        return Results(tuple(names), tuple(users[: len(names)]), lines)

    def tests(self, metric: str, k: int) -> list[dict[str, Any]]:
        """Paired tests on the test users, with names and verdicts."""
        return [
            {
                **row,
                "label": self.label(cell_of(self.dataset, row)),
                "other": self.label(
                    Cell(
                        self.dataset,
                        row["other_encoder"],
                        row["other_backbone"],
                        row["other_method"],
                    )
                ),
                "verdict": verdict(row, self.alpha),
            }
            for row in self.comparisons
            if (row["split"], row["metric"], row["k"]) == ("test", metric, k)
        ]


def shown_ks(ks: Sequence[int]) -> list[int]:
    """Return the cut-offs that tables show, ascending: those of the papers, else the smallest two.

    The last one is the main one.
    """
    return [k for k in SHOWN_KS if k in ks] or sorted(ks)[:2]


def cell_of(dataset: str, row: Row) -> Cell:
    """Return the cell that a row of METRICS or COMPARISONS is about."""
    return Cell(dataset, row["encoder"], row["backbone"], row["method"])


def verdict(row: Row | None, alpha: float) -> Verdict | None:
    """Return what the corrected paired t test says; None without a test."""
    if row is None or row["p_t_holm"] is None:
        return None
    if row["p_t_holm"] >= alpha:
        return "unclear"
    return "above" if row["difference"] > 0 else "below"


def column_title(metric: str, k: int) -> str:
    """Return a metric's name at a cut-off: NDCG@10."""
    return f"{TITLES.get(metric, metric.upper())}@{k}"


def number(value: float | None) -> str:
    """Return a metric for people: four decimals, no leading zero, as the papers print it."""
    if value is None:
        return "-"
    text = f"{value:.4f}"
    return text[1:] if text.startswith("0.") else text.replace("-0.", "-.")


def p_value(value: float | None) -> str:
    """Return a p value for people."""
    if value is None:
        return "-"
    return "< .0001" if value < 1e-4 else number(value)
