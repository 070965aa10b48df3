"""The project's own fast paths: values and gradients of torch's plain ones, and work done once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline.config import Params
from pipeline.layers import cosine
from pipeline.layers.attention import attend
from pipeline.layers.cosine import unit_rows
from pipeline.layers.packing import Packing
from pipeline.methods.spectran import SpectralAttention
from pipeline.training.parameters import modules_of
from pipeline.training.setting import Setting
from pipeline.training.steps import adam, loss_of, thaw
from tests.composed import method


def test_unit_rows_equal_torch_with_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    x[1, 2] = 0
    weight = torch.randn_like(x)
    weight[1, 2] = 0  # no loss reads a padding row
    own, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = unit_rows(own), F.normalize(plain, dim=-1)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    assert torch.allclose(a, b, atol=1e-14)
    assert own.grad is not None and plain.grad is not None
    assert torch.allclose(own.grad, plain.grad, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_equals_torch_with_gradients(heads: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, heads, 5, 4, dtype=torch.float64) for _ in range(3))
    allowed = torch.rand(3, 1, 5, 5) < 0.5
    allowed |= torch.eye(5, dtype=torch.bool)
    grads = []
    for function in (
        lambda *x: attend(*x, allowed, 0.0, True),
        lambda *x: F.scaled_dot_product_attention(*x, attn_mask=allowed),
    ):
        parts = [t.clone().requires_grad_() for t in (q, k, v)]
        out = function(*parts)
        (out * torch.arange(4.0)).sum().backward()
        grads.append([out.detach(), *(p.grad for p in parts)])
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_packing_keeps_the_real_rows_and_their_gradients() -> None:
    real = torch.tensor([[False, True, True], [False, False, True]])
    x = torch.arange(12.0).view(2, 3, 2).requires_grad_()
    packing = Packing(real)
    packed = packing.pack(x)
    assert packed.tolist() == [[2, 3], [4, 5], [10, 11]]
    padded = packing.pad(packed * 2)
    assert torch.equal(padded, 2 * x * real[..., None])
    padded.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, 2.0 * real[..., None].expand(2, 3, 2))


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec", "hstu"])
def test_a_step_makes_the_table_and_its_norms_once(
    backbone: str, params: Params, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = method(params, inputs, backbone=backbone)
    products: list[int] = []
    normed: list[tuple[int, ...]] = []
    text, apply = SpectralAttention.text, cosine._UnitRows.apply

    def counted_text(self: SpectralAttention, items: Any = None) -> Any:
        products.append(1)
        return text(self, items)

    def counted_apply(x: Any) -> Any:
        normed.append(tuple(x.shape))
        return apply(x)

    monkeypatch.setattr(SpectralAttention, "text", counted_text)
    monkeypatch.setattr(cosine._UnitRows, "apply", counted_apply)
    setting = Setting.of(made, inputs.sequences, params.train, "cpu")
    batch = next(iter(setting.batches(made.model, 0, "fit", 1)))
    loss_of(made.model, made.phases[0], batch).backward()  # type: ignore[no-untyped-call]
    rows = inputs.sequences.num_items + 1
    assert len(products) == 1
    # Of the table and of the states; 64 negatives per history would be a third, far larger one.
    assert sorted(len(shape) for shape in normed) == [2, 3]
    assert normed[0][0] == rows or normed[1][0] == rows


def test_a_step_updates_all_parameters_in_one_kernel(params: Params, inputs: Any) -> None:
    """Also those with rates of their own; unfused, many small parameters wait for launches."""
    made = method(params, inputs)
    modules = modules_of(made)
    groups = adam(thaw(modules, made.phases[0]), modules, params.train).param_groups
    assert len(groups) > 1
    assert [group["fused"] for group in groups] == [True] * len(groups)
