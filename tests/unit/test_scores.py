"""What a cell reached, as training says it at its end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.config import EvaluateConfig, Strata
from pipeline.reporting.scores import scores_line, scores_of
from tests.ranked import ranked

STRATA = Strata(cold_at_most=6, median_at_most=50)


def test_scores_are_means_over_users_and_seeds_at_the_main_cut_off() -> None:
    """By hand: two seeds, one validation user and three test users."""
    config = EvaluateConfig(ks=[5, 10, 20, 50], seen_items="candidates", strata=STRATA, alpha=0.05)
    rank = np.array([[1.0, 3, 21, 7], [21, 20, 1, 60]])
    found = scores_of(ranked(rank, ["valid", "test", "test", "test"]), config)
    gains = [1 / math.log2(1 + r) for r in (3, 7, 20, 1)]
    assert found == pytest.approx(
        {
            "valid/ndcg@20": 1 / 2,
            "valid/hr@20": 1 / 2,
            "test/ndcg@20": sum(gains) / 6,
            "test/hr@20": 4 / 6,
        }
    )
    assert scores_line(found).startswith("valid NDCG@20 .5000, HR@20 .5000; test NDCG@20 .")
