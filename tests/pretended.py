"""A CUDA device that is not there: its tensors are the CPU's, and mixing them with others fails.

CUDA refuses to compute with tensors of different devices, which a machine without one never sees.
Here every tensor carries a tag that says where it would lie, and operations pass the tag on.
Numbers are the CPU's. What only the device knows, speed and its own kernels, is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._functorch import eager_transforms, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

NAME = "cuda:0"
DEVICE = torch.device(NAME)
MOVES = (Tensor.to, Tensor.cpu, Tensor.copy_, Tensor.type_as)
MAKES = (Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full, Tensor.new_tensor)


class MixedDevices(Exception):
    """What CUDA refuses."""


def place(tensor: Tensor) -> str | None:
    """Return cpu, cuda, or None for a tensor of unknown origin: gradients on their way."""
    return getattr(tensor, "pretended_place", None)


def mark(found: Any, where: str | None) -> Any:
    """Say where the tensors among these lie; return them."""
    for leaf in tree_leaves(found):
        if isinstance(leaf, Tensor) and where is not None:
            leaf.pretended_place = where  # type: ignore[attr-defined]
    return found


class Generator(torch.Generator):
    """A generator of the CPU that says which device it was made for."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.where = torch.device(device).type
        return made

    where: str

    @property
    def device(self) -> torch.device:
        return DEVICE if self.where == "cuda" else torch.device("cpu")


class _Tagged(TorchFunctionMode):
    """Tags what torch's functions return, and refuses what CUDA refuses."""

    refuses = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if func == Tensor.device.__get__:
            return DEVICE if place(args[0]) == "cuda" else func(*args)
        if func == Tensor.is_cuda.__get__:
            return place(args[0]) == "cuda"
        if func in (Tensor.grad.__get__, Tensor.data.__get__):
            return mark(func(*args), place(args[0]))
        if func == Tensor.data.__set__:
            mark(args[0], place(args[1]))
            return func(*args)
        if func in (Tensor.numpy, Tensor.__array__) and place(args[0]) == "cuda":
            raise MixedDevices("a tensor on cuda has no numpy view")

        if func == Tensor.pin_memory:
            if place(args[0]) == "cuda":
                raise MixedDevices("memory of a device cannot be pinned")
            return args[0]

        asked = [kwargs.get("device"), *(args[1:2] if func == Tensor.to else ())]
        asked = [device for device in asked if isinstance(device, (str, torch.device))]
        if asked:
            kwargs |= {"device": "cpu"} if kwargs.get("device") is not None else {}
            args = tuple("cpu" if arg is asked[-1] else arg for arg in args)
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        where = self._where(func, own, read, torch.device(asked[-1]).type if asked else None)
        stream = kwargs.get("generator")
        if isinstance(stream, Generator) and stream.where != where:
            raise MixedDevices(f"{func.__name__} on {where} with a generator on {stream.where}")
        found = func(*args, **kwargs)
        if found is own and own is not None and place(own) != where:
            found = found.clone()  # a device would have copied it
        return mark(found, where)

    def _where(
        self, func: Any, own: Tensor | None, read: list[Tensor], asked: str | None
    ) -> str | None:
        """Return where a function's result lies. Raises MixedDevices."""
        if func == Tensor.cpu:
            return "cpu"
        if asked is not None:
            return asked
        if own is not None and func in (*MOVES, *MAKES):
            return place(own)
        places = {place(tensor) for tensor in read}
        if {"cpu", "cuda"} <= places and self.refuses:
            # Indices may lie on the CPU, and so may numbers that are tensors without dimensions.
            indexed = func in (Tensor.__getitem__, Tensor.__setitem__)
            on_cpu = [tensor for tensor in read if place(tensor) == "cpu" and tensor.ndim]
            if place(read[0]) == "cpu" if indexed else on_cpu:
                raise MixedDevices(f"{func}: {[(place(t), tuple(t.shape)) for t in read]}")
        if "cuda" in places:
            return "cuda"
        return "cpu" if "cpu" in places or not read else None


def _passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the wrapper that `vmap` or `grad` puts around a tensor lie where that lies."""

    def wrapped(tensor: Any, *args: Any) -> Any:
        found = function(tensor, *args)
        return mark(found, place(tensor)) if isinstance(tensor, Tensor) else found

    return wrapped


@contextmanager
def cuda() -> Iterator[_Tagged]:
    """Let NAME be a device. Set `refuses` to False around what replays recorded operations."""
    fork = torch.random.fork_rng
    with ExitStack() as stack:
        for owner, name, other in (
            (torch, "Generator", Generator),
            (torch.random, "fork_rng", lambda devices=(), **kwargs: fork(devices=[], **kwargs)),
            (torch, "from_numpy", lambda a, load=torch.from_numpy: mark(load(a), "cpu")),
            *(
                (module, name, _passing(getattr(module, name)))
                for module, names in (
                    (vmap, ("_add_batch_dim", "_remove_batch_dim")),
                    (eager_transforms, ("_wrap_for_grad", "_unwrap_for_grad")),
                )
                for name in names
            ),
        ):
            stack.enter_context(mock.patch.object(owner, name, other))
        yield stack.enter_context(_Tagged())
