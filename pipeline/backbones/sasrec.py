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

from pipeline.data.batches import History
from pipeline.dropout import dropout
from pipeline.model import Backbone, MethodConfig


class Config(MethodConfig):
    """Sizes; width and dropout belong to `train`, shared by all cells."""

    history: int = Field(gt=0)
    """L: events the encoder reads."""
    blocks: int = Field(gt=0)
    """Transformer blocks."""
    heads: int = Field(gt=0)
    """Attention heads; must divide the width."""


class Block(nn.Module):
    """Y = X + attention(LN(X)); Z = Y + FFN(LN(Y))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width, eps=1e-8)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width, eps=1e-8)
        self.widen = nn.Linear(width, width)
        self.narrow = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, allowed: Tensor) -> Tensor:
        """Return [B, L, D]; allowed: [B, 1, L, L] bool, which keys a query may see."""
        size, length, width = x_BLD.shape
        p = self.dropout if self.training else 0.0
        joined = self.project_in(self.norm_attention(x_BLD))
        # [B, L, 3D] -> 3 x [B, heads, L, D / heads]
        q, k, v = joined.view(size, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=p)
        mixed = mixed.transpose(1, 2).reshape(size, length, width)
        y_BLD = x_BLD + dropout(self.project_out(mixed), p, self.training)
        inner = dropout(F.relu(self.widen(self.norm_feed(y_BLD))), p, self.training)
        return y_BLD + dropout(self.narrow(inner), p, self.training)


class SASRec(Backbone):
    """Positions, causal blocks, final LayerNorm."""

    def __init__(self, config: Config, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.length = config.history
        self.dropout = dropout
        self.positions = nn.Parameter(torch.randn(config.history, width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width, eps=1e-8)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)
        self.register_buffer("own", torch.eye(self.length, dtype=torch.bool), persistent=False)
        self.causal: Tensor
        self.own: Tensor

    def forward(self, x_BLD: Tensor, history: History) -> Tensor:
        """Return states [B, L, D]; padded positions influence no other."""
        real = history.items > 0
        x_BLD = dropout(x_BLD + self.positions, self.dropout, self.training)
        x_BLD = x_BLD * real[..., None]
        # A padded query sees itself only: a row without keys would be NaN.
        allowed = ((self.causal & real[:, None, :]) | self.own)[:, None]
        for block in self.blocks:
            x_BLD = block(x_BLD, allowed)
        out: Tensor = self.norm(x_BLD)
        return out


def build(config: Config, width: int, dropout: float) -> Backbone:
    """Return the encoder. Raises ConfigError when the heads do not divide the width."""
    from pipeline.errors import ConfigError

    if width % config.heads:
        raise ConfigError(
            f"params.yaml: backbones.sasrec.heads: {config.heads} does not divide train.width "
            f"{width}. Allowed: a divisor of the width."
        )
    return SASRec(config, width, dropout)
