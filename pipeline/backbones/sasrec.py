"""SASRec: causal self-attention over the history.

Source: Kang & McAuley, ICDM 2018, section 3; sizes from SpecTran (2 blocks, 1 head).
Differs: pre-norm blocks with normalised queries, keys and values (the reference normalises queries
only); a final LayerNorm; feed-forward of inner width D; item vectors are not multiplied by sqrt(D),
which would drown the positions beside semantic tables.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.layers.attention import attend
from pipeline.layers.dropout import dropout
from pipeline.layers.packing import Packing
from pipeline.layouts import refuse_heads
from pipeline.model import Backbone, MethodConfig
from pipeline.sampling.batches import History


class Config(MethodConfig):
    """Sizes; width and dropout belong to `train`, shared by all cells."""

    history: int = Field(gt=0)
    """L: events the encoder reads."""
    blocks: int = Field(gt=0)
    """Transformer blocks."""
    heads: int = Field(gt=0)
    """Attention heads; must divide the width."""
    init_std: float = Field(gt=0)
    """Standard deviation of initial weights and positions; biases start at zero."""
    norm_eps: float = Field(gt=0)
    """Added to the variance by every LayerNorm."""


class Block(nn.Module):
    """Y = X + attention(LN(X)); Z = Y + FFN(LN(Y)), on packed rows."""

    def __init__(self, width: int, config: Config, dropout: float) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width, eps=config.norm_eps)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width, eps=config.norm_eps)
        self.widen = nn.Linear(width, width)
        self.narrow = nn.Linear(width, width)

    def forward(self, x_TD: Tensor, packing: Packing, allowed: Tensor) -> Tensor:
        """Return [T, D]; allowed: [B, 1, L, L] bool, which keys a query may see."""
        p, training = self.dropout, self.training
        joined = packing.pad(self.project_in(self.norm_attention(x_TD)))
        # [B, L, 3D] -> 3 x [B, heads, L, D / heads]
        q, k, v = joined.view(*joined.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v, allowed, p, training).transpose(1, 2).flatten(2)
        y_TD = x_TD + dropout(self.project_out(packing.pack(mixed)), p, training, packed=True)
        inner = dropout(F.relu(self.widen(self.norm_feed(y_TD))), p, training, packed=True)
        return y_TD + dropout(self.narrow(inner), p, training, packed=True)


class SASRec(Backbone):
    """Positions, causal blocks, final LayerNorm."""

    def __init__(self, config: Config, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.length = config.history
        self.dropout = dropout
        self.positions = nn.Parameter(torch.randn(config.history, width) * config.init_std)
        self.blocks = nn.ModuleList(Block(width, config, dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.init_std)
                nn.init.zeros_(module.bias)
        causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)
        self.register_buffer("own", torch.eye(self.length, dtype=torch.bool), persistent=False)
        self.causal: Tensor
        self.own: Tensor

    def forward(self, x_BLD: Tensor, history: History) -> Tensor:
        """Return states [B, L, D]; zero where the history is padded."""
        real = history.real
        packing = Packing(real)
        packed = packing.pack(x_BLD + self.positions)
        x_TD = dropout(packed, self.dropout, self.training, packed=True)
        # A padded query sees itself only: a row without keys would be NaN.
        allowed = ((self.causal & real[:, None, :]) | self.own)[:, None]
        for block in self.blocks:
            x_TD = block(x_TD, packing, allowed)
        return packing.pad(self.norm(x_TD))


def build(config: Config, width: int, dropout: float, key: str = "train.width") -> Backbone:
    """Return the encoder. Raises ConfigError when the heads do not divide the width.

    key: where the width is set, for messages.
    """
    refuse_heads(config.heads, width, config.block, key)
    return SASRec(config, width, dropout)
