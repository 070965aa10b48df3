"""`spectran diff`: two cells on the same users."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import ArtifactError, ConfigError
from stages.diff import diff

ONE, TWO = "demo/minilm/sasrec/spectran", "demo/none/sasrec/id"


def test_diff_agrees_with_a_test_by_hand(measured, capsys):
    diff(measured.run("diff", json=True), ONE, TWO)
    rows = json.loads(capsys.readouterr().out)["rows"]
    values = []
    for method in ("spectran", "id"):
        tables = [measured.table(method, seed) for seed in (0, 1)]
        rank = np.stack([1 + t["greater"].to_numpy() + t["equal"].to_numpy() / 2 for t in tables])
        rank = rank[:, 40:]  # validation users come first
        values.append(np.where(rank <= 20, 1 / np.log2(rank + 1), 0).mean(0))
    test = stats.ttest_rel(*values)
    row = next(r for r in rows if (r["metric"], r["k"]) == ("ndcg", 20))
    bounds = test.confidence_interval()
    assert row["users"] == 90
    assert row["p_t"] == pytest.approx(test.pvalue)
    assert (row["low"], row["high"]) == pytest.approx((bounds.low, bounds.high))
    assert row["difference"] == pytest.approx(row["first"] - row["second"])


def test_text_names_both_cells_and_every_cut_off(measured, capsys):
    diff(measured.run("diff"), ONE, TWO, part="unseen")
    out = capsys.readouterr().out
    assert ONE in out and TWO in out and "slice unseen" in out and "18 test users" in out
    assert all(f"NDCG@{k}" in out for k in (5, 10, 20, 50))


def test_a_cell_does_not_differ_from_itself(measured, capsys):
    diff(measured.run("diff", json=True), ONE, ONE)
    for row in json.loads(capsys.readouterr().out)["rows"]:
        assert (row["difference"], row["p_t"], row["p_wilcoxon"]) == (0, 1, 1)


def test_cells_of_different_data_sets_are_refused(measured):
    with pytest.raises(ConfigError, match="share no users"):
        diff(measured.run("diff"), ONE, "toys/none/sasrec/id")


def test_an_unknown_slice_is_refused_with_a_hint(measured):
    with pytest.raises(ConfigError, match=r"--slice unsean: unknown\. Did you mean unseen\?"):
        diff(measured.run("diff"), ONE, TWO, part="unsean")


def test_an_untrained_cell_is_named_with_its_command(measured):
    with pytest.raises(ArtifactError, match="Run: spectran train demo none sasrec id_light"):
        diff(measured.run("diff"), ONE, "demo/none/sasrec/id_light")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("demo/none/sasrec/idd", r"methods\.idd: no such block.* Did you mean id\?"),
        ("demo/none/sasrek/id", r"backbones\.sasrek: no such block.* Did you mean sasrec\?"),
        ("demo/minilmm/sasrec/svd", r"minilmm.* Did you mean minilm\?"),
    ],
)
def test_a_misspelt_cell_is_no_untrained_one(measured, cell, told):
    with pytest.raises(ConfigError, match=told):
        diff(measured.run("diff"), ONE, cell)
