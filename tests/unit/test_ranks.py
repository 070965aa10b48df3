"""Ranks against a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.errors import DataError
from pipeline.evaluation import metrics, ranks
from pipeline.evaluation.outcomes import rank_of
from pipeline.sampling.batches import History, held_out
from pipeline.values import Sequences


def data(users: int = 40, items: int = 15, length: int = 5) -> Sequences:
    rng = np.random.default_rng(1)
    end = np.full(users, length - 1)
    return Sequences(
        raw_users=pa.array([str(n) for n in range(users)]),
        items=rng.integers(1, items + 1, users * length),
        times=None,
        offsets=np.arange(users + 1) * length,
        train_end=end,
        valid_at=np.full(users, -1),
        test_at=end,
        num_items=items,
        fingerprint="",
    )


def tied_scores(users: int, items: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(0, 4, (users, items))).float()


@pytest.mark.parametrize("chunk", [1, 10**9])
def test_counts_equal_a_naive_loop(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "CHUNK_BYTES", chunk)
    world = data()
    held = held_out(world, "test")
    scores = tied_scores(len(held), world.num_items)
    served = iter(scores.split(1) if chunk == 1 else [scores])
    found = ranks.rank(lambda history: next(served), held, 4, world.num_items)
    for row, (user, target) in enumerate(zip(held.users, held.targets, strict=True)):
        own = scores[row, target - 1]
        history = set(world.items[user * 5 : user * 5 + 4].tolist())
        everyone = [n for n in range(1, world.num_items + 1) if n != target]
        unseen = [n for n in everyone if n not in history]
        assert found["greater"][row] == sum(scores[row, n - 1] > own for n in everyone)
        assert found["equal"][row] == sum(scores[row, n - 1] == own for n in everyone)
        assert found["greater_unseen"][row] == sum(scores[row, n - 1] > own for n in unseen)
        assert found["equal_unseen"][row] == sum(scores[row, n - 1] == own for n in unseen)
        assert found["candidates_unseen"][row] == len(unseen) + 1


def test_collapsed_model_does_not_score_as_perfect() -> None:
    world = data()
    held = held_out(world, "test")

    def constant(history: History) -> torch.Tensor:
        return torch.zeros(len(history.items), world.num_items)

    found = ranks.rank(constant, held, 4, world.num_items)
    assert (found["greater"] == 0).all()
    assert (found["equal"] == world.num_items - 1).all()
    # the middle rank of 15 equal candidates is 8: beyond 5, so NDCG@5 is zero
    assert ranks.ndcg(found["greater"], found["equal"], 5) == 0


def test_ndcg_by_hand() -> None:
    greater, equal = np.array([0, 1, 4]), np.array([0, 1, 0])
    # ranks 1, 2.5, 5
    expected = (1 + 1 / math.log2(3.5) + 1 / math.log2(6)) / 3
    assert ranks.ndcg(greater, equal, 5) == pytest.approx(expected)
    assert ranks.ndcg(greater, equal, 2) == pytest.approx(1 / 3)


def test_early_stopping_watches_the_ndcg_that_is_reported() -> None:
    draw = np.random.default_rng(3)
    greater, equal = draw.integers(0, 12, (2, 200))
    for k in (1, 5, 10):
        reported = metrics.ndcg(rank_of(greater, equal), k).mean()
        assert ranks.ndcg(greater, equal, k) == reported


def test_nan_scores_are_refused() -> None:
    world = data()
    held = held_out(world, "test")
    with pytest.raises(DataError, match="a score is NaN"):
        ranks.rank(lambda h: torch.full((len(h.items), 15), torch.nan), held, 4, 15)


def test_questions_without_seen_items_count_the_same_among_all_items() -> None:
    world = data()
    held = held_out(world, "test")
    scores = tied_scores(len(held), world.num_items)
    found = []
    for seen in (True, False):
        asked = list(ranks.questions(held, 4, world.num_items, "cpu", seen=seen))
        assert (asked[0].seen.shape[1] > 0) == seen
        found.append(ranks.count(lambda history: scores, asked))
    for name in ("greater", "equal"):
        assert np.array_equal(found[0][name], found[1][name])
    assert (found[1]["candidates_unseen"] == world.num_items).all()
