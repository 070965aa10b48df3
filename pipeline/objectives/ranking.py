"""Ranking losses, shared by all methods so that comparisons are fair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Loss
from pipeline.data.batches import Batch
from pipeline.model import Objective, SeqModel, Similarity, Views


class InfoNCE(Objective):
    """Cross-entropy of the target against M sampled negatives.

    loss = -log( exp(s(h,t)/tau) / (exp(s(h,t)/tau) + sum_n exp(s(h,n)/tau)) ), mean over targets.
    Source: SpecTran section 4.1 (InfoNCE, 64 negatives); cosine and tau = 0.07 from AlphaFuse.
    Differs: negatives are shared by the positions of one history; a negative that equals a
    position's target is left out of that position's sum instead of being redrawn; they are drawn
    from the items with a training event unless `negatives_from` says otherwise.
    """

    def __init__(self, similarity: Similarity, temperature: float) -> None:
        super().__init__()
        self.similarity: Similarity = similarity
        self.temperature = temperature

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean loss over all positions with a target."""
        key_ND = model.fusion.key(tables, self.similarity)
        query_BLD = model.fusion.query(states, self.similarity)
        targets = batch.targets
        # Lookups by F.embedding: indexing a table by a tensor is not repeatable on two threads.
        positive_BL = (query_BLD * F.embedding(targets, key_ND)).sum(-1) / self.temperature
        negative_BMD = F.embedding(batch.negatives, key_ND)
        negative_BLM = torch.bmm(query_BLD, negative_BMD.transpose(1, 2)) / self.temperature
        collision = batch.negatives[:, None, :] == targets[:, :, None]
        negative_BLM = negative_BLM.masked_fill(collision, -torch.inf)
        total_BL = torch.logaddexp(positive_BL, negative_BLM.logsumexp(-1))
        counted = (targets > 0).to(total_BL.dtype)
        return ((total_BL - positive_BL) * counted).sum() / counted.sum()


def ranking_loss(config: Loss) -> Objective:
    """Return the loss named in params.yaml."""
    return InfoNCE(config.similarity, config.temperature)
