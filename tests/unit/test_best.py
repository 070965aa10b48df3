"""Which epoch early stopping chose, and what the report says where it was the first."""

from __future__ import annotations

from typing import Any

from pipeline.reporting.best import at_best, best_epoch, hardly_trained

MONITOR = "valid/ndcg@20"


def rows(*scores: float, phase: str = "fit") -> list[dict[str, Any]]:
    """The validation curve and one that counts epochs by tens."""
    return [
        {"epoch": epoch, "phase": phase, "name": name, "value": value}
        for epoch, score in enumerate(scores, start=1)
        for name, value in ((MONITOR, score), ("std_id", 10.0 * epoch))
    ]


def test_values_are_those_of_the_first_best_epoch() -> None:
    assert at_best(rows(0.1, 0.3, 0.2), MONITOR) == {MONITOR: 0.3, "std_id": 20.0}
    assert at_best(rows(0.1, 0.1, 0.1), MONITOR)["std_id"] == 10.0


def test_the_best_epoch_is_one_of_the_last_phase() -> None:
    """Training keeps that phase's best state, though an earlier phase may have reached more."""
    other = {MONITOR: MONITOR, "std_id": "std_text"}
    again = [{**row, "name": other[row["name"]]} for row in rows(0.2, 0.3, 0.1, phase="again")]
    both = rows(0.1, 0.9) + again
    assert at_best(both, MONITOR) == {MONITOR: 0.3, "std_text": 20.0}
    assert best_epoch([both], MONITOR) == 2


def test_the_best_epoch_is_a_mean_over_seeds() -> None:
    assert best_epoch([rows(0.1, 0.3, 0.2), rows(0.1, 0.1)], MONITOR) == 1.5


def test_cells_that_were_best_at_once_in_every_seed_are_named() -> None:
    (one,) = hardly_trained({"alphafuse": 1.0, "svd": 12.0, "morec": 4 / 3})
    assert one.startswith(
        "Best after the first epoch in every seed: alphafuse. It ranks by its start"
    )
    (two,) = hardly_trained({"alphafuse": 1.0, "svd": 1.0})
    assert "alphafuse, svd. They rank by their start" in two
    assert hardly_trained({"svd": 2.0}) == []
