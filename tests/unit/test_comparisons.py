"""Paired tests over users and their correction."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.cells import Cell, bases
from pipeline.config import EvaluateConfig, Strata
from pipeline.evaluation.comparisons import compare, holm, id_only, paired
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.outcomes import Outcomes

CONFIG = EvaluateConfig(
    ks=[10], seen_items="candidates", strata=Strata(cold_at_most=6, median_at_most=50), alpha=0.05
)


CONTROLS = {"noise": "hash"}


def outcomes(method, rank, encoder="none", backbone="sasrec"):
    rank = np.asarray(rank, dtype=float)
    users = rank.shape[1]
    return Outcomes(
        cell=Cell("toy", encoder, backbone, method),
        seeds=tuple(range(len(rank))),
        user=np.arange(users),
        split=np.asarray(["test"] * users),
        target=np.ones(users, dtype=np.int64),
        train_count=np.full(users, 9),
        rank=rank,
        items="0" * 64,
        provenance={},
    )


def test_paired_agrees_with_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.random(50), rng.random(50)
    found = paired(first, second, 0.05)
    assert found.p_t == stats.ttest_rel(first, second).pvalue
    assert found.p_wilcoxon == stats.wilcoxon(first, second, method="approx").pvalue
    bounds = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))


def test_equal_cells_do_not_differ():
    found = paired(np.array([0.1, 0.4, 0.0]), np.array([0.1, 0.4, 0.0]), 0.05)
    assert (found.difference, found.p_t, found.p_wilcoxon) == (0, 1, 1)


def test_one_user_gives_no_test():
    assert paired(np.array([1.0]), np.array([0.0]), 0.05).p_t is None


def test_a_constant_gap_gives_finite_numbers():
    found = paired(np.array([0.5, 0.5, 0.5]), np.array([0.0, 0.0, 0.0]), 0.05)
    assert found.p_t == 0 and found.low == found.high == 0.5


def test_holm_by_hand():
    # Holm on .01 .04 .03 .005: sorted .005*4, .01*3, .03*2, .04*1 -> .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(values):
    for raw, adjusted in zip(values, holm(values), strict=True):
        assert raw <= adjusted <= min(1.0, raw * len(values)) + 1e-12


def test_seeds_are_averaged_before_the_test():
    # Seeds disagree per user, their means are equal: nothing to find.
    a = outcomes("id", [[1, 5, 1, 5], [5, 1, 5, 1]])
    b = outcomes("spectran", [[5, 1, 5, 1], [1, 5, 1, 5]], "hash")
    rows = [r for r in compare([a, b], CONFIG, CONTROLS, {}).to_pylist() if r["metric"] == "ndcg"]
    assert rows and all(row["difference"] == 0 and row["p_t"] == 1 for row in rows)


def test_every_cell_meets_id_and_the_best():
    rng = np.random.default_rng(0)
    low, mid, high = (rng.integers(1, top, size=(2, 80)) for top in (60, 40, 6))
    found = compare(
        [
            outcomes("popularity", low, backbone="none"),
            outcomes("id", mid),
            outcomes("spectran", high, "hash"),
        ],
        CONFIG,
        CONTROLS,
        {},
    ).to_pylist()
    rows = [r for r in found if r["metric"] == "ndcg"]
    pairs = {(r["against"], r["method"], r["other_method"]): r for r in rows}
    assert set(pairs) == {
        ("id", "popularity", "id"),
        ("id", "spectran", "id"),
        ("best", "popularity", "spectran"),
        ("best", "id", "spectran"),
    }
    assert pairs["id", "spectran", "id"]["difference"] > 0
    assert pairs["best", "id", "spectran"]["difference"] < 0
    assert pairs["id", "spectran", "id"]["p_t_holm"] < 0.001
    for row in rows:
        assert row["p_t_holm"] >= row["p_t"] and row["p_wilcoxon_holm"] >= row["p_wilcoxon"]


def test_id_of_the_same_backbone_is_the_reference():
    known = [Cell("toy", "none", b, "id") for b in ("gru", "sasrec")]
    assert id_only(Cell("toy", "hash", "sasrec", "morec"), known) == known[1]
    assert id_only(Cell("toy", "hash", "none", "text_neighbour"), known) == known[0]
    assert id_only(Cell("toy", "hash", "bert", "morec"), known) is None


def on_both(method, valid, test, encoder="none", backbone="sasrec"):
    """Outcomes of one seed on validation and test users."""
    joined = outcomes(method, [[*valid, *test]], encoder, backbone)
    return replace(joined, split=np.asarray(["valid"] * len(valid) + ["test"] * len(test)))


def test_text_meets_the_strongest_model_without_text_chosen_on_validation_users():
    rng = np.random.default_rng(0)
    low, mid, high = (rng.integers(1, top, size=80) for top in (60, 30, 6))
    cells = [
        on_both("id", low, high),
        on_both("id_softmax", high, mid),  # strongest on validation users alone
        on_both("id_other", mid, high),
        on_both("spectran", mid, low, "hash"),
        on_both("text_neighbour", high, high, "hash", "none"),
        on_both("id", low, low, backbone="hstu"),
        on_both("spectran", high, high, "hash", "hstu"),
    ]
    rows = [r for r in compare(cells, CONFIG, CONTROLS, {}).to_pylist() if r["against"] == "plain"]
    found = {(r["method"], r["backbone"], r["other_method"], r["other_backbone"]) for r in rows}
    assert found == {("spectran", "sasrec", "id_softmax", "sasrec")}
    row = next(r for r in rows if (r["split"], r["metric"]) == ("test", "ndcg"))
    alone = paired(*(METRICS["ndcg"](r.astype(float), 10) for r in (low, mid)), 0.05)
    assert (row["difference"], row["p_t"]) == (alone.difference, alone.p_t)
    assert row["p_t_holm"] == row["p_t"]


def test_text_meets_its_own_form_on_text_without_meaning():
    rng = np.random.default_rng(0)
    low, mid, high = (rng.integers(1, top, size=(2, 80)) for top in (60, 30, 6))
    cells = [
        outcomes("id", mid),
        outcomes("spectran", high, "hash"),
        outcomes("spectran", low, "noise"),
        outcomes("svd", low, "noise"),  # its form on the real text was not run
        outcomes("spectran", low, "hash", "hstu"),
    ]
    rows = [
        r for r in compare(cells, CONFIG, CONTROLS, {}).to_pylist() if r["against"] == "control"
    ]
    found = {(r["encoder"], r["method"], r["other_encoder"], r["other_backbone"]) for r in rows}
    assert found == {("hash", "spectran", "noise", "sasrec")}
    assert all(r["difference"] > 0 for r in rows)
    assert "control" not in compare(cells, CONFIG, {}, {})["against"].to_pylist()


def test_a_variant_meets_the_method_it_is_made_from():
    rng = np.random.default_rng(0)
    low, mid, high = (rng.integers(1, top, size=(2, 80)) for top in (60, 30, 6))
    made = [
        outcomes("spectran", high, "hash"),
        outcomes("spectran_sigma", mid, "hash"),
        outcomes("spectran_identity", low, "hash"),
        outcomes("spectran_sigma", mid, "noise"),  # its method was not run there
        outcomes("spectran_sigma", mid, "hash", "hstu"),
    ]
    blocks = {name: {"of": "spectran"} for name in ("spectran_sigma", "spectran_identity")}
    pairs = bases([one.cell for one in made], {"spectran": {}, **blocks})
    rows = [r for r in compare(made, CONFIG, {}, pairs).to_pylist() if r["against"] == "base"]
    rows = [r for r in rows if r["metric"] == "ndcg"]
    assert [(r["encoder"], r["backbone"], r["method"], r["other_method"]) for r in rows] == [
        ("hash", "sasrec", name, "spectran") for name in ("spectran_sigma", "spectran_identity")
    ]
    ranks = (np.asarray(r, dtype=float) for r in (mid, low, high))
    sigma, identity, full = (METRICS["ndcg"](rank, 10).mean(axis=0) for rank in ranks)
    tests = [paired(value, full, 0.05) for value in (sigma, identity)]
    assert [r["difference"] for r in rows] == [test.difference for test in tests]
    assert [r["low"] for r in rows] == [test.low for test in tests]
    assert [r["p_t_holm"] for r in rows] == holm([test.p_t for test in tests])


def test_without_validation_users_nothing_is_the_strongest():
    rank = np.random.default_rng(0).integers(1, 9, size=(1, 30))
    cells = [outcomes("id", rank), outcomes("id_softmax", rank), outcomes("morec", rank, "hash")]
    assert "plain" not in compare(cells, CONFIG, CONTROLS, {})["against"].to_pylist()


def test_without_users_there_are_no_rows():
    empty = outcomes("id", np.empty((1, 0)))
    assert len(compare([empty, replace(empty)], CONFIG, CONTROLS, {})) == 0
