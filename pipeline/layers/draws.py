"""Random numbers of a training step: drawn from torch's global generator, or handed in.

Layers ask here for what they draw. Seeds that train together have one generator each, so their
numbers are drawn before the batched pass, in the order and the sizes in which the seed alone would
draw them; `handed` then replaces drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import torch
from torch import Tensor

LEVELS = 1 << 16


@dataclass(frozen=True)
class Draw:
    """What a layer asks for."""

    kind: Literal["keep", "uniform", "normal", "order"]
    """keep: bool, true with probability 1 - p; uniform in [0, 1); standard normal; a random order
    of 0..n-1."""
    shape: tuple[int, ...]
    p: float = 0.0
    packed: bool = False
    """The first dimension counts the real positions of the batch; when shapes are fixed it counts
    all of its positions, and numbers are drawn for the real ones only."""


def draw(
    what: Draw,
    device: torch.device,
    stream: torch.Generator | None = None,
    rows: int | None = None,
) -> Tensor:
    """Return what was asked for, with another first dimension if `rows` says so.

    stream: None = torch's global generator of the device.
    """
    shape = what.shape if rows is None else (rows, *what.shape[1:])
    match what.kind:
        case "keep":
            return _keep(shape, what.p, device, stream)
        case "uniform":
            return torch.rand(shape, device=device, generator=stream)
        case "normal":
            return torch.randn(shape, device=device, generator=stream)
        case "order":
            return torch.randperm(*shape, device=device, generator=stream)
        case _:
            assert_never(what.kind)


def _keep(
    shape: tuple[int, ...], p: float, device: torch.device, stream: torch.Generator | None
) -> Tensor:
    """Return [shape] bool, false with probability p; on a CPU p is rounded to 1/65536.

    On a CPU four entries are cut from one 64-bit draw: torch's own Bernoulli draws took 15% of the
    time of a SASRec epoch in a profile, these 2% and their conversion.
    """
    if device.type != "cpu":
        kept = torch.empty(shape, dtype=torch.bool, device=device)
        return kept.bernoulli_(1 - p, generator=stream)
    count = torch.Size(shape).numel()
    words = torch.randint(-(1 << 63), (1 << 63) - 1, ((count + 3) // 4,), generator=stream)
    return words.view(torch.int16)[:count].view(shape) >= round(p * LEVELS) - LEVELS // 2


Source = Callable[[Draw, torch.device], Tensor]
_SOURCE: ContextVar[Source] = ContextVar("source", default=draw)


def drawn(what: Draw, device: torch.device) -> Tensor:
    """Return what was asked for, from the source in force."""
    return _SOURCE.get()(what, device)


@contextmanager
def among(places: Tensor, count: int) -> Iterator[None]:
    """Let layers that work on some rows draw for all of them, and take the numbers of theirs.

    So a step over a few items draws the same numbers for them as one over all.
    places: [M], the rows; count: N, how many there are. Every draw is to be [M, ...].
    """
    outer = _SOURCE.get()

    def source(what: Draw, device: torch.device) -> Tensor:
        return outer(replace(what, shape=(count, *what.shape[1:])), device)[places]

    with handed(source):
        yield


@contextmanager
def handed(source: Source) -> Iterator[None]:
    """Let layers take their numbers from this source."""
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)
