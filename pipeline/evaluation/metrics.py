"""Metrics from ranks: HR, NDCG and MRR at K, by slice, with spread over seeds and users.

To add a metric, add a function to METRICS; nothing is trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import artifacts
from pipeline.config import EvaluateConfig, Strata
from pipeline.evaluation.outcomes import SPLITS, Outcomes


def hit(rank: np.ndarray, k: int) -> np.ndarray:
    """HR@K of one relevant item: 1 where it is among the first K."""
    return np.where(rank <= k, 1.0, 0.0)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """NDCG@K of one relevant item; its ideal value is 1, at rank 1."""
    gain: np.ndarray = np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)
    return gain


def mrr(rank: np.ndarray, k: int) -> np.ndarray:
    """Reciprocal rank, 0 beyond K."""
    gain: np.ndarray = np.where(rank <= k, 1.0 / rank, 0.0)
    return gain


METRICS: Mapping[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "hr": hit,
    "ndcg": ndcg,
    "mrr": mrr,
}
"""Name -> values of the same shape as the ranks, each in [0, 1]."""

SLICES = ("all", "warm", "median", "cold", "unseen")


def in_slice(train_count: np.ndarray, name: str, strata: Strata) -> np.ndarray:
    """[U] bool: the targets of a slice, by their number of training events."""
    far = np.iinfo(np.int64).max
    first, last = {
        "all": (0, far),
        "unseen": (0, 0),
        "cold": (1, strata.cold_at_most),
        "median": (strata.cold_at_most + 1, strata.median_at_most),
        "warm": (strata.median_at_most + 1, far),
    }[name]
    inside: np.ndarray = (train_count >= first) & (train_count <= last)
    return inside


def slice_sizes(outcomes: Outcomes, split: str, strata: Strata) -> dict[str, int]:
    """Users of every slice of one split."""
    counts = outcomes.of_split(split).train_count
    return {name: int(in_slice(counts, name, strata).sum()) for name in SLICES}


def interval(values: np.ndarray, alpha: float) -> tuple[float, float] | None:
    """Student's t interval, level 1 - alpha, of the mean of [U] values; None for fewer than two."""
    count = len(values)
    if count < 2:
        return None
    half = _quantile(count - 1, alpha) * values.std(ddof=1) / np.sqrt(count)
    return float(values.mean() - half), float(values.mean() + half)


def crossed_interval(values: np.ndarray, alpha: float) -> tuple[float, float] | None:
    """t interval, level 1 - alpha, of the mean of [S, U] values when both seeds and users could
    have been others; None for fewer than two of either.

    Variance of the mean by the two-way random effects model without replication, degrees of freedom
    by Satterthwaite. A component of the seeds below zero counts as none, and the interval is then
    that over users alone.
    Source: Brennan, Generalizability Theory (2001), chapter 3 (persons by items, both random);
    Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    seeds, users = values.shape
    if seeds < 2 or users < 2:
        return None
    of_user, of_seed, mean = values.mean(axis=0), values.mean(axis=1), values.mean()
    rest = values - of_user[None, :] - of_seed[:, None] + mean
    # Mean squares over S U: what each adds to the variance of the mean.
    by_user = of_user.var(ddof=1) / users
    by_seed = of_seed.var(ddof=1) / seeds
    by_rest = (rest**2).sum() / ((seeds - 1) * (users - 1)) / values.size
    if by_seed <= by_rest:
        return interval(of_user, alpha)
    variance = by_user + by_seed - by_rest
    degrees = variance**2 / (
        by_user**2 / (users - 1)
        + by_seed**2 / (seeds - 1)
        + by_rest**2 / ((seeds - 1) * (users - 1))
    )
    half = _quantile(float(degrees), alpha) * np.sqrt(variance)
    return float(mean - half), float(mean + half)


def run_interval(values: np.ndarray, alpha: float) -> tuple[float, float] | None:
    """t interval, level 1 - alpha, that the mean of one further seed on the same users would lie
    in, given [S, U] values; None for one seed.
    """
    means = values.mean(axis=1)
    if len(means) < 2 or values.shape[1] == 0:
        return None
    half = _quantile(len(means) - 1, alpha) * means.std(ddof=1) * np.sqrt(1 + 1 / len(means))
    return float(means.mean() - half), float(means.mean() + half)


@cache
def _quantile(degrees: float, alpha: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(1 - alpha / 2, degrees))


def summary(values: np.ndarray, alpha: float) -> dict[str, Any]:
    """Mean, deviation over seeds and 1 - alpha interval over users of [S, U] per-user values.

    deviation is the sample deviation of the seeds' means: None for one seed. The interval is of
    the users' values averaged over seeds, so it says how far other users could move the mean; it is
    cut to [0, 1], where every metric lies.
    """
    seeds, users = values.shape
    if users == 0:
        return {
            "users": 0,
            "seeds": seeds,
            "mean": None,
            "deviation": None,
            "low": None,
            "high": None,
        }
    bounds = interval(values.mean(axis=0), alpha)
    return {
        "users": users,
        "seeds": seeds,
        "mean": float(values.mean()),
        "deviation": float(values.mean(axis=1).std(ddof=1)) if seeds > 1 else None,
        "low": max(bounds[0], 0.0) if bounds else None,
        "high": min(bounds[1], 1.0) if bounds else None,
    }


def measure(outcomes: Sequence[Outcomes], config: EvaluateConfig) -> pa.Table:
    """Return the rows of METRICS for cells of one data set, in the order given."""
    rows: list[dict[str, Any]] = []
    for cell in outcomes:
        for split in SPLITS:
            part = cell.of_split(split)
            if not len(part.user):
                continue
            masks = {name: in_slice(part.train_count, name, config.strata) for name in SLICES}
            for metric, function in METRICS.items():
                for k in config.ks:
                    values = function(part.rank, k)
                    for name, mask in masks.items():
                        rows.append(
                            {
                                "encoder": cell.cell.encoder,
                                "backbone": cell.cell.backbone,
                                "method": cell.cell.method,
                                "split": split,
                                "slice": name,
                                "metric": metric,
                                "k": k,
                                **summary(values[:, mask], config.alpha),
                            }
                        )
    return pa.Table.from_pylist(rows, schema=artifacts.METRICS.schema)
