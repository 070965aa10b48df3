"""InfoNCE against a loop over positions and negatives."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from pipeline.model import Fusion
from pipeline.objectives.ranking import InfoNCE
from pipeline.sampling.batches import Batch, History


class OneView:
    fusion = Fusion()


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_infonce_equals_a_naive_loop(similarity: Literal["cosine", "dot"]) -> None:
    torch.manual_seed(0)
    table = torch.randn(6, 4, dtype=torch.float64)
    table[0] = 0
    states = torch.randn(2, 3, 4, dtype=torch.float64)
    targets = torch.tensor([[0, 2, 3], [5, 1, 4]])
    negatives = torch.tensor([[1, 2, 4], [5, 5, 3]])  # some equal a target
    batch = Batch(History(torch.ones(2, 3, dtype=torch.long)), targets, negatives)
    loss = InfoNCE(similarity, 0.3)(OneView(), batch, {"item": table}, {"item": states})  # type: ignore[arg-type]

    def score(h: torch.Tensor, item: int) -> float:
        e = table[item]
        value = float(h @ e)
        if similarity == "cosine":
            value /= math.sqrt(float(h @ h)) * math.sqrt(float(e @ e))
        return value / 0.3

    terms = []
    for b in range(2):
        for place in range(3):
            target = int(targets[b, place])
            if target == 0:
                continue
            own = math.exp(score(states[b, place], target))
            rest = sum(
                math.exp(score(states[b, place], int(n))) for n in negatives[b] if n != target
            )
            terms.append(-math.log(own / (own + rest)))
    assert float(loss) == pytest.approx(sum(terms) / len(terms), abs=1e-12)
