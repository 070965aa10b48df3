"""The real positions of a padded batch, one row each, so that no work is spent on padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_FIXED: ContextVar[bool] = ContextVar("fixed", default=False)


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Let packed rows be all positions, so that no shape depends on what a batch holds.

    Seeds that train together need it: their batches differ in their numbers of real positions.
    """
    token = _FIXED.set(True)
    try:
        yield
    finally:
        _FIXED.reset(token)


class Packing:
    """Where the T real positions of a batch [B, L] lie; with fixed shapes T is B L.

    Rows at padding, which only fixed shapes have, hold anything finite; `pad` clears them.
    """

    def __init__(self, real: Tensor) -> None:
        self.size, self.length = real.shape
        self.fixed = _FIXED.get()
        self.real = real
        if not self.fixed:
            self.index = real.flatten().nonzero().squeeze(1)
            """[T] long, places in the flattened batch; unique, so scattering is repeatable."""

    def pack(self, x: Tensor) -> Tensor:
        """Return the real rows [T, D] of [B, L, D]."""
        rows = x.reshape(self.size * self.length, -1)
        return rows if self.fixed else rows.index_select(0, self.index)

    def pad(self, x: Tensor) -> Tensor:
        """Return [B, L, D] with zeros where the batch is padded, from [T, D]."""
        if self.fixed:
            return torch.where(self.real[..., None], x.view(self.size, self.length, -1), 0)
        full = x.new_zeros(self.size * self.length, x.shape[1])
        return full.index_copy_(0, self.index, x).view(self.size, self.length, -1)
