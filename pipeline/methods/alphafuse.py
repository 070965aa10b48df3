"""AlphaFuse: frozen leading text coordinates; ID vectors live in the weakest of them.

Source: Hu et al., SIGIR 2025; Hugo-Chinn/AlphaFuse at b501a05,
Item_Embedding.semantic_space_decomposion: X = (M - mean) Q_D, standardised to unit variance, E = X
with E[:, -n:] += E_ID. The width n of the null space is a setting, or (their diffusion backbone)
the number of eigenvalues of the covariance at or below a threshold.
Differs: the threshold is a share of the rows' mean squared norm, so that the encoder's scale does
not matter (the reference brings rows to norm 40 and takes 0.25, the share 0.25 / 40^2); only the D
columns in use are counted, which at D = H are all of them; without standardisation the columns
keep the rows' own size, where the reference has brought the rows to norm 40; mean and covariance
weighted by popularity are not offered.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.errors import DataError
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
from pipeline.values import Spectrum

NEEDS = ("spectrum:centred",)


class Config(MethodConfig):
    """Where the ID vectors live and how they start."""

    null_share: float = Field(ge=0, le=1)
    """Share of the width, at its end, that carries trained ID components; see null_threshold."""
    null_threshold: float | None = Field(gt=0)
    """Columns whose eigenvalue is at or below this share of the rows' mean squared norm carry ID
    components; 1.5625e-4 is the reference's 0.25. null: null_share decides."""
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
        self.covered = null_width if cover else 0
        rows = rows.clone()
        if self.covered:
            rows[:, -null_width:] = 0
        self.register_buffer("rows", with_padding(rows), persistent=False)
        self.rows: Tensor
        self.weight = normal_table(len(rows), null_width, std)

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        kept = self.width - self.weight.shape[1]
        return torch.cat([self.rows[:, :kept], self.rows[:, kept:] + self.weight], dim=1)

    def semantic(self) -> Tensor:
        """Return the frozen columns, [N+1, D]; those that ID vectors cover are left out."""
        return self.rows if self.covered == 0 else self.rows[:, : -self.covered]

    def measures(self) -> dict[str, float]:
        """Return the spread of both parts."""
        found = {"std_text": float(self.rows[1:].std())}
        if self.weight.shape[1]:
            found["std_id"] = float(self.weight.detach()[1:].std())
        return found


def null_width(config: Config, spectrum: Spectrum, width: int, key: str = "train.width") -> int:
    """Return n of the first `width` components; key: where the width is set.

    Raises DataError when a threshold leaves none.
    """
    if config.null_threshold is None:
        return round(config.null_share * width)
    squares = np.square(spectrum.s.astype(np.float64))
    size = squares.sum() / len(spectrum.u) + np.square(spectrum.mean.astype(np.float64)).sum()
    shares = squares[:width] / (len(spectrum.u) - 1) / size
    found = int((shares <= config.null_threshold).sum())
    if not found:
        raise DataError(
            f"params.yaml: {config.block}.null_threshold: {config.null_threshold:g} leaves no null "
            f"space: the smallest of the {width} eigenvalues is {shares[-1]:.3g} of the rows' mean "
            f"squared norm. Use a larger threshold or {key}, or null_threshold: null."
        )
    return found


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    width, key = parts.train.width, parts.width_key
    spectrum = inputs.spectrum("centred")
    rows = leading(spectrum, width, standardize=config.standardize, key=key)
    null, cover = null_width(config, spectrum, width, key), config.fusion == "cover"
    return single(NullSpace(torch.from_numpy(rows), null, config.id_std, cover), parts)
