"""Ranking losses, shared by all methods so that comparisons are fair.

Where negatives are drawn, they are shared by the positions of one history, and one that equals a
position's target is left out of that position's sum instead of being redrawn.
"""

from __future__ import annotations

import math
from typing import NamedTuple, assert_never

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import (
    BCELoss,
    GBCELoss,
    InfoNCELoss,
    Loss,
    SampledSoftmaxLoss,
    SoftmaxLoss,
)
from pipeline.model import Objective, SeqModel, Similarity, Views
from pipeline.objectives.catalogue import Softmax
from pipeline.sampling.batches import Batch
from pipeline.sampling.negatives import Pool


class Scores(NamedTuple):
    """Similarities divided by the temperature."""

    positive: Tensor
    """[B, L], of the targets."""
    negative: Tensor
    """[B, L, M], of the drawn items."""
    collision: Tensor
    """[B, L, M] bool, where a drawn item is the target."""


class SampledScores:
    """Scores of targets and drawn items, and the mean over positions with a target."""

    def __init__(self, similarity: Similarity, temperature: float) -> None:
        self.similarity: Similarity = similarity
        self.temperature = temperature

    def __call__(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Scores:
        """Return the scores of every position."""
        key_ND = model.fusion.key(tables, self.similarity)
        query_BLD = model.fusion.query(states, self.similarity)
        targets = batch.targets
        # Lookups by F.embedding: indexing a table by a tensor is not repeatable on two threads.
        positive_BL = (query_BLD * F.embedding(targets, key_ND)).sum(-1) / self.temperature
        negative_BMD = F.embedding(batch.negatives, key_ND)
        negative_BLM = torch.bmm(query_BLD, negative_BMD.transpose(1, 2)) / self.temperature
        collision = batch.negatives[:, None, :] == targets[:, :, None]
        return Scores(positive_BL, negative_BLM, collision)


def mean_over_targets(loss_BL: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of [B, L] over the positions with a target."""
    counted = (targets > 0).to(loss_BL.dtype)
    return (loss_BL * counted).sum() / counted.sum()


class InfoNCE(Objective):
    """Cross-entropy of the target against M sampled negatives.

    loss = -log( exp(s(h,t)/tau) / (exp(s(h,t)/tau) + sum_n exp(s(h,n)/tau)) ), mean over targets.
    Source: SpecTran section 4.1 (InfoNCE, 64 negatives); cosine and tau = 0.07 from AlphaFuse.
    Differs: negatives are shared by the positions of a history, and one that equals a position's
    target is left out; they are drawn from the items with a training event unless `negatives_from`
    says otherwise, and then the ID vectors of all others have no gradient but that of weight decay,
    by which Adam brings them to zero however small it is.
    """

    reads_batch_only = True

    def __init__(self, similarity: Similarity, temperature: float) -> None:
        super().__init__()
        self.scores = SampledScores(similarity, temperature)

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean loss over all positions with a target."""
        positive_BL, negative_BLM, collision = self.scores(model, batch, tables, states)
        return _cross_entropy(positive_BL, negative_BLM, collision, batch.targets)


class SampledSoftmax(Objective):
    """Cross-entropy with a sampled partition function.

    loss = -log( exp(s_t) / (exp(s_t) + sum_{n != t} exp(s_n) / (M q(n))) ), s = similarity / tau,
    q(n) an item's share of the draws. The sum over n is an unbiased estimate of the sum over all
    items of the pool but the target: the target is known, so it enters exactly and uncorrected, and
    a draw that hits it is left out.
    Source: Bengio & Senecal, IEEE Transactions on Neural Networks 2008 (importance sampling of the
    partition function).
    Differs: M is fixed instead of grown by effective sample size; the weights are not normalised;
    q depends on training counts only. Common implementations (tf.nn.sampled_softmax_loss) also
    divide the target's term by M q(t), which biases it.
    """

    def __init__(
        self, similarity: Similarity, temperature: float, negatives: int, log_q: Tensor
    ) -> None:
        super().__init__()
        self.scores = SampledScores(similarity, temperature)
        # Never stored with the model: it follows from the data.
        self.register_buffer("log_draws", math.log(negatives) + log_q, persistent=False)
        self.log_draws: Tensor

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean loss over all positions with a target."""
        positive_BL, negative_BLM, collision = self.scores(model, batch, tables, states)
        negative_BLM = negative_BLM - self.log_draws[batch.negatives][:, None, :]
        return _cross_entropy(positive_BL, negative_BLM, collision, batch.targets)


def _cross_entropy(
    positive_BL: Tensor, negative_BLM: Tensor, collision: Tensor, targets: Tensor
) -> Tensor:
    negative_BLM = negative_BLM.masked_fill(collision, -torch.inf)
    total_BL = torch.logaddexp(positive_BL, negative_BLM.logsumexp(-1))
    return mean_over_targets(total_BL - positive_BL, targets)


class BCE(Objective):
    """Binary cross-entropy: target against sampled negatives.

    loss = softplus(-s_t) + mean_{n != t} softplus(s_n), s = similarity / tau; mean over targets.
    The negatives of a position weigh as much as its target, however many they are; without
    collisions M = 1 is the loss of SASRec.
    Source: Kang & McAuley, ICDM 2018, equation 7.
    Differs: negatives are shared by a history and drawn from a pool, not from the items that the
    user has not seen.
    """

    reads_batch_only = True

    def __init__(self, similarity: Similarity, temperature: float) -> None:
        super().__init__()
        self.scores = SampledScores(similarity, temperature)

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean loss over all positions with a target."""
        positive_BL, negative_BLM, collision = self.scores(model, batch, tables, states)
        # -logsigmoid(-x) is softplus(x) without a threshold beyond which it would be cut to x.
        pushed_BL = -F.logsigmoid(-negative_BLM).masked_fill(collision, 0.0).sum(-1)
        left_BL = (~collision).sum(-1).clamp(min=1)
        return mean_over_targets(pushed_BL / left_BL - F.logsigmoid(positive_BL), batch.targets)


class GBCE(Objective):
    """Generalised binary cross-entropy, which makes up for drawing few of the negatives.

    loss = -( log sigma(s_t)^beta + sum_{n != t} log(1 - sigma(s_n)) ) / (M + 1)
    beta = alpha (t (1 - 1/alpha) + 1/alpha), alpha = M / (P - 1), t = `calibration`
    P is the size of the pool that negatives are drawn from: N for the whole catalogue.
    Source: Petrov & Macdonald, RecSys 2023 (gSASRec); asash/gSASRec-pytorch, train_gsasrec.py at
    7e35028.
    Differs: beta multiplies the log-sigmoid, where the reference raises the probability to the
    power and clamps it in float64; similarity and temperature; negatives shared by a history (the
    reference draws them for every position, and keeps those that equal the target); alpha at most
    1.
    """

    reads_batch_only = True

    def __init__(
        self,
        similarity: Similarity,
        temperature: float,
        calibration: float,
        negatives: int,
        pool_size: int,
    ) -> None:
        super().__init__()
        self.scores = SampledScores(similarity, temperature)
        alpha = min(1.0, negatives / max(pool_size - 1, 1))
        self.beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        """Return the mean loss over all positions with a target."""
        positive_BL, negative_BLM, collision = self.scores(model, batch, tables, states)
        pushed_BL = F.logsigmoid(-negative_BLM).masked_fill(collision, 0.0).sum(-1)
        loss_BL = -(self.beta * F.logsigmoid(positive_BL) + pushed_BL)
        return mean_over_targets(loss_BL / (negative_BLM.shape[-1] + 1), batch.targets)


def ranking_loss(config: Loss, counts: np.ndarray) -> Objective:
    """Return the loss named in params.yaml; counts: [N+1] training events per item, row 0 is 0."""
    match config:
        case InfoNCELoss():
            return InfoNCE(config.similarity, config.temperature)
        case SoftmaxLoss():
            return Softmax(config.similarity, config.temperature)
        case SampledSoftmaxLoss():
            log_q = Pool.of(config, counts).log_probability(len(counts) - 1).float()
            return SampledSoftmax(config.similarity, config.temperature, config.negatives, log_q)
        case BCELoss():
            return BCE(config.similarity, config.temperature)
        case GBCELoss():
            return GBCE(
                config.similarity,
                config.temperature,
                config.calibration,
                config.negatives,
                len(Pool.of(config, counts)),
            )
        case _:
            assert_never(config)
