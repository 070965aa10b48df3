"""LLMInit: item vectors start from the text, then train freely.

Source: Zhang et al. 2025 (LLMInit): the raw dimensions of largest variance over popular items
(`kind: var`; DavidZWZ/LLMInit at 1241c3c, recbole/model/general_recommender/contgcn.py,
var_sample). The principal coordinates (`kind: pca`) are AlphaFuse's re-implementation
(Hugo-Chinn/AlphaFuse at b501a05, models/embedding.py).
Differs: the spread of the start is a setting (the original takes the raw values, the
re-implementation's columns have variance one); principal coordinates that keep their columns'
relative sizes (`standardize: false`) are neither's; the original does not centre; items equally
popular at the border are taken by ascending number, and the padding row is not counted as an item;
where negatives are drawn from trained items, any weight decay takes the start away from the others.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from pipeline.adapters import IdTable
from pipeline.errors import ConfigError, DataError
from pipeline.model import Inputs, Method, MethodConfig, Parts, single
from pipeline.spectral.coordinates import leading

NEEDS = ("spectrum:centred", "semantic")


class Config(MethodConfig):
    """Which coordinates, and their scale."""

    kind: Literal["pca", "var"]
    """Leading principal coordinates, or raw dimensions of largest variance in ascending order."""
    popular_share: float = Field(gt=0, le=1)
    """Share of the items, those with most training events, that variance is taken over (var)."""
    centre: bool
    """Subtract each column's mean; principal coordinates have none (var)."""
    std: float = Field(gt=0)
    """Standard deviation of the initial table's entries."""
    standardize: bool
    """Bring every column to that spread; false keeps the columns' relative sizes."""


def most_varied(
    values: np.ndarray,
    counts: np.ndarray,
    share: float,
    width: int,
    key: str = "train.width",
    block: str = "methods.llminit",
) -> np.ndarray:
    """Return [width] the columns of largest variance over popular items, ascending.

    values: [N, H]; counts: [N] training events; key, block: where the width and the share are set.
    Raises ConfigError when H < width, DataError when the share holds fewer than two items.
    """
    items, columns = values.shape
    popular = np.argsort(-counts, kind="stable")[: int(share * items)]
    if columns < width:
        raise ConfigError(
            f"the embeddings have {columns} dimensions, {key} asks for {width}. Set it to at most "
            f"{columns}, or use a wider encoder."
        )
    if len(popular) < 2:
        raise DataError(
            f"params.yaml: {block}.popular_share: {share:g} of {items} items are fewer than two, "
            f"which have no variance. Use a larger share."
        )
    variances = values[popular].astype(np.float64).var(axis=0)
    return np.sort(np.argsort(-variances, kind="stable")[:width])


def _differ(rows: torch.Tensor, block: str, *, every: bool) -> None:
    """Raise DataError when the chosen columns (with `every`: one of them) are constant."""
    constant = (rows == rows[0]).all(dim=0)
    if bool(constant.all()) or (every and bool(constant.any())):
        raise DataError(
            f"{block}: {int(constant.sum())} of the {len(constant)} dimensions of largest variance "
            f"are the same for all {len(rows)} items, so they cannot be scaled. Use text that "
            f"tells the items apart, or the method id."
        )


def needs(config: Config) -> tuple[str, ...]:
    """Return the inputs that these settings read."""
    return ("spectrum:centred",) if config.kind == "pca" else ("semantic",)


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    width, key = parts.train.width, parts.width_key
    if config.kind == "pca":
        rows = torch.from_numpy(
            leading(
                inputs.spectrum("centred"),
                width,
                standardize=config.standardize,
                key=key,
            )
        )
    else:
        values, counts = inputs.semantic.values[1:], inputs.sequences.train_counts()[1:]
        chosen = most_varied(values, counts, config.popular_share, width, key, config.block)
        rows = torch.from_numpy(values[:, chosen])
        _differ(rows, config.block, every=config.standardize)
        if config.centre:
            rows = rows - rows.mean(dim=0)
        if config.standardize:
            rows = rows / rows.std(dim=0)
    rows = rows * (config.std / rows.std())
    return single(IdTable(len(inputs.catalog), width, parts.train.item_std, rows), parts)
