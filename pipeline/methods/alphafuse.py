"""AlphaFuse: frozen leading text coordinates; ID vectors live in the weakest of them.

Source: Hu et al., SIGIR 2025; Hugo-Chinn/AlphaFuse, Item_Embedding.semantic_space_decomposion:
X = (M - mean) Q_D, standardised to unit variance, E = X with E[:, -n:] += E_ID.
Differs: none known in this form; the threshold form of the null space is not offered here.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.model import (
    Adapter,
    Inputs,
    Method,
    MethodConfig,
    Parts,
    normal_table,
    single,
    with_padding,
)
from pipeline.spectral.coordinates import leading

NEEDS = ("spectrum:centred",)


class Config(MethodConfig):
    """Where the ID vectors live and how they start."""

    null_share: float = Field(ge=0, le=1)
    """Share of the width, at its end, that carries trained ID components."""
    id_std: float = Field(ge=0)
    """Standard deviation of initial ID components; 1 or 0 in the reference."""
    standardize: bool
    """Unit variance in every frozen column (the reference's default)."""
    fusion: Literal["add", "cover"]
    """add: ID components are added to the frozen columns; cover: they stand in their place."""


class NullSpace(Adapter):
    """Frozen columns X [N, D] with trained components in the last columns."""

    def __init__(self, rows: Tensor, null_width: int, std: float, cover: bool) -> None:
        super().__init__()
        self.width = rows.shape[1]
        rows = rows.clone()
        if cover and null_width:
            rows[:, -null_width:] = 0
        self.register_buffer("rows", with_padding(rows), persistent=False)
        self.rows: Tensor
        self.weight = normal_table(len(rows), null_width, std)

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        kept = self.width - self.weight.shape[1]
        return torch.cat([self.rows[:, :kept], self.rows[:, kept:] + self.weight], dim=1)

    def measures(self) -> dict[str, float]:
        """Return the spread of both parts."""
        return {
            "std_id": float(self.weight.detach()[1:].std()),
            "std_text": float(self.rows[1:].std()),
        }


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    width = parts.train.width
    spectrum = inputs.spectrum("centred")
    rows = torch.from_numpy(leading(spectrum, width, standardize=config.standardize))
    null_width = round(config.null_share * width)
    adapter = NullSpace(rows, null_width, config.id_std, config.fusion == "cover")
    return single(adapter, parts)
