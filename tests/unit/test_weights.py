"""The table of spectral weights: values at the best epoch, means over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cells import Cell
from pipeline.methods import spectran
from pipeline.reporting.tables import Numbers
from pipeline.reporting.weights import (
    SUMMARY_COLUMNS,
    positions,
    summary_rows,
    summary_table,
    weights_table,
)
from pipeline.values import Spectrum
from tests import plain

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


def test_one_row_per_cell_that_has_weights() -> None:
    full = Cell("demo", "minilm", "sasrec", "spectran")
    ids = Cell("demo", "none", "sasrec", "id")
    curves = {
        ids: {0: rows(1, std_id=1.0)},
        full: {
            0: rows(1, principal=2.0, subordinate=4.0, position_0=1.0, position_10=3.0),
            1: rows(2, principal=2.0, subordinate=4.0, position_0=1.0, position_10=3.0),
        },
    }
    (row,) = weights_table(Numbers("demo", [], [], 0.05), curves, MONITOR)
    assert row["principal"] == "3" and row["subordinate"] == "6"
    assert (row["a0"], row["a10"], row["lambda"]) == ("1.5", "4.5", "-")


SETTINGS = plain.content()["methods"]["spectran"]
SINGULAR = np.array([4.0, 3.0, 1.5, 1.0, 0.5, 0.25], np.float32)


def attention_over(width: int, settings: dict[str, Any]) -> spectran.SpectralAttention:
    """The adapter of nine items whose text has the six components SINGULAR."""
    rng = np.random.default_rng(0)
    spectrum = Spectrum(
        "unit",
        np.zeros(6, np.float32),
        np.linalg.qr(rng.normal(size=(9, 6)))[0].astype(np.float32),
        SINGULAR,
        np.eye(6, dtype=np.float32),
        "",
    )
    return spectran.SpectralAttention(spectrum, width, 0.02, spectran.Config(**settings))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"constant": False, "position_scale": "si"},
        {"position_scale": "none", "order": 2},
        {"fusion": "concat", "id_share": 0.3},
        {"fusion": "none"},
        {"embed_scale": 40.0},
    ],
    ids=["paper", "si without constant", "no scale", "concat", "text only", "scaled rows"],
)
def test_f_is_that_of_the_model(changes: dict[str, Any]) -> None:
    """The report reads settings, coefficients and spectrum; the model computes f in tensors."""
    width, settings = 5, SETTINGS | changes
    model = attention_over(width, settings)
    start = model.weights().detach().numpy().copy()
    with torch.no_grad():
        model.position.copy_(torch.arange(1, len(model.position) + 1) * 0.3)
    cell = Cell("demo", "minilm", "sasrec", "spectran")
    monitored = [{"epoch": 1, "phase": "fit", "name": MONITOR, "value": 0.5}]
    curve = [
        {"epoch": 1, "phase": "fit", "name": name, "value": value}
        for name, value in model.measures().items()
    ]
    (found,) = positions(
        Numbers("demo", [], [], 0.05),
        {cell: {3: monitored + curve}},
        MONITOR,
        {str(cell): {"params": {"method": settings, "train": {"width": width}}}},
        {"minilm": {"views": {"unit": {"singular_values": SINGULAR.tolist()}}}},
    )
    assert found.start == pytest.approx(start, rel=1e-6)
    assert found.learned[3] == pytest.approx(model.weights().detach().numpy(), rel=1e-6)
    assert len(found.singular) == len(start)


def test_a_frozen_polynomial_has_learned_nothing() -> None:
    cell = Cell("demo", "minilm", "sasrec", "spectran_frozen")
    made = {"method": SETTINGS | {"learn_position": False}, "train": {"width": 2}}
    curves = {cell: {0: rows(1, position_0=1.0)}}
    numbers = Numbers("demo", [], [], 0.05)
    assert positions(numbers, curves, MONITOR, {str(cell): {"params": made}}, {}) == []


@pytest.mark.parametrize(
    ("width", "changes"),
    [
        (4, {}),
        (5, {"fusion": "concat", "id_share": 0.4}),
        (4, {"fusion": "nullspace", "id_share": 0.5}),
        (8, {}),
        (4, {"attention": "none"}),
        (4, {"attention": "softmax", "position": "sigma"}),
    ],
    ids=["paper", "concat", "nullspace", "wider than the text", "no attention", "sigma"],
)
def test_sums_are_those_of_the_model(width: int, changes: dict[str, Any]) -> None:
    """The report multiplies means; here every weight of the model is added up by itself."""
    settings = SETTINGS | {"std": 1.0} | changes
    torch.manual_seed(0)
    model = attention_over(width, settings)
    f = model.weights().detach().tolist()
    found = model.attention()
    a = torch.zeros(width, 6) if found is None else found.detach()
    columns = 3 if settings["fusion"] == "concat" else width
    principal = sum(abs(float(a[i, i]) + f[i]) for i in range(min(columns, 6)))
    subordinate = sum(abs(float(a[i, j])) for i in range(columns) for j in range(columns, 6))
    cell = Cell("demo", "minilm", "sasrec", "spectran")
    monitored = [{"epoch": 1, "phase": "fit", "name": MONITOR, "value": 0.5}]
    measures = model.measures()
    curve = [
        {"epoch": 1, "phase": "fit", "name": name, "value": value}
        for name, value in measures.items()
    ]
    (row,) = summary_rows(
        {cell: {3: monitored + curve}},
        MONITOR,
        {str(cell): {"params": {"method": settings, "train": {"width": width}}}},
        {"minilm": {"views": {"unit": {"singular_values": SINGULAR.tolist()}}}},
    )
    assert row["principal_sum"] == pytest.approx(principal, rel=1e-5)
    assert row["subordinate_sum"] == pytest.approx(subordinate, rel=1e-5)
    assert (row["principal_mean"], row["seed"]) == (measures["principal"], 3)
    assert row["lambda"] == (0.0 if settings["attention"] == "softshrink" else None)
    powers = [f"a_{k}" for k in range(4)] if settings["position"] == "polynomial" else []
    assert list(row)[len(SUMMARY_COLUMNS) :] == powers


def test_powers_of_all_cells_are_columns_in_order() -> None:
    short = dict.fromkeys(SUMMARY_COLUMNS, 1.0)
    table, columns = summary_table([short | {"a_1": 2.0, "a_10": 3.0}, short | {"a_0": 4.0}])
    assert columns == (*SUMMARY_COLUMNS, "a_0", "a_1", "a_10")
    assert [(r["a_0"], r["a_1"], r["a_10"]) for r in table] == [(None, 2.0, 3.0), (4.0, None, None)]
    assert summary_table([]) == ([], SUMMARY_COLUMNS)
