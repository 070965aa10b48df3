"""What a cell costs: trained parameters, and times where the logs of training tell them.

Source: SpecTran, Table 5, which gives parameters and seconds of training and of inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cells import NONE, Cell
from pipeline.reporting.charts import Panel, axis
from pipeline.reporting.logs import Times
from pipeline.reporting.marks import Mark, mark_chart
from pipeline.reporting.tables import Numbers, Value, cell_of, column_title, number

COLUMNS = (
    "dataset", "encoder", "backbone", "method", "method_parameters", "backbone_parameters",
    "parameters", "ndcg_k", "ndcg", "ndcg_low", "ndcg_high", "epoch_s", "rank_s_per_1000_users",
)  # fmt: skip
"""Of efficiency.csv; times are empty where no log tells them."""


@dataclass(frozen=True)
class Cost:
    """What one cell costs and what it reaches."""

    cell: Cell
    method: int
    """Trained parameters of the item tables, the fusion and the terms of the loss."""
    backbone: int
    times: Times | None
    value: Value
    """NDCG at the main cut-off."""

    @property
    def parameters(self) -> int:
        """All trained parameters."""
        return self.method + self.backbone


def costs(
    numbers: Numbers, sizes: Sequence[Mapping[str, Any]], times: Mapping[Cell, Times]
) -> list[Cost]:
    """Return the costs of all cells in the order of the grid; sizes: rows of SIZES."""
    counted = {cell_of(numbers.dataset, row): row for row in sizes}
    values = zip(numbers.cells, numbers.column("ndcg", numbers.main_k), strict=True)
    found = []
    for cell, value in values:
        own = counted[cell] if cell.trained else {}
        method, backbone = (own.get(f"{part}_parameters", 0) for part in ("method", "backbone"))
        found.append(Cost(cell, method, backbone, times.get(cell), value))
    return found


def cost_chart(numbers: Numbers, parameters: Mapping[Cell, int]) -> Panel:
    """Return NDCG at the main cut-off against trained parameters; cells without any are left out.

    parameters: of the cells, as `Cost` counts them.
    """
    values = zip(numbers.cells, numbers.column("ndcg", numbers.main_k), strict=True)
    marks = [
        Mark(
            numbers.label(cell),
            float(parameters[cell]),
            value.mean,
            value.low,
            value.high,
            "plain" if cell.encoder == NONE else "text",
        )
        for cell, value in values
        if parameters.get(cell) and value.mean is not None
    ]
    title = f"{column_title('ndcg', numbers.main_k)} against trained parameters"
    x = axis("trained parameters", [mark.x for mark in marks], log=True)
    ends = [v for mark in marks for v in (mark.y, mark.low, mark.high) if v is not None]
    return Panel(title, mark_chart(marks, x, axis(title, ends, zero=True), title))


def cost_table(numbers: Numbers, found: Sequence[Cost]) -> list[dict[str, str]]:
    """Return one row per cell; columns of times only where a log tells some."""
    timed = any(cost.times for cost in found)
    table = []
    for cost in found:
        row = {
            "cell": numbers.label(cost.cell),
            "method": f"{cost.method:,}",
            "backbone": f"{cost.backbone:,}",
            "all parameters": f"{cost.parameters:,}",
        }
        if timed:
            row["s per epoch"] = seconds(cost.times.epoch_s if cost.times else None)
            row["s per 1,000 users"] = seconds(cost.times.rank_s if cost.times else None)
        row[column_title("ndcg", numbers.main_k)] = number(cost.value.mean)
        table.append(row)
    return table


def seconds(value: float | None) -> str:
    """Return a time for people: two digits, since clocks tell no more."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def cost_rows(numbers: Numbers, found: Sequence[Cost]) -> list[dict[str, Any]]:
    """Return one row per cell, for efficiency.csv."""
    return [
        {
            **cost.cell.fields,
            "method_parameters": cost.method,
            "backbone_parameters": cost.backbone,
            "parameters": cost.parameters,
            "ndcg_k": numbers.main_k,
            "ndcg": cost.value.mean,
            "ndcg_low": cost.value.low,
            "ndcg_high": cost.value.high,
            "epoch_s": cost.times.epoch_s if cost.times else None,
            "rank_s_per_1000_users": cost.times.rank_s if cost.times else None,
        }
        for cost in found
    ]
