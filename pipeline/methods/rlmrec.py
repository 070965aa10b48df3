"""RLMRec: ID vectors rank, and text is a training signal that they are aligned with.

    con: loss += beta (1 - mean_i cos(e_i, g(m_i)))      g: H -> (H + D) / 2 -> D
    gen: loss += beta (1 - mean_i cos(m_i, g(e_i)))      g: D -> (H + D) / 2 -> H

Source: Ren et al., WWW 2024; the loss and its weight as re-implemented by AlphaFuse
(Hugo-Chinn/AlphaFuse, models/backbone_SASRec.py), the projector as in HKUDS/RLMRec,
encoder/models/general_cf/lightgcn_plus.py.
Differs: cosine instead of the original's InfoNCE; items only, since test users are new; no masking
of vectors (gen); a sample of the items per step; weights start uniform (Xavier in the original).
Concatenation, where g(m_i) also ranks, is read from the parameter counts of SpecTran, Table 5.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from pipeline.adapters import Concat, IdTable, TextMap, text_rows
from pipeline.layouts import halves
from pipeline.linear import uniform_linear
from pipeline.model import Adapter, Inputs, Method, MethodConfig, Parts, Phase, single
from pipeline.objectives.alignment import Columns, CosineAlignment, ItemToText, TextToItem

NEEDS = ("semantic",)


class Config(MethodConfig):
    """Direction and strength of the alignment."""

    kind: Literal["con", "gen"]
    """con: text is projected to the ID vector; gen: the ID vector reconstructs the text."""
    fusion: Literal["none", "concat"]
    """none: ID vectors alone rank; concat (con only): halves, the ID part and the projection."""
    weight: float = Field(ge=0)
    """beta."""
    items_per_step: int | None = Field(gt=0)
    """Items in the alignment of one step, drawn uniformly; null: all of them."""
    scale: float = Field(gt=0)
    """The text is brought to this norm on average; 40 in AlphaFuse."""
    init_gain: float = Field(gt=0)
    """Weights start uniform within this / sqrt(inputs); 1 is torch's and AlphaFuse's default."""
    negative_slope: float = Field(ge=0)
    """Slope of the LeakyReLU below zero."""

    @field_validator("fusion")
    @classmethod
    def _text_to_concatenate(cls, fusion: str, info: ValidationInfo) -> str:
        if fusion == "concat" and info.data.get("kind") == "gen":
            raise ValueError("concat needs kind con: gen makes no text vector to stand beside")
        return fusion


def projector(inputs: int, outputs: int, config: Config) -> nn.Sequential:
    """Return the two-layer map; its inner width is the mean of both sizes, rounded down."""
    inner = (inputs + outputs) // 2
    return nn.Sequential(
        uniform_linear(inputs, inner, config.init_gain),
        nn.LeakyReLU(config.negative_slope),
        uniform_linear(inner, outputs, config.init_gain),
    )


def held(config: Config, inputs: int, width: int) -> int:
    """Return the numbers per item of a step: the projector's layers, where it maps all items."""
    if config.fusion != "concat" and config.items_per_step is not None:
        return 0
    return 4 * ((inputs + width) // 2) + 2 * (inputs if config.kind == "gen" else width)


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method. Raises ConfigError when a concatenation cannot halve the width."""
    train = parts.train
    rows = text_rows(inputs.semantic, config.scale)
    size, width = rows.shape[1], train.width
    adapter: Adapter
    pair: nn.Module
    if config.fusion == "concat":
        part = halves(width, f"{config.block}.fusion: concat", parts.width_key)
        text = TextMap(rows, projector(size, part.text, config), part.text)
        adapter = Concat([IdTable(len(inputs.catalog), part.id, train.item_std), text])
        pair = Columns()
    else:
        adapter = IdTable(len(inputs.catalog), width, train.item_std)
        if config.kind == "con":
            pair = TextToItem(rows, projector(size, width, config))
        else:
            pair = ItemToText(rows, projector(width, size, config))
    alignment = CosineAlignment("item", pair, config.items_per_step)
    made = single(adapter, parts)
    objectives = {**made.phases[0].objectives, "alignment": (config.weight, alignment)}
    return Method(model=made.model, phases=(Phase(name="fit", objectives=objectives),))
