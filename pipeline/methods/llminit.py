"""LLMInit: item vectors start from the text's leading principal coordinates, then train freely.

Source: Zhang et al. 2025 (LLMInit); the principal-coordinate form is AlphaFuse's re-implementation
(Hugo-Chinn/AlphaFuse, models/embedding.py).
Differs: the original selects raw dimensions by variance; the spread of the start is a setting (the
re-implementation's columns have variance one).
"""

from __future__ import annotations

import torch
from pydantic import Field

from pipeline.adapters import IdTable
from pipeline.model import Inputs, Method, MethodConfig, Parts, single
from pipeline.spectral.coordinates import leading

NEEDS = ("spectrum:centred",)


class Config(MethodConfig):
    """Scale of the start."""

    std: float = Field(gt=0)
    """Standard deviation of the initial table's entries."""
    standardize: bool
    """Bring every column to that spread; false keeps the columns' relative sizes."""


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    width = parts.train.width
    rows = torch.from_numpy(
        leading(inputs.spectrum("centred"), width, standardize=config.standardize)
    )
    rows = rows * (config.std / rows.std())
    return single(IdTable(len(inputs.catalog), width, parts.train.item_std, rows), parts)
