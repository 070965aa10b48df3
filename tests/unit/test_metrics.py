"""Metrics from ranks, by hand and against ir_measures."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.config import EvaluateConfig, Strata
from pipeline.evaluation.metrics import (
    METRICS,
    crossed_interval,
    in_slice,
    interval,
    measure,
    run_interval,
    slice_sizes,
    summary,
)
from pipeline.evaluation.outcomes import rank_of
from tests.ranked import ranked

STRATA = Strata(cold_at_most=6, median_at_most=50)
CONFIG = EvaluateConfig(ks=[1, 2], seen_items="candidates", strata=STRATA, alpha=0.05)


def outcomes(rank, split=None, train_count=None):
    rank = np.asarray(rank, dtype=float)
    return ranked(rank, split or ["test"] * rank.shape[1], train_count=train_count)


def test_a_collapsed_model_ranks_in_the_middle():
    # 9 candidates, all scores equal: 8 rivals tie with the target.
    assert rank_of(np.array([0]), np.array([8]))[0] == 5.0


@pytest.mark.parametrize(
    ("rank", "k", "hr", "ndcg", "mrr"),
    [
        (1.0, 1, 1, 1.0, 1.0),
        (1.5, 1, 0, 0.0, 0.0),
        (1.5, 2, 1, 1 / math.log2(2.5), 1 / 1.5),
        (3.0, 5, 1, 0.5, 1 / 3),
        (6.0, 5, 0, 0.0, 0.0),
        (5.0, 500, 1, 1 / math.log2(6), 0.2),
    ],
)
def test_values_at_a_rank(rank, k, hr, ndcg, mrr):
    found = {name: float(f(np.array([rank]), k)[0]) for name, f in METRICS.items()}
    assert found == pytest.approx({"hr": hr, "ndcg": ndcg, "mrr": mrr})


def _library(places, ks):
    """Values of ir_measures for one relevant item at a place, of every query."""
    from ir_measures import RR, Success, calc, nDCG

    kinds = {"hr": Success, "ndcg": nDCG, "mrr": RR}
    wanted = {kinds[metric] @ k: (metric, k) for metric in METRICS for k in ks}
    run = {}
    for query, (place, candidates) in enumerate(places):
        names = [f"d{j}" for j in range(candidates - 1)]
        names.insert(place - 1, "target")
        run[str(query)] = {name: float(candidates - j) for j, name in enumerate(names)}
    found = {key: np.full(len(places), np.nan) for key in wanted.values()}
    for row in calc(list(wanted), {query: {"target": 1} for query in run}, run).per_query:
        found[wanted[row.measure]][int(row.query_id)] = row.value
    return found


def test_metrics_agree_with_ir_measures_on_1000_cases_with_ties():
    """Ties enter the library as an order.

    With e tied rivals, ceil(e/2) of them before the target put it at place ceil(r). For even e
    that is r itself and all metrics must be equal. For odd e, r lies half a place before: a hit
    is the same event, and the graded metrics lie between those of the two places around r.
    """
    rng = np.random.default_rng(0)
    ks = (1, 5, 10, 60)  # 60 is beyond every catalogue
    greater, equal, candidates = [], [], []
    for case in range(1000):
        n = int(rng.integers(2, 41))
        match case % 5:
            case 0:  # first, alone
                g, e = 0, 0
            case 1:  # last, alone
                g, e = n - 1, 0
            case 2:  # everything equal
                g, e = 0, n - 1
            case _:
                scores = rng.integers(0, 6, size=n)
                target = int(rng.integers(n))
                g = int((scores > scores[target]).sum())
                e = int((scores == scores[target]).sum()) - 1
        greater.append(g)
        equal.append(e)
        candidates.append(n)
    greater, equal = np.array(greater), np.array(equal)
    assert (equal % 2 == 1).sum() > 100 and ((equal % 2 == 0) & (equal > 0)).sum() > 100
    rank = rank_of(greater, equal)
    later = 1 + greater + (equal + 1) // 2
    earlier = 1 + greater + equal // 2
    after = _library(list(zip(later, candidates, strict=True)), ks)
    before = _library(list(zip(earlier, candidates, strict=True)), ks)
    whole = equal % 2 == 0
    for (metric, k), value in after.items():
        ours = METRICS[metric](rank, k)
        assert ours[whole] == pytest.approx(value[whole], abs=1e-12), (metric, k)
        assert (ours[~whole] <= before[metric, k][~whole] + 1e-12).all(), (metric, k)
        if metric == "hr":
            assert (ours == value).all()
        else:
            hit = ~whole & (later <= k)
            assert (ours[hit] > value[hit]).all(), (metric, k)


def test_metrics_agree_with_a_loop_over_scores():
    rng = np.random.default_rng(1)
    for _ in range(300):
        n = int(rng.integers(1, 30))
        scores, target, k = (
            rng.integers(0, 4, size=n),
            int(rng.integers(n)),
            int(rng.integers(1, 40)),
        )
        place = 1.0
        for other in range(n):
            if other != target:
                place += 1.0 if scores[other] > scores[target] else 0.0
                place += 0.5 if scores[other] == scores[target] else 0.0
        g = np.array([(scores > scores[target]).sum()])
        e = np.array([(scores == scores[target]).sum() - 1])
        rank = rank_of(g, e)
        assert rank[0] == place
        assert METRICS["ndcg"](rank, k)[0] == (1 / math.log2(place + 1) if place <= k else 0)
        assert METRICS["mrr"](rank, k)[0] == (1 / place if place <= k else 0)
        assert METRICS["hr"](rank, k)[0] == (place <= k)


def test_slices_partition_all_targets():
    counts = np.array([0, 1, 6, 7, 50, 51, 1000])
    found = {
        name: in_slice(counts, name, STRATA).tolist()
        for name in ("unseen", "cold", "median", "warm")
    }
    assert found == {
        "unseen": [True, False, False, False, False, False, False],
        "cold": [False, True, True, False, False, False, False],
        "median": [False, False, False, True, True, False, False],
        "warm": [False, False, False, False, False, True, True],
    }


def test_slice_sizes_count_users_of_one_split():
    cell = outcomes([[1, 1, 1]], ["test", "valid", "test"], [0, 3, 60])
    assert slice_sizes(cell, "test", STRATA) == {
        "all": 2, "warm": 1, "median": 0, "cold": 0, "unseen": 1,
    }  # fmt: skip


def test_mean_deviation_and_interval_by_hand():
    # Two seeds, four users. Means per seed .55 and .45; per user .6, .5, .4, .5.
    values = np.array([[0.7, 0.5, 0.5, 0.5], [0.5, 0.5, 0.3, 0.5]])
    found = summary(values, 0.05)
    assert found["mean"] == pytest.approx(0.5)
    assert found["deviation"] == pytest.approx(0.1 / math.sqrt(2))
    half = 3.182446305284263 * math.sqrt(0.02 / 3) / 2  # t quantile of 3 degrees of freedom, .975
    assert (found["low"], found["high"]) == pytest.approx((0.5 - half, 0.5 + half))


def test_an_interval_is_cut_to_where_metrics_lie():
    found = summary(np.array([[1.0, 0.0, 0.0]]), 0.05)
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_one_seed_has_no_deviation_and_one_user_no_interval():
    found = summary(np.array([[0.5]]), 0.05)
    assert (found["mean"], found["deviation"], found["low"]) == (0.5, None, None)


def test_an_empty_slice_has_no_mean():
    table = measure([outcomes([[1, 2]])], CONFIG).to_pylist()
    cold = [row for row in table if row["slice"] == "unseen"]
    assert cold and all(row["users"] == 0 and row["mean"] is None for row in cold)


def test_splits_are_measured_apart():
    table = measure([outcomes([[1, 2, 9]], ["valid", "test", "test"])], CONFIG).to_pylist()
    found = {
        (row["split"], row["k"]): (row["users"], row["mean"])
        for row in table
        if row["metric"] == "hr" and row["slice"] == "all"
    }
    assert found == {
        ("valid", 1): (1, 1.0),
        ("valid", 2): (1, 1.0),
        ("test", 1): (2, 0.0),
        ("test", 2): (2, 0.5),
    }


# ---------------------------------------------------------------- users and seeds


def drawn(draw, seeds, users, by_user, by_seed, rest):
    """[S, U] values of mean zero."""
    return (
        by_user * draw.normal(size=users)
        + by_seed * draw.normal(size=(seeds, 1))
        + rest * draw.normal(size=(seeds, users))
    )


def test_the_interval_over_users_and_seeds_is_that_of_the_analysis_of_variance():
    """Sums of squares by loops; expected mean squares solved for the three components."""
    values = drawn(np.random.default_rng(0), 4, 9, 1.0, 0.8, 0.5)
    seeds, users = values.shape
    mean = sum(values[s, u] for s in range(seeds) for u in range(users)) / (seeds * users)
    of_seed = [sum(values[s]) / users for s in range(seeds)]
    of_user = [sum(values[:, u]) / seeds for u in range(users)]
    ms_seed = users * sum((m - mean) ** 2 for m in of_seed) / (seeds - 1)
    ms_user = seeds * sum((m - mean) ** 2 for m in of_user) / (users - 1)
    ms_rest = sum(
        (values[s, u] - of_seed[s] - of_user[u] + mean) ** 2
        for s in range(seeds)
        for u in range(users)
    ) / ((seeds - 1) * (users - 1))
    seed_part, user_part = (ms_seed - ms_rest) / users, (ms_user - ms_rest) / seeds
    variance = seed_part / seeds + user_part / users + ms_rest / (seeds * users)
    squares = ms_seed**2 / (seeds - 1) + ms_user**2 / (users - 1)
    squares += ms_rest**2 / ((seeds - 1) * (users - 1))
    degrees = (ms_seed + ms_user - ms_rest) ** 2 / squares
    assert ms_seed > ms_rest
    expected = stats.t.interval(0.9, degrees, loc=mean, scale=math.sqrt(variance))
    assert crossed_interval(values, 0.1) == pytest.approx(expected, abs=1e-12)


def test_the_interval_over_users_and_seeds_holds_the_mean_as_often_as_it_says():
    """Known mean zero: a share of 95% of 2,000 draws has a standard error of 0.5%.

    Seeds and users spread the mean alike. Where three seeds are nearly all of the spread, as they
    are not here, two degrees of freedom are told too badly, and the interval is a little short.
    """
    draw = np.random.default_rng(0)
    held = {"crossed": 0, "users": 0}
    for _ in range(2000):
        values = drawn(draw, 3, 60, 1.0, 0.15, 1.0)
        for name, (low, high) in {
            "crossed": crossed_interval(values, 0.05),
            "users": interval(values.mean(axis=0), 0.05),
        }.items():
            held[name] += low <= 0 <= high
    assert 0.935 < held["crossed"] / 2000 < 0.965
    assert held["users"] / 2000 < 0.92, "the seeds' spread is what this interval leaves out"


def test_seeds_that_differ_less_than_chance_add_nothing():
    values = np.tile(np.random.default_rng(0).normal(size=40), (3, 1))
    assert crossed_interval(values, 0.05) == pytest.approx(interval(values[0], 0.05))
    values = values + np.random.default_rng(1).normal(size=values.shape)
    values -= values.mean(axis=1, keepdims=True)  # the seeds' means are equal, their users are not
    assert crossed_interval(values, 0.05) == pytest.approx(interval(values.mean(axis=0), 0.05))
    assert crossed_interval(values[:1], 0.05) is None
    assert crossed_interval(values[:, :1], 0.05) is None


def test_one_more_seed_lies_in_its_interval_as_often_as_it_says():
    """On fixed users, so their spread must not count; 2,000 draws, standard error .5%."""
    draw = np.random.default_rng(1)
    users, held = draw.normal(size=60), 0
    for _ in range(2000):
        values = users + 0.3 * draw.normal(size=(4, 1))
        low, high = run_interval(values[:3], 0.05)
        held += low <= values[3].mean() <= high
    assert 0.935 < held / 2000 < 0.965
    assert run_interval(values[:1], 0.05) is None
