"""HSTU: gated layers of pointwise attention, without softmax and without feed-forward.

    U, V, Q, K = SiLU(LN(X) W)              W [D, heads * 2 (d_v + d_qk)], no bias
    A = SiLU(Q K^T + b) / L                 at keys up to the query, else 0
    Z = X + (LN(A V) * U) W_o + b_o         LN without weights
    b = position[i - j] + time[bucket(t_i - t_j)]
    bucket(t) = floor(log(max(1, |t|)) / time_scale), at most time_buckets

Source: Zhai et al., ICML 2024, section 3; facebookresearch/generative-recommenders at 2e81fab
(generative_recommenders/research/modeling/sequential/hstu.py). SpecTran runs it on IDs and items
alone: time_bias false.
Differs: a time bias compares a key with the query's own event, where the reference compares it with
the next one, which for a target is not known here; without it the position bias stays, which the
reference then drops too. Histories end at the right, so positions count from the end; the reference
counts from the start. A is divided by the L read; the reference's padded length has room for
outputs besides. Positions start truncated normal, as the reference's own reset draws them before
its model overwrites them by Xavier-normal values. The L - 1 position biases of keys after the
query, which the reference keeps and masks, do not exist. d_qk and d_v are settings, and stay where
item vectors or a method's views are narrower. Items, loss and scores are those of `train`:
unit-length states and items come from its cosine; the reference's temperature is 0.05, its loss a
sampled softmax, its item vectors start truncated normal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.layers.dropout import dropout
from pipeline.layers.packing import Packing
from pipeline.model import Backbone, MethodConfig
from pipeline.sampling.batches import History


class Config(MethodConfig):
    """Sizes and initial spreads; width and dropout belong to `train`, shared by all cells."""

    history: int = Field(gt=0)
    """L: events the encoder reads."""
    blocks: int = Field(gt=0)
    """Layers."""
    heads: int = Field(gt=0)
    """Attention heads."""
    attention_width: int = Field(gt=0)
    """d_qk: width of queries and keys, per head."""
    linear_width: int = Field(gt=0)
    """d_v: width of values and gates, per head."""
    time_bias: bool
    """Add a trained bias to A by the time between two events; refuses data without times."""
    time_buckets: int = Field(gt=0)
    """Highest bucket of time differences; read with time_bias only."""
    time_scale: float = Field(gt=0)
    """Natural logarithm that a bucket spans; read with time_bias only."""
    scale_input: bool
    """Multiply item vectors by sqrt(D) before positions are added, as the reference does."""
    init_std: float = Field(gt=0)
    """Standard deviation of initial W and of the biases in A."""
    position_gain: float = Field(gt=0)
    """Positions start normal with deviation this / sqrt(D), cut at two; 1 in the reference."""
    output_gain: float = Field(gt=0)
    """W_o starts Xavier-uniform times this, b_o uniform within this / sqrt(heads * d_v); 1 in the
    reference."""
    norm_eps: float = Field(gt=0)
    """Added to the variance by every LayerNorm; that of A V can be as small, being divided by L."""


def time_buckets(asked_BL: Tensor, times_BL: Tensor, config: Config) -> Tensor:
    """Return the bucket of every query's moment against every key's, [B, L, L] long.

    asked_BL, times_BL: long, seconds.
    """
    gap_BLL = (asked_BL[:, :, None] - times_BL[:, None, :]).abs().clamp(min=1)
    buckets = (gap_BLL.float().log() / config.time_scale).long()
    return buckets.clamp(max=config.time_buckets)


class Block(nn.Module):
    """One layer, on packed rows."""

    def __init__(self, width: int, config: Config, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.eps = config.norm_eps
        self.heads = config.heads
        self.length = config.history
        linear = config.heads * config.linear_width
        attention = config.heads * config.attention_width
        self.sizes = (linear, attention, attention)
        std = config.init_std
        self.project_in = nn.Parameter(torch.randn(width, linear + sum(self.sizes)) * std)
        self.position = nn.Parameter(torch.randn(config.history) * std)
        """[L], by how many events the key lies before the query."""
        self.time: nn.Parameter | None = None
        if config.time_bias:
            self.time = nn.Parameter(torch.randn(config.time_buckets + 1) * std)
        self.project_out = nn.Linear(linear, width)
        nn.init.xavier_uniform_(self.project_out.weight, gain=config.output_gain)
        bound = config.output_gain / linear**0.5
        nn.init.uniform_(self.project_out.bias, -bound, bound)
        before = torch.arange(config.history)
        distance = before[:, None] - before
        self.register_buffer("distance", distance.clamp(min=0), persistent=False)
        self.register_buffer("causal", distance >= 0, persistent=False)
        self.distance: Tensor
        self.causal: Tensor

    def forward(self, x_TD: Tensor, packing: Packing, buckets: Tensor | None) -> Tensor:
        """Return [T, D]; buckets: [B, L, L] long, or None without a time bias."""
        joined = F.silu(F.layer_norm(x_TD, x_TD.shape[1:], eps=self.eps) @ self.project_in)
        linear = self.sizes[0]
        gate, rest = joined[:, :linear], packing.pad(joined[:, linear:])
        # 3 x [B, heads, L, width per head]
        v, q, k = (
            part.view(*part.shape[:2], self.heads, -1).transpose(1, 2)
            for part in torch.split_with_sizes(rest, self.sizes, dim=2)
        )
        # Keys at padding weigh something, but their values are zero.
        scores = F.silu(q @ k.transpose(-1, -2) + self._bias(buckets))
        weights = (scores / self.length).masked_fill(~self.causal, 0)
        mixed = packing.pack((weights @ v).transpose(1, 2).flatten(2))
        gated = F.layer_norm(mixed, mixed.shape[1:], eps=self.eps) * gate
        gated = dropout(gated, self.dropout, self.training, packed=True)
        projected: Tensor = self.project_out(gated)
        return x_TD + projected

    def _bias(self, buckets: Tensor | None) -> Tensor:
        """Return b: [L, L], or [B, 1, L, L] with times."""
        bias = F.embedding(self.distance, self.position[:, None]).squeeze(-1)
        if self.time is None or buckets is None:
            return bias
        return (bias + F.embedding(buckets, self.time[:, None]).squeeze(-1))[:, None]


class HSTU(Backbone):
    """Positions and layers."""

    def __init__(self, config: Config, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.length = config.history
        self.reads_times = config.time_bias
        self.dropout = dropout
        self.config = config
        self.scale = width**0.5 if config.scale_input else 1.0
        std = config.position_gain / width**0.5
        positions = torch.empty(config.history, width)
        nn.init.trunc_normal_(positions, std=std, a=-2 * std, b=2 * std)
        self.positions = nn.Parameter(positions)
        self.blocks = nn.ModuleList(Block(width, config, dropout) for _ in range(config.blocks))

    def forward(self, x_BLD: Tensor, history: History) -> Tensor:
        """Return states [B, L, D]; zero where the history is padded."""
        times = history.times
        buckets = None
        if self.reads_times:
            assert times is not None, "data without times are refused before training"
            buckets = time_buckets(times, times, self.config)
        return self.encode(x_BLD, history.real, buckets)

    def encode(self, x_BLD: Tensor, real_BL: Tensor, buckets_BLL: Tensor | None) -> Tensor:
        """Return states [B, L, D], given which positions are real and how far times lie apart."""
        packing = Packing(real_BL)
        scaled = packing.pack(x_BLD * self.scale + self.positions)
        x_TD = dropout(scaled, self.dropout, self.training, packed=True)
        for block in self.blocks:
            x_TD = block(x_TD, packing, buckets_BLL)
        return packing.pad(x_TD)


def build(config: Config, width: int, dropout: float, key: str = "train.width") -> Backbone:
    """Return the encoder; every width fits."""
    return HSTU(config, width, dropout)
