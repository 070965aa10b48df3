"""The table of spectral weights: values at the best epoch, means over seeds."""

from __future__ import annotations

from pipeline.cells import Cell
from pipeline.reporting.tables import Numbers
from pipeline.reporting.weights import at_best, weights_table

MONITOR = "valid/ndcg@20"


def rows(best: int, **values: float) -> list[dict[str, object]]:
    """Three epochs; a curve's value is that of its last epoch less than the epochs to come."""
    found = []
    for epoch in (1, 2, 3):
        score = 1.0 if epoch == best else 0.5
        curves = {MONITOR: score} | {name: value * epoch for name, value in values.items()}
        found += [
            {"epoch": epoch, "phase": "fit", "name": name, "value": value}
            for name, value in curves.items()
        ]
    return found


def test_values_are_those_of_the_first_best_epoch() -> None:
    assert at_best(rows(2, principal=10.0), MONITOR) == {MONITOR: 1.0, "principal": 20.0}
    tied = rows(0, principal=10.0)  # all epochs alike: the first was kept
    assert at_best(tied, MONITOR)["principal"] == 10.0


def test_one_row_per_cell_that_has_weights() -> None:
    full = Cell("demo", "minilm", "sasrec", "spectran")
    plain = Cell("demo", "none", "sasrec", "id")
    curves = {
        plain: {0: rows(1, std_id=1.0)},
        full: {
            0: rows(1, principal=2.0, subordinate=4.0, position_0=1.0, position_10=3.0),
            1: rows(2, principal=2.0, subordinate=4.0, position_0=1.0, position_10=3.0),
        },
    }
    (row,) = weights_table(Numbers("demo", [], [], 0.05), curves, MONITOR)
    assert row["principal"] == "3" and row["subordinate"] == "6"
    assert (row["a0"], row["a10"], row["lambda"]) == ("1.5", "4.5", "-")
