"""The items that negatives are drawn from, and how likely each of them is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Loss


@dataclass(frozen=True)
class Pool:
    """Where a loss draws its negatives, with replacement."""

    items: Tensor
    """[P] long, ascending."""
    cumulative: Tensor | None
    """[P] float64, the distribution function over `items`; None = uniform."""

    @classmethod
    def of(cls, loss: Loss, counts: np.ndarray) -> Pool:
        """Return the pool of a loss; counts: [N+1] training events per item, row 0 is 0."""
        known = counts[1:] > 0
        if loss.draw_power > 0:
            items = np.flatnonzero(known) + 1
            weights = counts[items].astype(np.float64) ** loss.draw_power
            cumulative = torch.from_numpy(np.cumsum(weights) / weights.sum())
            return cls(torch.from_numpy(items), cumulative)
        allowed = known if loss.negatives_from == "trained" else np.ones_like(known)
        return cls(torch.from_numpy(np.flatnonzero(allowed) + 1), None)

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, rows: int, count: int, stream: torch.Generator) -> Tensor:
        """Return [rows, count] long."""
        if self.cumulative is None:
            return self.items[torch.randint(len(self), (rows, count), generator=stream)]
        level = torch.rand((rows, count), dtype=torch.float64, generator=stream)
        place = torch.searchsorted(self.cumulative, level, right=True)
        return self.items[place.clamp(max=len(self) - 1)]  # the last level may round below 1

    def log_probability(self, num_items: int) -> Tensor:
        """Return [N+1] float64: the log of every item's share of the draws; -inf if never drawn."""
        found = torch.zeros(num_items + 1, dtype=torch.float64)
        if self.cumulative is None:
            found[self.items] = 1 / len(self)
        else:
            found[self.items] = self.cumulative.diff(prepend=torch.zeros(1, dtype=torch.float64))
        return found.log()
