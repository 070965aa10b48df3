"""Popularity: every user gets the items with most training events. No training, no text.

Source: the usual non-personalised baseline.
Differs: none known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.model import Inputs, MethodConfig, Parts, Untrained
from pipeline.sampling.batches import History

NEEDS: tuple[str, ...] = ()


class Config(MethodConfig):
    """No settings."""


def build(config: Config, inputs: Inputs, parts: Parts) -> Untrained:
    """Return the scorer."""
    counts = torch.from_numpy(inputs.sequences.train_counts()[1:]).float()

    def score(history: History) -> Tensor:
        return counts.expand(len(history.items), -1)

    return Untrained(scorer=score, length=1)
