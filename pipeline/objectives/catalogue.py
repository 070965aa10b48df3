"""Cross-entropy over the whole catalogue without keeping a score per target and item."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.layers.packing import Packing
from pipeline.model import Objective, SeqModel, Similarity, Views
from pipeline.sampling.batches import Batch

CHUNK_BYTES = 32_000_000
"""Scores held at once: [targets, N]; their softmax takes as much again."""


class _CrossEntropy(torch.autograd.Function):
    """Works out both gradients on the way forward, while a chunk's softmax is at hand."""

    @staticmethod
    def forward(
        query_TD: Tensor,
        key_ND: Tensor,
        targets: Tensor,
        counted: Tensor | None,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        items_ND = key_ND[1:]
        rows = max(1, CHUNK_BYTES // (items_ND.element_size() * len(items_ND)))
        total = query_TD.new_zeros(())
        grad_query, grad_key = torch.empty_like(query_TD), torch.zeros_like(key_ND)
        weight = 1 / (temperature * len(targets))
        if counted is not None:
            share = counted[:, None].to(query_TD.dtype) / counted.sum()
            weight = 1 / temperature
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            place = targets[part, None] - 1
            log_share = (query_TD[part] @ items_ND.T).div_(temperature).log_softmax(1)
            own = log_share.gather(1, place)
            total -= own.sum() if counted is None else (own * share[part]).sum()
            excess = log_share.exp_()
            excess.scatter_(1, place, excess.gather(1, place) - 1)
            if counted is not None:
                excess *= share[part]
            grad_query[part] = (excess @ items_ND).mul_(weight)
            grad_key[1:].addmm_(excess.T, query_TD[part], alpha=weight)
        return total / len(targets) if counted is None else total, grad_query, grad_key

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        # One after another: their chunks are large enough, and need not be held all at once.
        found = []
        for row in range(info.batch_size):
            own = [
                x if dim is None else x.select(dim, row)
                for x, dim in zip(inputs, in_dims, strict=True)
            ]
            found.append(_CrossEntropy.apply(*own))  # type: ignore[no-untyped-call]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0, 0, 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_query, grad_key = ctx.saved_tensors
        return grads[0] * grad_query, grads[0] * grad_key, None, None, None


def cross_entropy(
    query_TD: Tensor,
    key_ND: Tensor,
    targets: Tensor,
    temperature: float,
    counted: Tensor | None = None,
) -> Tensor:
    """Return the mean over targets of logsumexp_j(q.k_j / tau) - q.k_t / tau, j = 1..N.

    query_TD: [T, D]; key_ND: [N+1, D], row 0 takes no part; targets: [T] long in 1..N; counted: [T]
    bool, None = all. Exact, with gradients of the first order. Beside the inputs it keeps as much
    as they take; 3 T N D multiplications.
    """
    found = _CrossEntropy.apply(query_TD, key_ND, targets, counted, temperature)  # type: ignore[no-untyped-call]
    loss: Tensor = found[0]
    return loss


class Softmax(Objective):
    """Cross-entropy of the target against all items of the catalogue.

    loss = -log( exp(s_t) / sum_{j=1..N} exp(s_j) ), s = similarity / tau; mean over targets.
    Source: the usual full softmax (e.g. Sun et al., CIKM 2019, equation 7).
    Differs: no bias per item; the similarity may be a cosine; items without a training event are
    pushed away like all others, see `negatives_from` of the sampled losses.
    """

    def __init__(self, similarity: Similarity, temperature: float) -> None:
        super().__init__()
        self.similarity: Similarity = similarity
        self.temperature = temperature

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean loss over all positions with a target; others are not computed."""
        packing = Packing(batch.targets > 0)
        targets = packing.pack(batch.targets).squeeze(1)
        kept = {name: packing.pack(state) for name, state in states.items()}
        query_TD = model.fusion.query(kept, self.similarity)
        key_ND = model.fusion.key(tables, self.similarity)
        if packing.fixed:
            some = targets.clamp(min=1)
            return cross_entropy(query_TD, key_ND, some, self.temperature, targets > 0)
        return cross_entropy(query_TD, key_ND, targets, self.temperature)
