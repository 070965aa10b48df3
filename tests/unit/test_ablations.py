"""Variants of a method beside the method: what they change, and differences by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cells import NONE, Cell, bases, cells
from pipeline.config import EvaluateConfig, Params, Strata
from pipeline.errors import ArtifactError
from pipeline.evaluation.comparisons import compare
from pipeline.evaluation.metrics import measure
from pipeline.evaluation.outcomes import Outcomes
from pipeline.params import load
from pipeline.reporting.ablations import (
    COLUMNS,
    Ablation,
    ablation_groups,
    ablation_rows,
    ablations,
    refuse_untested,
)
from pipeline.reporting.tables import Numbers
from tests import plain

FULL, SIGMA, IDENTITY = (
    Cell("toys", "minilm", "sasrec", name)
    for name in ("spectran", "spectran_sigma", "spectran_identity")
)
# NDCG of rank r is 1 / log2(r + 1): 1, 1/2 and 1/3 for ranks 1, 3 and 7; 0 beyond the cut-off.
RANKS = {FULL: [1, 3, 7, 100], SIGMA: [3, 3, 100, 100], IDENTITY: [1, 1, 3, 7]}


def numbers(alpha: float = 0.05, pairs: dict[Cell, Cell] | None = None) -> Numbers:
    config = EvaluateConfig(
        ks=[2, 20],
        seen_items="candidates",
        strata=Strata(cold_at_most=6, median_at_most=50),
        alpha=alpha,
    )
    outcomes = [
        Outcomes(
            cell=cell,
            seeds=(0,),
            user=np.arange(4),
            split=np.asarray(["test"] * 4),
            target=np.ones(4, dtype=np.int64),
            train_count=np.full(4, 9),
            rank=np.asarray([rank], dtype=float),
            items="0" * 64,
            provenance={},
        )
        for cell, rank in RANKS.items()
    ]
    pairs = {SIGMA: FULL, IDENTITY: FULL} if pairs is None else pairs
    tables = measure(outcomes, config), compare(outcomes, config, {}, pairs)
    return Numbers("toys", *(table.to_pylist() for table in tables), alpha)


FOUND = Ablation(FULL, {SIGMA: "position = sigma", IDENTITY: "position = identity"}, {SIGMA: -0.01})


def test_differences_and_intervals_by_hand():
    rows = {(r["method"], r["metric"], r["k"]): r for r in ablation_rows(numbers(), [FOUND])}
    assert {tuple(row) for row in rows.values()} == {COLUMNS}
    base, sigma = rows["spectran", "ndcg", 20], rows["spectran_sigma", "ndcg", 20]
    assert base["mean"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert [base[name] for name in COLUMNS[-5:]] == [None] * 5
    # Gaps -1/2, 0, -1/3, 0: mean -5/24, deviation 1/4; t of 3 degrees at .975: 3.1824463.
    assert sigma["mean"] == pytest.approx(1 / 4)
    assert sigma["difference"] == pytest.approx(-5 / 24)
    assert sigma["difference_low"] == pytest.approx(-5 / 24 - 3.1824463 / 8)
    assert sigma["difference_high"] == pytest.approx(-5 / 24 + 3.1824463 / 8)
    assert (sigma["base"], sigma["changes"], sigma["users"]) == ("spectran", "position = sigma", 4)
    # The hit rates at 2 are 1, 0, 0, 0 and none; at 20 three of four and two of four hit.
    assert rows["spectran_sigma", "hr", 2]["difference"] == -0.25
    assert rows["spectran_sigma", "hr", 20]["difference"] == -0.25
    assert {key for key, row in rows.items() if row["paper_difference"] is not None} == {
        ("spectran_sigma", "ndcg", 20)
    }
    assert len(rows) == 3 * 3 * 2


@pytest.mark.parametrize(
    ("alpha", "sigma", "identity"),
    # t of sigma is -5/3, p .194; of identity 2.32, p .103, which Holm doubles; both then have .205.
    [(0.2, "not told apart", "not told apart"), (0.21, "below", "above")],
)
def test_the_corrected_test_decides(alpha, sigma, identity):
    ((title, _, rows),) = ablation_groups(numbers(alpha), [FOUND])
    assert title == "minilm, sasrec"
    assert [row["verdict"] for row in rows] == ["-", sigma, identity]
    written = list(ablation_rows(numbers(alpha), [FOUND]))
    said = {r["method"]: r["verdict"] for r in written if (r["metric"], r["k"]) == ("ndcg", 20)}
    assert said == {"spectran": None, "spectran_sigma": sigma, "spectran_identity": identity}


def test_the_table_has_the_base_first_and_what_each_changes():
    ((_, _, rows),) = ablation_groups(numbers(), [FOUND])
    assert [(row["method"], row["of"], row["changes"]) for row in rows] == [
        ("spectran", "-", "-"),
        ("spectran_sigma", "spectran", "position = sigma"),
        ("spectran_identity", "spectran", "position = identity"),
    ]
    assert rows[0]["NDCG@20"].startswith(".4583 [") and rows[0]["difference"] == "-"
    assert rows[1]["difference"] == "-.2083 [-.6061, .1895]"
    assert [row["NDCG@20 difference in the paper"] for row in rows] == ["-", "-.0100", "-"]
    ((_, _, rows),) = ablation_groups(numbers(), [Ablation(FULL, FOUND.changes, {})])
    assert not any("paper" in key for key in rows[0])


def test_the_figure_has_a_line_at_no_difference_and_a_row_per_variant():
    only = Ablation(FULL, {SIGMA: "position = sigma"}, {})
    ((_, panel, _),) = ablation_groups(numbers(0.7), [only])
    assert panel.svg.count("<circle") == panel.svg.count('class="whisker') == 1
    x = {
        kind: float(panel.svg.split(f'class="{kind}"')[1].split(f'{at}="')[1].split('"')[0])
        for kind, at in (("reference", "x1"), ("whisker text", "x2"), ("mean text", "cx"))
    }
    # At level 30% the interval lies below 0, which the figure must hold all the same.
    assert x["mean text"] < x["whisker text"] < x["reference"] < 460


def test_names_are_escaped_in_the_figure(monkeypatch):
    hostile = Cell("toys", "minilm", "sasrec", "<b onload=x>")
    monkeypatch.setitem(RANKS, hostile, [1, 1, 1, 1])
    made = numbers(pairs={hostile: FULL})
    ((_, panel, _),) = ablation_groups(made, [Ablation(FULL, {hostile: ""}, {})])
    assert "&lt;b onload=x&gt;" in panel.svg and "<b" not in panel.svg


def test_a_variant_without_its_test_names_the_command(tmp_path):
    made = numbers(pairs={SIGMA: FULL})
    refuse_untested(tmp_path, made, [Ablation(FULL, {SIGMA: ""}, {})])
    wanted = r"no test of toys/minilm/sasrec/spectran_identity against spectran\. Run: .* toys"
    with pytest.raises(ArtifactError, match=wanted):
        refuse_untested(tmp_path, made, [FOUND])


# ------------------------------------------------------------------------- what belongs together


def grid(folder: Path, **methods: dict[str, object]) -> Params:
    """Parameters of toys with two text encoders, one of them permuted."""
    content = plain.content()
    content["methods"] |= methods
    content["grid"] |= {
        "dataset": ["toys"],
        "encoder": ["minilm", "minilm_permuted"],
        "text": {"encoder": ["minilm"], "backbone": ["sasrec", "hstu"], "method": ["spectran"]},
        "control": {
            "encoder": ["minilm_permuted"],
            "backbone": ["sasrec"],
            "method": ["spectran", "spectran_sigma"],
        },
        "ablation": {
            "encoder": ["minilm"],
            "backbone": ["sasrec"],
            "method": ["spectran_sigma", "spectran_identity", "llminit_var"],
        },
        "protocol_plain": {
            "backbone": ["sasrec"],
            "method": [name for name in methods if name != "id"],
        },
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return load(folder / "params.yaml")


PUBLISHED = {"sasrec": {"spectran": 0.0483, "spectran_sigma": 0.0449, "id": 0.0281}}


def test_variants_stand_beside_the_method_of_their_text_and_backbone(tmp_path):
    params = grid(tmp_path)
    shown = cells(params.grid, "toys")
    found = ablations(params, shown, PUBLISHED)
    permuted = Cell("toys", "minilm_permuted", "sasrec", "spectran")
    assert [(one.base, [c.method for c in one.changes]) for one in found] == [
        (FULL, ["spectran_sigma", "spectran_identity"]),  # llminit itself was not run
        (permuted, ["spectran_sigma"]),
    ]
    assert found[0].changes == {SIGMA: "position = sigma", IDENTITY: "position = identity"}
    assert found[0].paper == {SIGMA: pytest.approx(-0.0034)}
    assert found[1].paper == {}, "the paper has no permuted text"
    assert bases(shown, params.methods)[SIGMA] == FULL


def test_of_train_the_values_used_are_compared(tmp_path):
    params = grid(
        tmp_path,
        id={"train": {"dropout": 0.3, "weight_decay": 1.0e-4}},
        id_same={"of": "id", "train": {"dropout": 0.3, "weight_decay": 1.0e-4}},
        id_bare={"of": "id", "train": {"weight_decay": 1.0e-4}},
        id_loss={"of": "id", "train": {"dropout": 0.3, "weight_decay": 1.0e-4,
                                       "loss": {"temperature": 0.2}}},
    )  # fmt: skip
    found = ablations(params, cells(params.grid, "toys"), {})
    (own,) = (one for one in found if one.base == Cell("toys", NONE, "sasrec", "id"))
    assert {cell.method: text for cell, text in own.changes.items()} == {
        "id_same": "nothing",
        "id_bare": "train.dropout = 0.1",
        "id_loss": "train.loss.temperature = 0.2",
    }
