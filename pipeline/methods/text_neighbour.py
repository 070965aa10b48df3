"""Text neighbour: the items whose text is most similar to the last item's. No training, no IDs.

Source: nearest neighbours by cosine of the text embeddings.
Differs: the last item is not its own neighbour and comes last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model import Inputs, MethodConfig, Parts, Untrained
from pipeline.sampling.batches import History

NEEDS = ("semantic",)


class Config(MethodConfig):
    """No settings."""


def build(config: Config, inputs: Inputs, parts: Parts) -> Untrained:
    """Return the scorer."""
    rows = F.normalize(torch.from_numpy(inputs.semantic.values), dim=1)

    def score(history: History) -> Tensor:
        last = history.items[:, -1]
        scores = rows[last] @ rows.T
        scores.scatter_(1, last[:, None], -2.0)
        return scores[:, 1:]

    return Untrained(scorer=score, length=1)
