"""Steps that compute the vectors of a batch's items only, not of the whole catalogue."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.model import Phase, SeqModel
from pipeline.sampling.batches import Batch

SHARE = 0.5
"""Of the catalogue: batches that may touch more compute it whole, by one product without copies."""


def selects(model: SeqModel, phase: Phase, config: TrainConfig, num_items: int) -> bool:
    """Return whether the steps of a phase compute the vectors of their own items only.

    They do where a table is cheaper so, no term of the loss reads other items, and a full batch is
    small beside the catalogue: the answer is the same for all steps of a cell.
    """
    drawn = getattr(config.loss, "negatives", 0)
    touched = config.batch_size * (2 * model.length + 2 + drawn)
    possible = any(a.selective for a in model.item_tables) and all(
        objective.reads_batch_only for _, objective in phase.objectives.values()
    )
    return possible and touched <= SHARE * num_items


def select(batch: Batch) -> tuple[Tensor, Batch]:
    """Return the items of a batch, [M] ascending from 0, and the batch with places among them."""
    parts = (batch.history.items, batch.targets, batch.negatives)
    padding = batch.targets.new_zeros(1)
    items, places = torch.unique(
        torch.cat([padding, *(part.reshape(-1) for part in parts)]), return_inverse=True
    )
    split = places[1:].split([part.numel() for part in parts])
    history, targets, negatives = (
        part.view(whole.shape) for part, whole in zip(split, parts, strict=True)
    )
    return items, Batch(replace(batch.history, items=history), targets, negatives)
