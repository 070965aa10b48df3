"""Rows of norm one, with a backward pass of three sweeps over the table instead of eight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST_NORM = 1e-12
"""Rows with a smaller norm are divided by this, as torch.nn.functional.normalize does."""


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(SMALLEST_NORM)
        inverse = inverse.reciprocal_()
        return x * inverse, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # zeros for the norms would be made for nothing

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], x: Tensor) -> tuple[Any, tuple[int, int]]:
        # Rows are independent: one more dimension before them changes nothing.
        return _UnitRows.apply(x.movedim(in_dims[0], 0)), (0, 0)  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0]
        unit, inverse = ctx.saved_tensors
        along = (grad * unit).sum(-1, keepdim=True)
        projected: Tensor = torch.addcmul(grad, unit, along, value=-1)
        return projected.mul_(inverse)


def unit_rows(x: Tensor) -> Tensor:
    """Return x / |x| over the last dimension; zero rows stay zero.

    The gradient of a row is (g - y (g.y)) / |x| with y = x / |x|. For zero rows, where none exists,
    it is g / SMALLEST_NORM as in torch; tables keep row 0 out of every loss.
    """
    unit: Tensor = _UnitRows.apply(x)[0]  # type: ignore[no-untyped-call]
    return unit
