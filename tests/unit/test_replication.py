"""Published values of models without text against our intervals."""

import csv

import numpy as np
import pytest

from pipeline.evaluation.metrics import crossed_interval, interval, ndcg, run_interval
from pipeline.reporting.exports import table_csv
from pipeline.reporting.replication import (
    COLUMNS,
    replication_markdown,
    replication_rows,
    replications,
)
from tests.ranked import ranked

USERS, VALID = 120, 20


def outcomes(encoder="none", method="id", backbone="sasrec", seeds=3):
    rank = np.random.default_rng(0).integers(1, 60, size=(seeds, USERS)).astype(float)
    rank[0] = np.maximum(rank[0] - 4, 1)  # a better seed: the seeds' spread counts
    rank[:, :VALID] = 1  # would lift the mean, were they counted
    split = ["valid"] * VALID + ["test"] * (USERS - VALID)
    return ranked(rank, split, encoder=encoder, backbone=backbone, method=method)


def paper(value, **changes):
    row = {"name": "paper", "source": "Table 2", "backbone": "sasrec", "method": "id"}
    return {**row, "NDCG@20": value, **changes}


def test_a_value_is_inside_or_on_the_side_it_lies_on():
    values = ndcg(outcomes().rank[:, VALID:], 20)
    low, high = crossed_interval(values, 0.05)
    for value, verdict in (
        (low + 1e-9, "inside"),
        (high - 1e-9, "inside"),
        (low - 1e-9, "below"),
        (high + 1e-9, "above"),
    ):
        (found,) = replications([outcomes()], [paper(value)], [10, 20], 0.05)
        assert found.verdict == verdict
        assert (found.metric, found.k, found.users, found.seeds) == ("ndcg", 20, 100, 3)
        assert found.mean == pytest.approx(values.mean())
        assert found.over_users == pytest.approx(interval(values.mean(axis=0), 0.05))
        assert found.bounds == pytest.approx((low, high))
        assert found.one_run == pytest.approx(run_interval(values, 0.05))
        assert low < found.over_users[0] and found.over_users[1] < high


@pytest.mark.parametrize(
    ("cell", "row"),
    [
        (outcomes(backbone="hstu"), paper(0.1)),
        (outcomes(method="id_softmax"), paper(0.1)),
        (outcomes(encoder="minilm"), paper(0.1)),
        (outcomes(seeds=1), paper(0.1)),
        (outcomes(), paper(None)),
        (outcomes(), {"name": "paper", "source": "Table 2", "NDCG@20": 0.1}),
    ],
    ids=["backbone", "method", "reads text", "one seed", "not printed", "older card"],
)
def test_what_cannot_be_compared_is_left_out(cell, row):
    assert replications([cell], [row], [20], 0.05) == []
    assert replication_markdown([], "95%", ["protocol"]) == []


def test_table_and_file_say_the_same():
    found = replications([outcomes()], [paper(0.5, **{"HR@20": 0.001})], [20], 0.05)
    lines = replication_markdown(found, "95%", ["protocol"])
    assert [line.split(" | ")[-1] for line in lines if line.startswith("| sasrec")] == [
        "below |",
        "above |",
    ]
    (hits, gains) = csv.DictReader(
        table_csv(list(replication_rows("toy", found)), COLUMNS).splitlines()
    )
    assert (hits["metric"], hits["published_is"]) == ("hr", "below")
    assert (gains["metric"], gains["published_is"]) == ("ndcg", "above")
    values = ndcg(outcomes().rank[:, VALID:], 20)
    for names, bounds in (
        (("low_users", "high_users"), interval(values.mean(axis=0), 0.05)),
        (("low", "high"), crossed_interval(values, 0.05)),
        (("low_run", "high_run"), run_interval(values, 0.05)),
    ):
        assert [float(gains[name]) for name in names] == pytest.approx(bounds, rel=1e-5)
