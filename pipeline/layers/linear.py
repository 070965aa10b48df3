"""Linear maps whose start is stated rather than left to a library's default."""

from __future__ import annotations

from torch import nn


def uniform_linear(inputs: int, outputs: int, gain: float, *, bias: bool = True) -> nn.Linear:
    """Return a map whose weights and bias start uniform within gain / sqrt(inputs).

    A gain of 1 is the default of torch, which the reference code of several methods relies on.
    """
    made = nn.Linear(inputs, outputs, bias=bias)
    bound = gain / inputs**0.5
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -bound, bound)
    return made
