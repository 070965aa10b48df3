"""Cloze targets: masked items of a sequence are to be told from the others around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.sampling.batches import History, Windows


@dataclass(frozen=True)
class Masking:
    """Which items of a training sequence are hidden.

    Source: Sun et al., CIKM 2019, section 3.5; FeiSun/BERT4Rec, gen_data_fin.py at 615eaf2.
    Differs: every item is masked on its own, where the reference masks a fixed number of a
    sequence; masks are drawn anew in every epoch instead of ten times beforehand.
    """

    rho: float
    """Probability that an item is masked; one is masked in any case."""
    last_only: float
    """Share of sequences in which the last item alone is masked, as at test."""

    def draw(self, real: Tensor, stream: torch.Generator) -> Tensor:
        """Return [B, W] bool, where to mask; real: [B, W] bool, right-aligned.

        The item with the lowest draw is always masked: in a sequence of n items n rho +
        (1 - rho)^n of them are masked on average.
        """
        level = torch.rand(real.shape, generator=stream)
        alone = torch.rand((len(real), 1), generator=stream) < self.last_only
        level = level.masked_fill(~real, 1.0)
        place = torch.arange(real.shape[1])
        masked = (level < self.rho) | (place == level.argmin(1, keepdim=True))
        return torch.where(alone, place == len(place) - 1, masked)


def masked_items(
    masking: Masking, stream: torch.Generator, cut: Windows, rows: np.ndarray
) -> tuple[History, Tensor]:
    """Return histories [B, L+1] of some windows and the items that are hidden in them.

    A window holds a history of L events and the one after it; a hidden item is 0 in the history, so
    that no backbone can see it.
    """
    events = torch.from_numpy(cut.sequences(rows))
    masked = masking.draw(events > 0, stream)
    return History(events.masked_fill(masked, 0), masked), events.masked_fill(~masked, 0)


def question(history: History) -> History:
    """Return the history [B, L] with a masked position after it, [B, L+1]: the item to rank."""
    items = F.pad(history.items, (0, 1))
    masked = torch.zeros_like(items, dtype=torch.bool)
    masked[:, -1] = True
    return History(items, masked)
