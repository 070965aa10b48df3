"""Which parameters training changes, how many numbers they hold, and whose a kept state is."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import NamedTuple

from torch import Tensor, nn

from pipeline.model import Method, Phase


class Trained(NamedTuple):
    """Numbers that training may change; the padding rows of tables are counted, as is usual."""

    method: int
    """In item tables, fusion and the terms of the loss."""
    backbone: int


def modules_of(method: Method) -> nn.ModuleDict:
    """Return the model under `model`, and under every phase's name the terms of its loss."""
    modules = nn.ModuleDict({"model": method.model})
    for phase in method.phases:
        modules[phase.name] = nn.ModuleDict({k: o for k, (_, o) in phase.objectives.items()})
    return modules


def trains(phase: Phase, name: str) -> bool:
    """Whether a phase trains a parameter of `modules_of`, by its name.

    Terms of other phases have no part in this one, whatever the globs say: without a gradient they
    would have no moments to keep.
    """
    present = name.split(".")[0] in ("model", phase.name)
    return present and any(fnmatch(name.removeprefix("model."), glob) for glob in phase.train)


def trained_numbers(method: Method) -> Trained:
    """Return how many numbers some phase trains; shared modules count once."""
    sizes = {
        name: parameter.numel()
        for name, parameter in modules_of(method).named_parameters()
        if any(trains(phase, name) for phase in method.phases)
    }
    backbone = sum(n for name, n in sizes.items() if name.startswith("model.backbones."))
    return Trained(sum(sizes.values()) - backbone, backbone)


def belongs(tensors: Mapping[str, Tensor], method: Method, phase: Phase) -> bool:
    """Whether a kept state has the names and shapes of this method's parameters and moments."""
    shapes = {n: tuple(p.shape) for n, p in modules_of(method).named_parameters()}
    free = [name for name in shapes if trains(phase, name)]
    wanted = {
        f"{prefix}/{name}": shape for prefix in ("now", "best") for name, shape in shapes.items()
    }
    wanted |= {f"{prefix}/{name}": shapes[name] for prefix in "mv" for name in free}
    wanted |= {f"t/{name}": () for name in free}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wanted
