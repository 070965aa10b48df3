"""Ranking losses against loops over positions and items, closed forms and recorded numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from pipeline.config import Loss
from pipeline.layers.packing import fixed_shapes
from pipeline.model import Fusion
from pipeline.objectives import catalogue
from pipeline.objectives.ranking import ranking_loss
from pipeline.sampling.batches import Batch, History

ITEMS = 6
COUNTS = np.array([0, 4, 1, 0, 9, 2, 1])
"""Training events per item; item 3 has none."""
TARGETS = torch.tensor([[0, 2, 3], [5, 1, 4]])
NEGATIVES = torch.tensor([[1, 2, 4], [5, 5, 2]])
"""Some equal a target of their history; item 3 is never drawn."""
TAU = 0.3

SAMPLED = {"negatives": 3, "negatives_from": "trained", "temperature": TAU}
BLOCKS: dict[str, dict[str, Any]] = {
    "infonce": {**SAMPLED},
    "softmax": {"temperature": TAU},
    "sampled_softmax": {**SAMPLED, "sampling_power": 0.5},
    "bce": {**SAMPLED},
    "gbce": {**SAMPLED, "calibration": 0.75},
}


class OneView:
    fusion = Fusion()


def config(name: str, **changes: Any) -> Any:
    block = {"name": name, "similarity": "cosine", **BLOCKS[name], **changes}
    return TypeAdapter(Loss).validate_python(block)


def inputs(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    table = torch.randn(ITEMS + 1, 4, dtype=torch.float64) * scale
    table[0] = 0
    states = torch.randn(2, 3, 4, dtype=torch.float64) * scale
    return table.requires_grad_(), states.requires_grad_()


def value(
    how: Any,
    table: Tensor,
    states: Tensor,
    targets: Tensor = TARGETS,
    negatives: Tensor = NEGATIVES,
) -> Tensor:
    counts = COUNTS if len(table) == len(COUNTS) else np.ones(len(table), np.int64)
    batch = Batch(History(torch.ones_like(targets)), targets, negatives)
    made = ranking_loss(how, counts).double()
    found: Tensor = made(OneView(), batch, {"item": table}, {"item": states})
    return found


Term = Callable[[Tensor, list[Tensor], list[int]], Tensor]
"""Score of the target, scores of the other drawn items, their ids -> loss of one position."""


def log1pexp(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(x))


def infonce(own: Tensor, others: list[Tensor], ids: list[int]) -> Tensor:
    rest = sum((s.exp() for s in others), torch.zeros(()).double())
    return -torch.log(own.exp() / (own.exp() + rest))


def sampled_softmax(own: Tensor, others: list[Tensor], ids: list[int]) -> Tensor:
    share = [math.sqrt(c) / sum(math.sqrt(x) for x in COUNTS) for c in COUNTS]
    rest = torch.zeros(()).double()
    for score, item in zip(others, ids, strict=True):
        rest = rest + score.exp() / (3 * share[item])
    return -torch.log(own.exp() / (own.exp() + rest))


def bce(own: Tensor, others: list[Tensor], ids: list[int]) -> Tensor:
    pushed = sum((log1pexp(s) for s in others), torch.zeros(()).double())
    return log1pexp(-own) + pushed / max(len(others), 1)


def gbce(own: Tensor, others: list[Tensor], ids: list[int]) -> Tensor:
    alpha = 3 / (5 - 1)  # five items have a training event
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    # 1 - sigma(s), written so that nothing cancels
    pushed = sum((torch.log(1 / (1 + s.exp())) for s in others), torch.zeros(()).double())
    return -(torch.log(torch.sigmoid(own) ** beta) + pushed) / 4


TERMS: dict[str, Term] = {
    "infonce": infonce,
    "softmax": infonce,  # with all other items of the catalogue in place of drawn ones
    "sampled_softmax": sampled_softmax,
    "bce": bce,
    "gbce": gbce,
}


def naive(name: str, similarity: str, table: Tensor, states: Tensor) -> Tensor:
    def score(h: Tensor, item: int) -> Tensor:
        e = table[item]
        found = (h * e).sum()
        if similarity == "cosine":
            found = found / ((h * h).sum().sqrt() * (e * e).sum().sqrt())
        return found / TAU

    terms = []
    for b in range(2):
        for place in range(3):
            target, h = int(TARGETS[b, place]), states[b, place]
            if target == 0:
                continue
            compared = range(1, ITEMS + 1) if name == "softmax" else NEGATIVES[b].tolist()
            ids = [n for n in compared if n != target]
            terms.append(TERMS[name](score(h, target), [score(h, n) for n in ids], ids))
    return sum(terms, torch.zeros(()).double()) / len(terms)


@pytest.mark.parametrize("shapes", [nullcontext, fixed_shapes])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("name", BLOCKS)
def test_loss_and_gradients_equal_a_naive_loop(
    name: str, similarity: str, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fixed shapes, which seeds have that train together, keep positions without a target."""
    monkeypatch.setattr(catalogue, "CHUNK_BYTES", 8 * ITEMS * 2)  # two targets a chunk
    table, states = inputs()
    with shapes():
        found = value(config(name, similarity=similarity), table, states)
    (3 * found).backward()
    again, same = inputs()
    expected = naive(name, similarity, again, same)
    (3 * expected).backward()
    # The logarithms of the draws are kept in float32.
    tolerance = 1e-6 if name == "sampled_softmax" else 1e-12
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=tolerance)
    for one, other in ((table.grad[1:], again.grad[1:]), (states.grad, same.grad)):  # type: ignore[index]
        assert one is not None and other is not None
        assert torch.allclose(one, other, atol=tolerance)


@pytest.mark.parametrize("name", BLOCKS)
def test_strong_scores_and_no_negatives_left_stay_finite(name: str) -> None:
    """Cosines of one at tau = 0.01 are scores of 100; every negative equals the target."""
    state = torch.full((1, 2, 3), 0.5)
    table = torch.tensor([[0.0] * 3, [1.0] * 3, [-1.0] * 3]).requires_grad_()
    targets = torch.tensor([[1, 2]])
    for drawn in ([[1, 1]], [[1, 2]]):
        how = config(name, temperature=0.01, **({} if name == "softmax" else {"negatives": 2}))
        made = ranking_loss(how, np.array([0, 1, 1]))
        batch = Batch(History(targets), targets, torch.tensor(drawn))
        loss = made(OneView(), batch, {"item": table}, {"item": state})  # type: ignore[arg-type]
        table.grad = None
        loss.backward()
        assert torch.isfinite(loss)
        assert table.grad is not None and torch.isfinite(table.grad).all()
        if name in ("infonce", "softmax", "sampled_softmax") and drawn == [[1, 2]]:
            # position 1 has its target at the top, position 2 at the bottom: 200 / 2
            assert float(loss.detach()) == pytest.approx(100.0, rel=1e-5)


# ---------------------------------------------------------------- softmax


def test_softmax_keeps_no_score_for_backward() -> None:
    """The largest tensor kept is a gradient the size of an input, not [targets, N] as in torch."""
    items, batch, length, width = 500, 32, 10, 4
    torch.manual_seed(0)
    table = torch.randn(items + 1, width, requires_grad=True)
    states = torch.randn(batch, length, width, requires_grad=True)
    targets = torch.randint(1, items + 1, (batch, length))
    none = torch.zeros(batch, 0, dtype=torch.long)

    def largest(loss: Callable[[], Tensor]) -> int:
        sizes: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss()
        return max(sizes)

    def plain() -> Tensor:
        scores = F.normalize(states, dim=-1) @ F.normalize(table, dim=-1)[1:].T / TAU
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten() - 1)

    own = config("softmax")
    assert largest(lambda: value(own, table, states, targets, none)) <= table.numel()
    assert largest(plain) == batch * length * items
    with torch.no_grad():
        found = value(own, table, states, targets, none)
        assert float(found) == pytest.approx(float(plain()), rel=1e-5)


def test_softmax_computes_only_positions_with_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = catalogue.cross_entropy

    def counting(query: Tensor, *rest: Any) -> Tensor:
        seen.append(len(query))
        return whole(query, *rest)

    monkeypatch.setattr(catalogue, "cross_entropy", counting)
    value(config("softmax"), *inputs())
    assert seen == [5]


# ---------------------------------------------------------------- sampled softmax


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_corrected_negatives_stand_for_the_whole_catalogue(power: float) -> None:
    """Over all draws, weighted by their probability, the partition function is the full one."""
    table, states = (x.detach() for x in inputs())
    counts = np.array([0, 4, 1, 3, 9, 2, 1])
    state, target = states[:1, :1], torch.tensor([[2]])
    how = config("sampled_softmax", negatives=1, sampling_power=power)
    made = ranking_loss(how, counts).double()
    weights = counts[1:].astype(float) ** power

    def over_target(negative: int) -> float:
        batch = Batch(History(target), target, torch.tensor([[negative]]))
        return math.exp(made(OneView(), batch, {"item": table}, {"item": state}))

    mean = sum(
        w / weights.sum() * over_target(item) for item, w in zip(range(1, 7), weights, strict=True)
    )
    full = math.exp(value(config("softmax"), table, state, target))
    assert mean == pytest.approx(full, rel=1e-6)


# ---------------------------------------------------------------- gBCE


@pytest.mark.parametrize(
    ("negatives", "calibration", "scale", "loss", "states_grad", "table_grad"),
    [
        (1, 0.0, 1.0, 0.9401512917402618, 1.100684722028217, 1.3729780348336176),
        (3, 0.75, 1.0, 0.7685920460450205, 0.8208606584988059, 0.9433679564363028),
        (4, 1.0, 1.0, 0.9267925202018595, 0.85309754470096, 0.8828543877936794),
        (4, 0.5, 3.0, 6.056971543680744, 2.9867150323406078, 3.7062520791280646),
    ],
)
def test_gbce_equals_the_authors_code(
    negatives: int,
    calibration: float,
    scale: float,
    loss: float,
    states_grad: float,
    table_grad: float,
) -> None:
    """Recorded by running the loss of train_gsasrec.py, asash/gSASRec-pytorch at 7e35028.

    Nine items; loss and the sums of the gradients' absolute values, in float64. Their probability
    is clamped to 1e-10 and more.
    """
    rng = np.random.default_rng(5)
    table = torch.from_numpy(rng.normal(size=(10, 4)) * scale).requires_grad_()
    states = torch.from_numpy(rng.normal(size=(2, 3, 4)) * scale).requires_grad_()
    targets = torch.tensor([[0, 2, 3], [5, 1, 4]])
    drawn = torch.tensor([[1, 6, 8, 9], [2, 6, 9, 8]])[:, :negatives]
    how = config(
        "gbce",
        negatives=negatives,
        calibration=calibration,
        negatives_from="catalogue",
        similarity="dot",
        temperature=1.0,
    )
    found = value(how, table, states, targets, drawn)
    found.backward()
    assert table.grad is not None and states.grad is not None
    assert float(found.detach()) == pytest.approx(loss, abs=1e-8)
    assert float(states.grad.abs().sum()) == pytest.approx(states_grad, abs=1e-8)
    assert float(table.grad.abs().sum()) == pytest.approx(table_grad, abs=1e-8)


def test_uncalibrated_gbce_is_a_mean_of_binary_terms() -> None:
    """t = 0: beta = 1, so the loss is torch's own over target and negatives."""
    table, states = (x.detach() for x in inputs())
    target, drawn = torch.tensor([[6, 6, 6], [6, 6, 6]]), NEGATIVES
    scores = torch.einsum("bld,bnd->bln", states, table[torch.cat([target[:, :1], drawn], 1)])
    truth = torch.zeros_like(scores)
    truth[..., 0] = 1
    expected = F.binary_cross_entropy_with_logits(scores, truth)
    how = config("gbce", calibration=0.0, similarity="dot", temperature=1.0)
    assert float(value(how, table, states, target, drawn)) == pytest.approx(
        float(expected), abs=1e-12
    )
