"""Dropout whose mask is cheap to draw on a CPU, and the same for a seed alone and among others."""

from __future__ import annotations

from torch import Tensor

from pipeline.layers.draws import Draw, drawn


def dropout(x: Tensor, p: float, training: bool, *, packed: bool = False) -> Tensor:
    """Zero entries with probability p (see `draws`) and scale the rest by 1 / (1 - p).

    packed: x has a row for every real position of the batch, as `Packing.pack` returns them.
    """
    if not training or p == 0:
        return x
    keep = drawn(Draw("keep", tuple(x.shape), p, packed), x.device)
    return x * (keep / (1 - p))
