"""Text neighbour: the items whose text is most similar to the last item's. No training, no IDs.

Source: nearest neighbours by cosine of the text embeddings.
Differs: the last item stays a candidate, as for every trained model, and is its own nearest
neighbour; `last_item: excluded` leaves it out, as a shop would.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model import Before, Inputs, MethodConfig, Parts, Untrained
from pipeline.sampling.batches import History

NEEDS = ("semantic",)


class Config(MethodConfig):
    """Settings."""

    last_item: Annotated[Literal["candidate", "excluded"], Before("excluded")]
    """candidate: ranked like any other item, though nobody is asked for it twice in a row as a
    rule; excluded: behind all others, an advantage over models that may put it first."""


def build(config: Config, inputs: Inputs, parts: Parts) -> Untrained:
    """Return the scorer."""
    rows = F.normalize(torch.from_numpy(inputs.semantic.values), dim=1)

    def score(history: History) -> Tensor:
        last = history.items[:, -1]
        scores = rows[last] @ rows.T
        if config.last_item == "excluded":
            scores.scatter_(1, last[:, None], -2.0)  # below every cosine
        return scores[:, 1:]

    return Untrained(scorer=score, length=1)
