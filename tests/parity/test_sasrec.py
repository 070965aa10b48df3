"""SASRec against torch's own attention module, and its size, causality and padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.backbones import sasrec
from pipeline.sampling.batches import History


def encoder(width: int = 8, heads: int = 2, length: int = 5) -> sasrec.SASRec:
    torch.manual_seed(0)
    config = sasrec.Config(history=length, blocks=2, heads=heads, init_std=0.02, norm_eps=1e-8)
    made = sasrec.build(config, width, 0.0)
    assert isinstance(made, sasrec.SASRec)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.double().eval()


def histories() -> torch.Tensor:
    return torch.tensor([[0, 0, 3, 1, 2], [4, 2, 2, 5, 1], [0, 0, 0, 0, 7]])


def test_parameter_count_of_the_paper() -> None:
    """SpecTran Table 5: 1.70M with 11,758 x 128 item vectors leaves 200,704 for the encoder."""
    made = sasrec.build(
        sasrec.Config(history=10, blocks=2, heads=1, init_std=0.02, norm_eps=1e-8), 128, 0.1
    )
    assert sum(p.numel() for p in made.parameters()) == 200_704


def test_states_equal_torch_multihead_attention() -> None:
    model = encoder()
    items = histories()
    torch.manual_seed(1)
    x = torch.randn(3, 5, 8, dtype=torch.float64) * (items > 0)[..., None]
    with torch.no_grad():
        found = model(x, History(items))
        state = (x + model.positions) * (items > 0)[..., None]
        for block in model.blocks:
            attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
            attention.in_proj_weight.copy_(block.project_in.weight)
            attention.in_proj_bias.copy_(block.project_in.bias)
            attention.out_proj.weight.copy_(block.project_out.weight)
            attention.out_proj.bias.copy_(block.project_out.bias)
            h = block.norm_attention(state)
            hidden = torch.ones(5, 5, dtype=torch.bool).triu(1) | (items == 0)[:, None, :]
            hidden &= ~torch.eye(5, dtype=torch.bool)  # a padded query sees itself only
            mask = hidden.repeat_interleave(2, dim=0)
            state = state + attention(h, h, h, attn_mask=mask, need_weights=False)[0]
            inner = F.relu(block.widen(block.norm_feed(state)))
            state = state + block.narrow(inner)
        expected = model.norm(state) * (items > 0)[..., None]
    assert torch.allclose(found, expected, atol=1e-12)


def test_future_items_change_no_earlier_state() -> None:
    model = encoder()
    items = histories()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3:] = torch.randn(3, 2, 8, dtype=torch.float64)
    with torch.no_grad():
        before, after = model(x, History(items)), model(changed, History(items))
    assert torch.equal(before[1, :3], after[1, :3])
    assert not torch.allclose(before[1, 3:], after[1, 3:])


def test_padding_vectors_change_nothing() -> None:
    model = encoder()
    items = histories()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    changed = torch.where((items == 0)[..., None], x + 5, x)
    with torch.no_grad():
        before, after = model(x, History(items)), model(changed, History(items))
    assert torch.equal(before[items > 0], after[items > 0])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_dropout_keeps_the_mean_and_the_share(device: str) -> None:
    """Masks are drawn in another way on a GPU."""
    from pipeline.layers.dropout import dropout

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    x = torch.ones(400, 501, device=device)  # an odd count: the last 64-bit draw is cut
    y = dropout(x, 0.3, True)
    # 200,400 draws: one deviation of the share is 0.001
    assert abs(float((y == 0).double().mean()) - 0.3) < 0.006
    assert torch.allclose(y[y > 0], torch.tensor(1 / 0.7, device=device))
    assert dropout(x, 0.3, False) is x
