"""Where the backbones drop in training: each against itself written out, with the same masks.

Histories are full here: packing and padding have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.backbones import bert4rec, hstu, sasrec
from pipeline.layers.draws import Draw, handed
from pipeline.model import Backbone
from pipeline.sampling.batches import History
from tests.composed import BACKBONES, LENGTH

WIDTH, HEADS = 8, 2
P = 0.5
"""Its scale is 2, exact in any precision."""
Drop = Callable[[Tensor], Tensor]


def heads(x_BLD: Tensor) -> Tensor:
    return x_BLD.unflatten(2, (HEADS, -1)).transpose(1, 2)


def attention(block: nn.Module, x_BLD: Tensor, drop: Drop, *, causal: bool) -> Tensor:
    """Weights that softmax made are dropped, and what the last map gives."""
    assert isinstance(block, sasrec.Block | bert4rec.Block)
    q, k, v = (heads(part) for part in block.project_in(x_BLD).chunk(3, dim=2))
    scores = q @ k.transpose(2, 3) / (WIDTH / HEADS) ** 0.5
    if causal:
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    mixed = drop(scores.softmax(3)) @ v
    return drop(block.project_out(mixed.transpose(1, 2).flatten(2)))


def sasrec_states(model: sasrec.SASRec, x_BLD: Tensor, history: History, drop: Drop) -> Tensor:
    x = drop(x_BLD + model.positions)
    for block in model.blocks:
        assert isinstance(block, sasrec.Block)
        x = x + attention(block, block.norm_attention(x), drop, causal=True)
        inner = drop(F.relu(block.widen(block.norm_feed(x))))
        x = x + drop(block.narrow(inner))
    return model.norm(x)  # type: ignore[no-any-return]


def bert_states(model: bert4rec.BERT4Rec, x_BLD: Tensor, history: History, drop: Drop) -> Tensor:
    assert history.masked is not None
    shown = torch.where(history.masked[..., None], model.mask, x_BLD)
    x = drop(model.norm(shown + model.positions))
    for block in model.blocks:
        assert isinstance(block, bert4rec.Block)
        x = block.norm_attention(x + attention(block, x, drop, causal=False))
        x = block.norm_feed(x + drop(block.narrow(F.gelu(block.widen(x)))))
    return x


def hstu_states(model: hstu.HSTU, x_BLD: Tensor, history: History, drop: Drop) -> Tensor:
    x = drop(x_BLD * WIDTH**0.5 + model.positions)
    for block in model.blocks:
        assert isinstance(block, hstu.Block)
        u, v, q, k = F.silu(F.layer_norm(x, (WIDTH,), eps=1e-6) @ block.project_in).chunk(4, dim=2)
        scores = heads(q) @ heads(k).transpose(2, 3)
        for i in range(LENGTH):
            for j in range(LENGTH):
                scores[:, :, i, j] += block.position[max(i - j, 0)]
        mixed = (F.silu(scores) / LENGTH).tril() @ heads(v)
        rows = mixed.transpose(1, 2).flatten(2)
        x = x + block.project_out(drop(F.layer_norm(rows, rows.shape[2:], eps=1e-6) * u))
    return x


WRITTEN_OUT = {"sasrec": sasrec_states, "bert4rec": bert_states, "hstu": hstu_states}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_states_in_training_equal_those_written_out(name: str) -> None:
    torch.manual_seed(0)
    model: Backbone = BACKBONES[name](WIDTH, P).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    cloze = model.targets == "cloze"
    items = torch.arange(1, 1 + 3 * (LENGTH + cloze)).view(3, -1)
    history = History(items, items % 4 == 0 if cloze else None)
    x = torch.randn(*items.shape, WIDTH, dtype=torch.float64)
    masks: list[Tensor] = []

    def source(what: Draw, device: torch.device) -> Tensor:
        assert (what.kind, what.p) == ("keep", P)
        masks.append(torch.rand(what.shape) >= P)
        return masks[-1]

    with handed(source):
        found = model.train()(x, history)
    left: Iterator[Tensor] = iter(masks)
    # Packed rows have one dimension for histories and their positions.
    expected = WRITTEN_OUT[name](
        model, x, history, lambda part: part * next(left).view(part.shape) / (1 - P)
    )
    assert next(left, None) is None
    assert torch.allclose(found, expected, rtol=0, atol=1e-11)
    assert not torch.allclose(found, model.eval()(x, history), atol=1e-2)
