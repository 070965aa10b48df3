"""Item transition: what followed the last item most often in training. No training, no text.

Source: a first-order Markov chain, the usual session baseline.
Differs: equal counts are ordered by popularity, so that items never seen after the last one are
not one large tie.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from pipeline.model import Inputs, MethodConfig, Parts, Untrained
from pipeline.sampling.batches import History

NEEDS: tuple[str, ...] = ()


class Config(MethodConfig):
    """No settings."""


def build(config: Config, inputs: Inputs, parts: Parts) -> Untrained:
    """Return the scorer."""
    data = inputs.sequences
    lengths = np.diff(data.offsets)
    place = np.arange(len(data.items)) - np.repeat(data.offsets[:-1], lengths)
    follows = np.flatnonzero((place > 0) & (place < np.repeat(data.train_end, lengths)))
    size = data.num_items + 1
    pairs = (np.ones(len(follows)), (data.items[follows - 1], data.items[follows]))
    counts = csr_matrix(pairs, shape=(size, size))
    popularity = data.train_counts()
    order = popularity / (popularity.sum() + 1)  # below 1: never outweighs a count

    def score(history: History) -> Tensor:
        rows = counts[history.items[:, -1].numpy()].toarray() + order
        return torch.from_numpy(rows[:, 1:])

    return Untrained(scorer=score, length=1)
