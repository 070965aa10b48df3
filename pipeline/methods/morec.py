"""MoRec, two-stage: a trained projection of frozen text embeddings is the whole item table.

Source: Yuan et al., SIGIR 2023; E = GELU(M W + b) as re-implemented by AlphaFuse
(Hugo-Chinn/AlphaFuse, models/backbone_SASRec.py).
Differs: the text encoder is frozen (the original trains it end to end); no ID table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.model import Adapter, Inputs, Method, MethodConfig, Parts, single, with_padding

NEEDS = ("semantic",)


class Config(MethodConfig):
    """Scale of the inputs."""

    scale: float = Field(gt=0)
    """The rows are brought to this norm on average; 40 in AlphaFuse."""
    init_gain: float = Field(gt=0)
    """W and b start uniform within this / sqrt(H); 1 is torch's and AlphaFuse's default."""


class Projected(Adapter):
    """GELU(M W + b) over frozen rows M [N, H]."""

    def __init__(self, rows: Tensor, width: int, init_gain: float) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("rows", rows, persistent=False)
        self.rows: Tensor
        self.project = nn.Linear(rows.shape[1], width)
        bound = init_gain / rows.shape[1] ** 0.5
        for parameter in self.project.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        return with_padding(F.gelu(self.project(self.rows)))

    def measures(self) -> dict[str, float]:
        """Return the spread of the projected text."""
        with torch.no_grad():
            return {"std_text": float(self.table()[1:].std())}


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    rows = torch.from_numpy(inputs.semantic.values[1:])
    rows = rows * (config.scale / rows.norm(dim=1).mean())
    return single(Projected(rows, parts.train.width, config.init_gain), parts)
