"""RLMRec: ID vectors rank, and text is a training signal that they are aligned with.

    con:     x_i = e_i, y_i = g(m_i)      g: H -> (H + D) / 2 -> D
    gen:     x_i = g(e_i), y_i = m_i      g: D -> (H + D) / 2 -> H
    cosine:  loss += beta (1 - mean_i cos(x_i, y_i))
    infonce: loss += beta mean_i -log( exp(cos(x_i, y_i) / tau) / sum_j exp(cos(x_i, y_j) / tau) )

Source: Ren et al., WWW 2024; infonce, the projector and its Xavier start as in HKUDS/RLMRec at
2241375, encoder/models: general_cf/lightgcn_plus.py (con), general_cf/lightgcn_gene.py (gen),
loss_utils.py; cosine as re-implemented by AlphaFuse (Hugo-Chinn/AlphaFuse at b501a05,
models/backbone_SASRec.py).
Differs: items only, since test users are new: the original adds the same loss of the users (con) or
among them (gen). i and j are items drawn uniformly at each step: there the batch's bought items,
then, in a second term, its drawn ones (con), or the share of all nodes that is masked (gen).
No masking (gen): there a trained vector takes the place of the drawn ones, which are reconstructed
from what their neighbours in the graph pass on; item tables of a sequence model pass nothing on, so
that all masked items would be one vector and no ID vector would get a gradient.
Concatenation, where g(m_i) also ranks, is read from the parameter counts of SpecTran, Table 5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from pipeline.adapters import Concat, IdTable, TextMap, text_rows
from pipeline.layers.linear import uniform_linear
from pipeline.layouts import halves
from pipeline.model import Adapter, Before, Inputs, Method, MethodConfig, Parts, Phase, single
from pipeline.objectives.alignment import (
    Alignment,
    Columns,
    ItemToText,
    Pair,
    TextToItem,
    contrast,
    cosine_distance,
)

NEEDS = ("semantic",)


class Config(MethodConfig):
    """Direction, form and strength of the alignment."""

    kind: Literal["con", "gen"]
    """con: text is projected to the ID vector; gen: the ID vector reconstructs the text."""
    fusion: Literal["none", "concat"]
    """none: ID vectors alone rank; concat (con only): halves, the ID part and the projection."""
    loss: Annotated[Literal["cosine", "infonce"], Before("cosine")]
    """cosine: an item's two vectors alone (AlphaFuse); infonce: against the other items' text."""
    temperature: Annotated[float | None, Before(None)] = Field(gt=0)
    """tau of infonce, for Amazon 0.2 (con) and 0.5 (gen) in the original; null with cosine."""
    weight: float = Field(ge=0)
    """beta."""
    items_per_step: int | None = Field(gt=0)
    """Items in the alignment of one step, drawn uniformly; null: all of them (cosine only)."""
    scale: float = Field(gt=0)
    """The text is brought to this norm on average; 40 in AlphaFuse, 1 in the original."""
    init: Annotated[Literal["uniform", "xavier"], Before("uniform")]
    """uniform: weights within init_gain / sqrt(inputs), torch's and AlphaFuse's default; xavier:
    within init_gain * sqrt(6 / (inputs + outputs)), as in the original. Biases: uniform in both."""
    init_gain: float = Field(gt=0)
    """Factor of the start; 1 in both."""
    negative_slope: float = Field(ge=0)
    """Slope of the LeakyReLU below zero."""

    @field_validator("fusion")
    @classmethod
    def _text_to_concatenate(cls, fusion: str, info: ValidationInfo) -> str:
        if fusion == "concat" and info.data.get("kind") == "gen":
            raise ValueError("concat needs kind con: gen makes no text vector to stand beside")
        return fusion

    @field_validator("temperature")
    @classmethod
    def _temperature_of_infonce(
        cls, temperature: float | None, info: ValidationInfo
    ) -> float | None:
        loss = info.data.get("loss")
        if loss == "infonce" and temperature is None:
            raise ValueError("infonce needs a temperature, such as 0.2")
        if loss == "cosine" and temperature is not None:
            raise ValueError("cosine has no temperature: write null, or loss: infonce")
        return temperature

    @field_validator("items_per_step")
    @classmethod
    def _items_to_compare(cls, items: int | None, info: ValidationInfo) -> int | None:
        # Every two items of a step are compared: all of a catalogue may not fit into memory.
        if info.data.get("loss") == "infonce" and (items is None or items < 2):
            raise ValueError("infonce compares the items of a step: write 2 or more, such as 1024")
        return items


def projector(inputs: int, outputs: int, config: Config) -> nn.Sequential:
    """Return the two-layer map; its inner width is the mean of both sizes, rounded down."""
    inner = (inputs + outputs) // 2
    layers = [
        uniform_linear(inputs, inner, config.init_gain),
        uniform_linear(inner, outputs, config.init_gain),
    ]
    if config.init == "xavier":
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight, config.init_gain)
    return nn.Sequential(layers[0], nn.LeakyReLU(config.negative_slope), layers[1])


def loss_of(config: Config) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of two vectors per item."""
    if config.temperature is None:
        return cosine_distance
    return partial(contrast, temperature=config.temperature)


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
    pair: Pair
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
    alignment = Alignment("item", pair, loss_of(config), config.items_per_step)
    made = single(adapter, parts)
    objectives = {**made.phases[0].objectives, "alignment": (config.weight, alignment)}
    return Method(model=made.model, phases=(Phase(name="fit", objectives=objectives),))
