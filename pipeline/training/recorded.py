"""A training step of several seeds, recorded once and then replayed.

`vmap` runs the very modules that a seed alone runs through, over a dimension of seeds. It takes
longer per operation than a batched pass saves, so what it does is recorded as a flat list of
operations, gradients included. For that no shape may depend on what a batch holds: padding stays
(`packing.fixed_shapes`), a last, smaller batch is filled up with padding, and random numbers come
from outside (`draws.handed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from pipeline.layers.draws import Draw, draw, handed
from pipeline.layers.packing import fixed_shapes
from pipeline.model import Phase, SeqModel
from pipeline.sampling.batches import Batch, History, moved
from pipeline.training.lighter import lighten
from pipeline.training.steps import loss_of

Tensors = dict[str, Tensor]
Operations = Callable[
    [Tensors, Tensors, Tensors, list[Tensor]], tuple[Tensors, tuple[Tensor, Tensor]]
]
"""See `Recorded.__call__`; the second result is the sum of losses, and the losses."""


class _Loss(nn.Module):
    """The loss of one seed as a module, so that its parameters can be exchanged."""

    def __init__(self, modules: nn.ModuleDict, model: SeqModel, phase: Phase) -> None:
        super().__init__()
        self.parts = modules
        self.loss = partial(loss_of, model, phase)

    def forward(self, inputs: Tensors) -> Tensor:
        """Return the scalar; inputs as `joined` returns them, without the dimension of seeds."""
        history = History(inputs["items"], inputs.get("masked"), inputs.get("times"))
        with fixed_shapes():
            return self.loss(Batch(history, inputs["targets"], inputs["negatives"]))


class Recorded:
    """The step of a phase for a number of seeds and a size of batches, both those of first use.

    modules, model: of one of the seeds; its frozen inputs serve for all.
    """

    def __init__(self, modules: nn.ModuleDict, model: SeqModel, phase: Phase) -> None:
        self.loss = _Loss(modules, model, phase)
        self.operations: Operations | None = None
        self.plans: dict[int, list[Draw]] = {}

    def __call__(
        self, free: Tensors, fixed: Tensors, inputs: Tensors, numbers: list[Tensor]
    ) -> tuple[Tensors, Tensor]:
        """Return gradients by name of `free`, and losses [S].

        All are [S, ...]: parameters that train and those that do not, a batch, and what
        `numbers` returned for it.
        """
        if self.operations is None:
            self.operations = self._record(free, fixed, inputs, numbers)
        gradients, (_, losses) = self.operations(free, fixed, inputs, numbers)
        return gradients, losses

    def _record(
        self, free: Tensors, fixed: Tensors, inputs: Tensors, numbers: list[Tensor]
    ) -> Operations:
        buffers = dict(self.loss.named_buffers())

        def one(free: Tensors, fixed: Tensors, inputs: Tensors, numbers: list[Tensor]) -> Tensor:
            left = iter(numbers)
            own = {f"parts.{name}": parameter for name, parameter in (free | fixed).items()}
            with handed(lambda what, device: next(left)):
                found: Tensor = functional_call(self.loss, own | buffers, (inputs,))
            return found

        def every(
            free: Tensors, fixed: Tensors, inputs: Tensors, numbers: list[Tensor]
        ) -> tuple[Tensor, Tensor]:
            losses = vmap(one)(free, fixed, inputs, numbers)
            return losses.sum(), losses

        self.loss.train()
        recorder = make_fx(grad_and_value(every, has_aux=True))
        recorded: Any = recorder(free, fixed, inputs, numbers)
        lighten(recorded)
        operations: Operations = recorded.forward
        return operations

    # ------------------------------------------------------------ random numbers

    def numbers(
        self, size: int, inputs: Tensors, real: Tensor, streams: Sequence[torch.Generator]
    ) -> list[Tensor]:
        """Return every draw of a step, [S, ...]: what each seed would draw for its own batch.

        size: histories before the batch was filled up; real: [S, B, L] bool, on the CPU.
        """
        histories = real.shape[1]
        for rows in {size, histories}:
            if rows not in self.plans:
                self.plans[rows] = self._plan({name: t[0, :rows] for name, t in inputs.items()})
        counts = real.flatten(1).sum(1).tolist()
        places = moved(_places(real), streams[0].device)
        found = []
        for own, full in zip(self.plans[size], self.plans[histories], strict=True):
            if full.packed:
                found.append(_packed(own, full, counts, places, streams))
            else:
                found.append(_whole(own, full, streams))
        return found

    def _plan(self, inputs: Tensors) -> list[Draw]:
        """Return what a batch of this size asks for, in order."""
        asked: list[Draw] = []

        def source(what: Draw, device: torch.device) -> Tensor:
            asked.append(what)
            return draw(what, device, torch.Generator(device))

        self.loss.train()
        with handed(source):
            self.loss(inputs)
        return asked


def joined(batches: Sequence[Batch], size: int) -> tuple[Tensors, Tensor]:
    """Return the seeds' batches as [S, size, ...], filled up with padding, and which are real.

    The second: [S, size, L] bool, positions that hold an item or a mask.
    """
    first = batches[0]
    names = ["items"] + [n for n in ("masked", "times") if getattr(first.history, n) is not None]
    sources = [(name, [getattr(batch.history, name) for batch in batches]) for name in names]
    sources += [(name, [getattr(b, name) for b in batches]) for name in ("targets", "negatives")]
    found = {}
    for name, parts in sources:
        found[name] = parts[0].new_zeros(len(parts), size, *parts[0].shape[1:])
        for row, part in enumerate(parts):
            found[name][row, : len(part)] = part
    return found, History(found["items"], found.get("masked")).real


def _whole(own: Draw, full: Draw, streams: Sequence[torch.Generator]) -> Tensor:
    """Return one draw per seed, filled up with zeros to the full shape."""
    drawn = torch.stack([draw(own, stream.device, stream) for stream in streams])
    if own.shape == full.shape:
        return drawn
    filled = drawn.new_zeros(len(streams), *full.shape)
    filled[(slice(None), *map(slice, own.shape))] = drawn
    return filled


def _places(real: Tensor) -> Tensor:
    """Return which row of the packed numbers each position takes, [positions] long.

    Padding takes the last, which `_packed` adds. Taking rows, not putting them at their places:
    repeatable puts are sorted first on CUDA.
    """
    flat = real.flatten()
    return (flat.cumsum(0) - 1).where(flat, flat.sum())


def _packed(
    own: Draw, full: Draw, counts: Sequence[int], places: Tensor, streams: Sequence[torch.Generator]
) -> Tensor:
    """Return one draw per seed for its real positions, at their places; elsewhere zeros.

    counts: real positions of each seed; places: see `_places`.
    """
    parts = [
        draw(own, stream.device, stream, count)
        for count, stream in zip(counts, streams, strict=True)
    ]
    padding = parts[0].new_zeros(1, *own.shape[1:])
    return torch.cat([*parts, padding]).index_select(0, places).view(len(streams), *full.shape)
