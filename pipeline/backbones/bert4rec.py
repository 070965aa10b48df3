"""BERT4Rec: attention in both directions, trained to tell masked items from those around them.

Source: Sun et al., CIKM 2019; FeiSun/BERT4Rec at 615eaf2, modeling.py (blocks, LayerNorm of the
input) and gen_data_fin.py (masks). Sizes: 2 blocks, 2 heads, feed-forward of 4 D with GELU, and a
share of 1 / 11 of the sequences with the last item masked are the reference's; rho is one of
SpecTran's 0.2, 0.4, 0.6.
Differs: a history of L events and one masked position after it, where the reference gives the mask
one of L places; so L+1 position vectors, and training sequences of L+1 events. The mask is a vector
of the encoder, not a row of the item table. States are compared with items as they are: no further
dense layer with GELU and LayerNorm, no bias per item, no segment vectors. The loss is the shared
one. Weights start from a normal distribution that is not truncated. Masks: see `Masking`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.layers.attention import attend
from pipeline.layers.dropout import dropout
from pipeline.layers.packing import Packing
from pipeline.layouts import refuse_heads
from pipeline.model import Backbone, MethodConfig, Targets
from pipeline.sampling.batches import History
from pipeline.sampling.cloze import Masking


class Config(MethodConfig):
    """Sizes and masks; width and dropout belong to `train`, shared by all cells."""

    history: int = Field(gt=0)
    """L: events the encoder reads, beside the masked position after them."""
    blocks: int = Field(gt=0)
    """Transformer blocks."""
    heads: int = Field(gt=0)
    """Attention heads; must divide the width."""
    inner: int = Field(gt=0)
    """Width of the feed-forward layers, in widths."""
    rho: float = Field(gt=0, le=1)
    """Probability that an item of a training sequence is masked; one is in any case."""
    last_only: float = Field(ge=0, le=1)
    """Share of training sequences in which only the last item is masked, as at test."""
    init_std: float = Field(gt=0)
    """Standard deviation of initial weights, positions and mask; biases start at zero."""
    norm_eps: float = Field(gt=0)
    """Added to the variance by every LayerNorm."""


class Block(nn.Module):
    """Y = LN(X + attention(X)); Z = LN(Y + FFN(Y)), on packed rows."""

    def __init__(self, width: int, config: Config, dropout: float) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = dropout
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width, eps=config.norm_eps)
        self.widen = nn.Linear(width, config.inner * width)
        self.narrow = nn.Linear(config.inner * width, width)
        self.norm_feed = nn.LayerNorm(width, eps=config.norm_eps)

    def forward(self, x_TD: Tensor, packing: Packing, allowed: Tensor) -> Tensor:
        """Return [T, D]; allowed: [B, 1, L+1, L+1] bool, which keys a query may see."""
        p, training = self.dropout, self.training
        joined = packing.pad(self.project_in(x_TD))
        # [B, L+1, 3D] -> 3 x [B, heads, L+1, D / heads]
        q, k, v = joined.view(*joined.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = packing.pack(attend(q, k, v, allowed, p, training).transpose(1, 2).flatten(2))
        mixed = dropout(self.project_out(mixed), p, training, packed=True)
        y_TD = self.norm_attention(x_TD + mixed)
        inner = dropout(self.narrow(F.gelu(self.widen(y_TD))), p, training, packed=True)
        out: Tensor = self.norm_feed(y_TD + inner)
        return out


class BERT4Rec(Backbone):
    """Mask vector, positions, LayerNorm, blocks that see the whole sequence."""

    targets: ClassVar[Targets] = "cloze"

    def __init__(self, config: Config, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.length = config.history
        self.dropout = dropout
        self.masking = Masking(config.rho, config.last_only)
        places = config.history + 1
        self.mask = nn.Parameter(torch.randn(width) * config.init_std)
        self.positions = nn.Parameter(torch.randn(places, width) * config.init_std)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.blocks = nn.ModuleList(Block(width, config, dropout) for _ in range(config.blocks))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.init_std)
                nn.init.zeros_(module.bias)
        self.register_buffer("own", torch.eye(places, dtype=torch.bool), persistent=False)
        self.own: Tensor

    def forward(self, x_BLD: Tensor, history: History) -> Tensor:
        """Return states [B, L+1, D] of x [B, L+1, D]; zero where the history is padded.

        What x holds at masked positions is not read.
        """
        masked = history.masked
        assert masked is not None, "the history has no masked positions"
        real = history.real
        packing = Packing(real)
        x_BLD = torch.where(masked[..., None], self.mask, x_BLD) + self.positions
        x_TD = dropout(self.norm(packing.pack(x_BLD)), self.dropout, self.training, packed=True)
        # A padded query sees itself too: a row without keys would be NaN.
        allowed = (real[:, None, :] | self.own)[:, None]
        for block in self.blocks:
            x_TD = block(x_TD, packing, allowed)
        return packing.pad(x_TD)


def build(config: Config, width: int, dropout: float, key: str = "train.width") -> Backbone:
    """Return the encoder. Raises ConfigError when the heads do not divide the width.

    key: where the width is set, for messages.
    """
    refuse_heads(config.heads, width, config.block, key)
    return BERT4Rec(config, width, dropout)
