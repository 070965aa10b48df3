"""WhitenRec: item vectors are a trained head over whitened text embeddings.

    E = head(Z)                            Z [N, H] whitened over all columns
    E = head(Z) + sum_G head(Z_G)          WhitenRec+: Z_G whitened within G groups of columns

Source: Zhang et al., ICDE 2024. head = GELU(Z W + b) with PCA whitening and eps 0 is AlphaFuse's
re-implementation (Hugo-Chinn/AlphaFuse at b501a05, models/backbone_SASRec.py); the two-layer head
summed over both whitenings is that of a public port (DCheol/ACE at f83342a); whitening within
groups is that of the authors' later code (lzz0007/DWSRec at c9ee02d).
Differs: the authors' code of this paper is not public; directions below a share of the largest
eigenvalue are dropped; variances are one by the divisor N - 1 (the port's rows are shorter by
sqrt(N - 1), which only the start of the head feels); the port starts the head from N(0, std^2); an
ID vector may join the text (`fusion`), as in none of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.adapters import TextLayout, TextMap, laid_out
from pipeline.layers.linear import uniform_linear
from pipeline.model import Inputs, Method, Parts, single
from pipeline.spectral.whiten import Kind, whiten, whiten_groups

NEEDS = ("spectrum:centred", "semantic")


class Config(TextLayout):
    """How text is whitened, the head, and what stands beside it."""

    kind: Kind
    """zca: symmetric, nearest to the raw rows; pca: columns are principal directions."""
    eps: float = Field(ge=0)
    """Added to the eigenvalues of the covariance, in their unit."""
    floor: float = Field(gt=0, lt=1)
    """Directions with an eigenvalue below this share of the largest are dropped."""
    groups: tuple[Annotated[int, Field(ge=2)], ...]
    """Numbers of groups of the relaxed whitenings that are summed in; empty for WhitenRec."""
    head: Literal["linear", "mlp"]
    """GELU(Linear(H -> D)), or Linear(H -> H/2), ReLU, Linear(H/2 -> D)."""
    init_gain: float = Field(gt=0)
    """Every layer starts uniform within this / sqrt(inputs); 1 is torch's default."""


def head(kind: Literal["linear", "mlp"], inputs: int, outputs: int, gain: float) -> nn.Module:
    """Return the head, [..., inputs] to [..., outputs]."""
    if kind == "linear":
        return nn.Sequential(uniform_linear(inputs, outputs, gain), nn.GELU())
    hidden = max(1, inputs // 2)
    return nn.Sequential(
        uniform_linear(inputs, hidden, gain), nn.ReLU(), uniform_linear(hidden, outputs, gain)
    )


class Summed(nn.Module):
    """One head over several whitenings of the same text: [S, N, H] to [N, D]."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, rows: Tensor) -> Tensor:
        """Return the sum of the head's outputs."""
        total: Tensor = self.head(rows).sum(0)
        return total


def needs(config: Config) -> tuple[str, ...]:
    """Return the inputs that these settings read."""
    return NEEDS if config.groups else NEEDS[:1]


def held(config: Config, inputs: int, width: int) -> int:
    """Return the numbers per item of a step: the layers of a deep head, for every whitening."""
    return (1 + len(config.groups)) * 3 * (inputs // 2) if config.head == "mlp" else 0


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method.

    Raises ConfigError when a number of groups does not divide H, or widths do not fit the cell's.
    """
    rows = [whiten(inputs.spectrum("centred"), config.kind, eps=config.eps, floor=config.floor)]
    for groups in config.groups:
        rows.append(
            whiten_groups(
                inputs.semantic.values[1:],
                groups,
                config.kind,
                eps=config.eps,
                floor=config.floor,
                key=f"{config.block}.groups",
            )
        )
    whitened = torch.from_numpy(np.stack(rows))

    def text(width: int) -> TextMap:
        shared = Summed(head(config.head, whitened.shape[2], width, config.init_gain))
        return TextMap(whitened, shared, width)

    return single(laid_out(config, inputs, parts, text), parts)
