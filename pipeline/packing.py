"""The real positions of a padded batch, one row each, so that no work is spent on padding."""

from __future__ import annotations

from torch import Tensor


class Packing:
    """Where the T real positions of a batch [B, L] lie."""

    def __init__(self, real: Tensor) -> None:
        self.size, self.length = real.shape
        self.index = real.flatten().nonzero().squeeze(1)
        """[T] long, places in the flattened batch; unique, so scattering is repeatable."""

    def pack(self, x: Tensor) -> Tensor:
        """Return the real rows [T, D] of [B, L, D]."""
        return x.reshape(self.size * self.length, -1).index_select(0, self.index)

    def pad(self, x: Tensor) -> Tensor:
        """Return [B, L, D] with zeros where the batch is padded, from [T, D]."""
        full = x.new_zeros(self.size * self.length, x.shape[1])
        return full.index_copy_(0, self.index, x).view(self.size, self.length, -1)
