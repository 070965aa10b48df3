"""SVD: frozen leading spectral coordinates of the text added to a trainable ID table.

    E = E_ID + scale * [ s_1 u_1 ; ... ; s_D u_D ]     [N, D]

Source: SpecTran, equation 4 (truncated SVD), as the simplest competitor of every spectral adapter:
SpecTran with A = 0 and f(s) = s.
Differs: a baseline of this project; no paper reports it in this form.
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

NEEDS = ("spectrum:unit", "spectrum:centred", "spectrum:raw", "spectrum:unit_centred")


class Config(MethodConfig):
    """Which coordinates, and how large."""

    view: Literal["unit", "centred", "raw", "unit_centred"]
    """Spectrum read, a name of `spectrum.views`: row normalisation and centring."""
    scale: float = Field(gt=0)
    """Factor of the text part; rows of the unit view have at most norm one before it."""
    standardize: bool
    """Unit variance in every column instead of s_i u_i."""


class FrozenText(Adapter):
    """E_ID + frozen rows [N, D]."""

    def __init__(self, rows: Tensor, id_std: float) -> None:
        super().__init__()
        self.width = rows.shape[1]
        self.register_buffer("rows", with_padding(rows), persistent=False)
        self.rows: Tensor
        self.id = normal_table(len(rows), self.width, id_std)

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        return self.id + self.rows

    def semantic(self) -> Tensor:
        """Return the frozen rows, [N+1, D]."""
        return self.rows

    def measures(self) -> dict[str, float]:
        """Return the spread of both parts."""
        return {
            "std_id": float(self.id.detach()[1:].std()),
            "std_text": float(self.rows[1:].std()),
        }


def needs(config: Config) -> tuple[str, ...]:
    """Return the inputs that these settings read."""
    return (f"spectrum:{config.view}",)


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    spectrum = inputs.spectrum(config.view)
    width, key = parts.train.width, parts.width_key
    rows = leading(spectrum, width, standardize=config.standardize, key=key)
    return single(FrozenText(torch.from_numpy(rows) * config.scale, parts.train.item_std), parts)
