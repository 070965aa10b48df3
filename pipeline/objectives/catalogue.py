"""Cross-entropy over the whole catalogue without keeping a score per target and item."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.data.batches import Batch
from pipeline.model import Objective, SeqModel, Similarity, Views

CHUNK_BYTES = 32_000_000
"""Scores held at once: [targets, N]; their softmax takes as much again."""


class _CrossEntropy(torch.autograd.Function):
    """Works out both gradients on the way forward, while a chunk's softmax is at hand."""

    @staticmethod
    def forward(
        ctx: Any, query_TD: Tensor, key_ND: Tensor, targets: Tensor, temperature: float
    ) -> Tensor:
        items_ND = key_ND[1:]
        rows = max(1, CHUNK_BYTES // (items_ND.element_size() * len(items_ND)))
        weight = 1 / (temperature * len(targets))
        total = query_TD.new_zeros(())
        grad_query, grad_key = torch.empty_like(query_TD), torch.zeros_like(key_ND)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            place = targets[part, None] - 1
            log_share = (query_TD[part] @ items_ND.T).div_(temperature).log_softmax(1)
            total -= log_share.gather(1, place).sum()
            excess = log_share.exp_()
            excess.scatter_(1, place, excess.gather(1, place) - 1)
            grad_query[part] = (excess @ items_ND).mul_(weight)
            grad_key[1:].addmm_(excess.T, query_TD[part], alpha=weight)
        ctx.save_for_backward(grad_query, grad_key)
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        grad_query, grad_key = ctx.saved_tensors
        return grad * grad_query, grad * grad_key, None, None


def cross_entropy(query_TD: Tensor, key_ND: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the mean over targets of logsumexp_j(q.k_j / tau) - q.k_t / tau, j = 1..N.

    query_TD: [T, D]; key_ND: [N+1, D], row 0 takes no part; targets: [T] long in 1..N. Exact, with
    gradients of the first order. Beside the inputs it keeps as much as they take; 3 T N D
    multiplications.
    """
    loss: Tensor = _CrossEntropy.apply(query_TD, key_ND, targets, temperature)  # type: ignore[no-untyped-call]
    return loss


class Softmax(Objective):
    """Cross-entropy of the target against all items of the catalogue.

    loss = -log( exp(s_t) / sum_{j=1..N} exp(s_j) ), s = similarity / tau; mean over targets.
    Source: the usual full softmax (e.g. Sun et al., CIKM 2019, equation 7).
    Differs: no bias per item; the similarity may be a cosine; items without a training event are
    pushed away like all others, see `negatives_from` of the sampled losses.
    """

    # Its time goes into arithmetic, which several seeds cannot share, and its chunks have the
    # sizes that a batch happens to have.
    stackable: ClassVar[bool] = False

    def __init__(self, similarity: Similarity, temperature: float) -> None:
        super().__init__()
        self.similarity: Similarity = similarity
        self.temperature = temperature

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean loss over all positions with a target; others are not computed."""
        targets = batch.targets.flatten()
        index = targets.nonzero().squeeze(1)
        kept = {name: s.flatten(0, 1).index_select(0, index) for name, s in states.items()}
        query_TD = model.fusion.query(kept, self.similarity)
        key_ND = model.fusion.key(tables, self.similarity)
        return cross_entropy(query_TD, key_ND, targets[index], self.temperature)
