"""MoRec, two-stage: item vectors are a trained projection of frozen text embeddings.

Source: Yuan et al., SIGIR 2023; E = GELU(M W + b) as re-implemented by AlphaFuse
(Hugo-Chinn/AlphaFuse at b501a05, models/backbone_SASRec.py). PAD's form adds four layers
GELU(Linear(dropout)) of D units and starts Xavier-normal (`hidden_layers: 4, init: xavier`).
Differs: the text encoder is frozen (the original trains it end to end); an ID vector may join the
text (`fusion`), as in neither; dropout is drawn once per step for the whole table, not per look-up.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.adapters import TextLayout, TextMap, laid_out, text_rows
from pipeline.layers.dropout import dropout
from pipeline.layers.linear import uniform_linear
from pipeline.model import Inputs, Method, Parts, single

NEEDS = ("semantic",)


class Config(TextLayout):
    """Scale of the inputs, depth, start, and what stands beside it."""

    scale: float = Field(gt=0)
    """The rows are brought to this norm on average; 40 in AlphaFuse."""
    init: Literal["uniform", "xavier"]
    """uniform: W and b within init_gain / sqrt(inputs), torch's and AlphaFuse's default;
    xavier: W normal with deviation init_gain * sqrt(2 / (inputs + outputs)), b zero, as in PAD."""
    init_gain: float = Field(gt=0)
    """Factor of the start; 1 in both."""
    hidden_layers: int = Field(ge=0)
    """Further layers D -> D after the first, with train.dropout; 0 in AlphaFuse, 4 in PAD."""


class Layer(nn.Module):
    """GELU(Linear(dropout(x)))."""

    def __init__(self, inputs: int, outputs: int, dropout: float, config: Config) -> None:
        super().__init__()
        self.dropout = dropout
        self.project = uniform_linear(inputs, outputs, config.init_gain)
        if config.init == "xavier":
            nn.init.xavier_normal_(self.project.weight, config.init_gain)
            nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] from [..., inputs]."""
        return F.gelu(self.project(dropout(x, self.dropout, self.training)))


def held(config: Config, inputs: int, width: int) -> int:
    """Return the numbers per item of a step: the layers of a deep map."""
    return 3 * config.hidden_layers * (config.text_width or width)


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method. Raises ConfigError when the widths do not fit the cell's."""
    rows = text_rows(inputs.semantic, config.scale)

    def text(width: int) -> TextMap:
        layers = [Layer(rows.shape[1], width, 0.0, config)]
        for _ in range(config.hidden_layers):
            layers.append(Layer(width, width, parts.train.dropout, config))
        return TextMap(rows, nn.Sequential(*layers), width)

    return single(laid_out(config, inputs, parts, text), parts)
