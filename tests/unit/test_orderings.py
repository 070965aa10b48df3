"""The paper's orderings against ours: pairs, verdicts, counts, and the published values."""

import csv
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.comparisons import Paired
from pipeline.naming import names
from pipeline.params import load, read_yaml
from pipeline.reporting.exports import table_csv
from pipeline.reporting.orderings import (
    COLUMNS,
    Pair,
    ordering_rows,
    orderings,
    orderings_markdown,
)
from pipeline.reporting.published import PUBLISHED, REFERENCE
from tests.ranked import ranked

PUBLISHED_HERE = {
    "sasrec": {"id": 0.02, "morec": 0.03, "llminit": 0.03, "spectran": 0.05, "spectran_sigma": 0.01}
}
TRAINED = (
    ("none", "id", 60),
    ("minilm", "morec", 15),
    ("minilm", "llminit", 90),
    ("minilm", "spectran", 30),
    ("minilm", "spectran_sigma", 33),
)
"""Encoder, method, and the bound of the ranks drawn: smaller is better."""
USERS, VALID = 160, 30


def outcomes(encoder, method, bound, backbone="sasrec", seeds=2):
    draw = np.random.default_rng([bound, len(method)])
    rank = draw.integers(1, bound, size=(seeds, USERS)).astype(float)
    rank[:, :VALID] = 1  # validation users would lift every method alike
    split = ["valid"] * VALID + ["test"] * (USERS - VALID)
    return ranked(rank, split, encoder=encoder, backbone=backbone, method=method)


@pytest.fixture
def made():
    return [outcomes(*each) for each in TRAINED]


def naive(found):
    """NDCG@20 of every test user, mean over seeds, by loops."""
    users = []
    for user in range(VALID, USERS):
        gains = [1 / math.log2(1 + r) if r <= 20 else 0.0 for r in found.rank[:, user]]
        users.append(sum(gains) / len(gains))
    return users


def expected(made, published, level=0.95):
    verdicts = {}
    for first, second in combinations(made, 2):
        here, there = published[first.cell.method], published[second.cell.method]
        if here == there:
            continue
        high, low = (first, second) if here > there else (second, first)
        bounds = stats.ttest_rel(naive(high), naive(low)).confidence_interval(level)
        verdict = "not told"
        if bounds.low > 0:
            verdict = "holds"
        elif bounds.high < 0:
            verdict = "reversed"
        verdicts[high.cell.method, low.cell.method] = (verdict, bounds.low, bounds.high)
    return verdicts


def test_verdicts_and_intervals_agree_with_scipy_pair_by_pair(made):
    (group,) = orderings(made, PUBLISHED_HERE, [], 0.05)
    wanted = expected(made, PUBLISHED_HERE["sasrec"])
    assert {v for v, _, _ in wanted.values()} == {"holds", "reversed", "not told"}
    assert {(p.higher, p.lower): p.verdict for p in group.pairs} == {
        names: verdict for names, (verdict, _, _) in wanted.items()
    }
    for pair in group.pairs:
        bounds = wanted[pair.higher, pair.lower][1:]
        assert (pair.test.low, pair.test.high) == pytest.approx(bounds)
        assert pair.paper[0] > pair.paper[1]


def test_tau_counts_pairs_in_the_same_order(made):
    (group,) = orderings(made, PUBLISHED_HERE, [], 0.05)
    ours = {found.cell.method: np.mean(naive(found)) for found in made}
    paper = PUBLISHED_HERE["sasrec"]
    agree = sum(
        np.sign(ours[a] - ours[b]) * np.sign(paper[a] - paper[b]) for a, b in combinations(ours, 2)
    )
    # tau-b: ten pairs of ours, nine of the paper's, which ties morec and llminit
    assert group.tau == pytest.approx(agree / math.sqrt(10 * 9))


def test_the_text_counts_what_the_rows_say(made):
    groups = orderings(made, PUBLISHED_HERE, [], 0.05)
    wanted = [verdict for verdict, _, _ in expected(made, PUBLISHED_HERE["sasrec"]).values()]
    text = "\n".join(orderings_markdown(groups, 0.05, ["", "PROTOCOL", ""]))
    assert (
        f"minilm, sasrec: 9 pairs of 5 methods: {wanted.count('holds')} hold, "
        f"{wanted.count('reversed')} reversed, {wanted.count('not told')} not told; "
        "if no two methods differed, 0.5 would"
    ) in text
    assert "The paper prints 1 more as equal" in text
    main, ablation = text.split("####")[1:]
    rows = [line for line in main.splitlines() if line.startswith("| minilm")]
    assert [line.split(" | ")[2:4] for line in rows] == [
        ["spectran", "id"],
        ["spectran", "morec"],
        ["spectran", "llminit"],
    ]
    assert ablation.count("| minilm") == 1
    assert r"| spectran | spectran\_sigma | .0400 |" in ablation
    table = csv.DictReader(table_csv(list(ordering_rows("toy", groups)), COLUMNS).splitlines())
    assert [row["verdict"] for row in table] == [p.verdict for p in groups[0].pairs]


def test_the_level_of_the_interval_is_that_of_the_card(made):
    (group,) = orderings(made, PUBLISHED_HERE, [], 0.4)
    wanted = expected(made, PUBLISHED_HERE["sasrec"], level=0.6)
    for pair in group.pairs:
        assert pair.test.low == pytest.approx(wanted[pair.higher, pair.lower][1])
    assert "60% interval" in "\n".join(orderings_markdown([group], 0.4, []))


def test_the_id_only_cell_belongs_to_every_encoder_and_controls_to_none(made):
    more = [
        outcomes("bge", "spectran", 12),
        outcomes("changed", "spectran", 12),
        outcomes("minilm", "spectran", 12, backbone="sasrec_d16"),
        outcomes("minilm", "svd", 12),
        outcomes("minilm", "text_neighbour", 12, backbone="none"),
    ]
    groups = orderings([*made, *more], PUBLISHED_HERE, ["changed"], 0.05)
    assert [(g.encoder, g.backbone) for g in groups] == [("minilm", "sasrec"), ("bge", "sasrec")]
    assert groups[0] == orderings(made, PUBLISHED_HERE, [], 0.05)[0]
    assert [(p.higher, p.lower) for p in groups[1].pairs] == [("spectran", "id")]


def test_nothing_published_leaves_no_section(made):
    assert orderings(made, {}, [], 0.05) == []
    assert orderings_markdown([], 0.05, ["PROTOCOL"]) == []


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.002, "holds"),
        (-0.002, -0.001, "reversed"),
        (-0.001, 0.001, "not told"),
        (0.0, 0.001, "not told"),
        (-0.001, 0.0, "not told"),
        (None, None, "not told"),
    ],
)
def test_an_interval_that_touches_zero_tells_nothing(low, high, verdict):
    test = Paired(9, 0.0, low, high, None, None)
    assert Pair("spectran", "id", (0.2, 0.1), test).verdict == verdict


IMPROVEMENT = {
    "toys": {"bert4rec": 13.08, "sasrec": 8.78, "hstu": 9.69},
    "beauty": {"bert4rec": 4.38, "sasrec": 2.10, "hstu": 8.31},
    "clothing": {"bert4rec": 6.04, "sasrec": 6.05, "hstu": 8.65},
    "office": {"bert4rec": 10.93, "sasrec": 8.70, "hstu": 5.09},
}
"""SpecTran over the best other method in NDCG@20, in per cent, as Table 2 prints it."""


@pytest.mark.parametrize("dataset", IMPROVEMENT)
def test_published_values_give_the_printed_improvements(dataset):
    for backbone, values in read_yaml(REFERENCE)[dataset][PUBLISHED].items():
        others = [v for name, v in values.items() if not name.startswith("spectran")]
        gain = 100 * (values["spectran"] / max(others) - 1)
        assert gain == pytest.approx(IMPROVEMENT[dataset][backbone], abs=0.0051)


def test_published_values_bear_names_of_ours_and_agree_with_the_rows():
    methods = load(Path("params.yaml")).methods
    for block in read_yaml(REFERENCE).values():
        assert set(block[PUBLISHED]) == set(names("backbones")) - {"none"}
        for values in block[PUBLISHED].values():
            assert len(values) == 14 and set(values) <= set(methods)
        rows = {(row["backbone"], row["method"]): row["NDCG@20"] for row in block["rows"]}
        assert rows == {(name, "id"): values["id"] for name, values in block[PUBLISHED].items()}
