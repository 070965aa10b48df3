"""What a model file holds: the tensors of the model, and those that only its loss uses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.model import Method

TERMS = "objectives."
"""Before the names of tensors of the loss's terms; the model has no part of this name."""


def terms_of(method: Method) -> nn.ModuleDict:
    """Return the terms of the loss by name; of one name in several phases, the last phase's."""
    terms = nn.ModuleDict()
    for phase in method.phases:
        terms.update({name: term for name, (_, term) in phase.objectives.items()})
    return terms


def saved_state(method: Method) -> dict[str, Tensor]:
    """Return the tensors of a model file by name; they share memory with the method's own."""
    terms = terms_of(method).state_dict()
    return {**method.model.state_dict(), **{TERMS + name: t for name, t in terms.items()}}


def load_state(method: Method, tensors: Mapping[str, Tensor]) -> None:
    """Take the values of `saved_state`. Raises RuntimeError when names or shapes differ."""
    own = {name: t for name, t in tensors.items() if not name.startswith(TERMS)}
    terms = {name.removeprefix(TERMS): t for name, t in tensors.items() if name not in own}
    method.model.load_state_dict(own)
    terms_of(method).load_state_dict(terms)
