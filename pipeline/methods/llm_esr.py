"""LLM-ESR: a text view and an ID view that read each other, joined side by side.

    s = (M W_1 + b_1) W_2 + b_2        W_1 [H, H/2], W_2 [H/2, D/2]; M frozen
    c = ID table [N, D/2] that starts at the text's principal coordinates
    both histories pass cross-attention in both directions, then one shared backbone
    score = cos(user_c, c_i) + cos(user_s, s_i);    loss += beta * soft contrast of s and c

Source: Liu et al., NeurIPS 2024; liuqidong07/LLM-ESR at e5dc388, models/DualLLMSRS.py, LLMESR.py,
utils.py; without the similar-user term as re-implemented by AlphaFuse (Hugo-Chinn/AlphaFuse at
b501a05, models/backbone_SASRec.py).
Differs: no distillation from similar users, since test users are new; cross-attention is causal,
and reads no positions: the backbone adds them behind it; under cosine each view has norm one, where
AlphaFuse normalises the joined vector, so scores reach 2 instead of 1; weights start uniform
(Xavier in the original); the ID table starts with a spread of id_std, where AlphaFuse's start has
one; the backbone is half as wide as the joined vector, as in public code, while SpecTran's
parameter count fits one of full width; where negatives are drawn from trained items, any weight
decay takes the start of the ID table away from the others; AlphaFuse feeds the text into its ID
branch and swaps the views in its contrast, which are slips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.adapters import IdTable, TextMap, text_rows
from pipeline.fusion import CrossViews
from pipeline.layers.linear import uniform_linear
from pipeline.layouts import halves, refuse_heads
from pipeline.model import Inputs, Method, MethodConfig, Parts, Phase, SeqModel, View
from pipeline.objectives.alignment import SoftContrast
from pipeline.spectral.coordinates import leading

NEEDS = ("semantic", "spectrum:centred")


class Config(MethodConfig):
    """The exchange of the views and the start of both."""

    heads: int = Field(gt=0)
    """Heads of the cross-attention; must divide half the width."""
    weight: float = Field(ge=0)
    """beta, of the soft contrast."""
    temperature: float = Field(gt=0)
    """tau of the soft contrast."""
    scale: float = Field(gt=0)
    """The text is brought to this norm on average; 40 in AlphaFuse."""
    init_gain: float = Field(gt=0)
    """Weights start uniform within this / sqrt(inputs); 1 is torch's and AlphaFuse's default."""
    id_std: float = Field(gt=0)
    """Standard deviation of the initial ID table's entries."""
    standardize: bool
    """Bring every column of it to that spread; false keeps the columns' relative sizes."""


class TwoLinear(nn.Module):
    """Two linear maps in a row, H to H / 2 to D, without an activation in between.

    Their matrices are multiplied first: N H D products instead of N H (H + D) / 2.
    """

    def __init__(self, inputs: int, width: int, init_gain: float) -> None:
        super().__init__()
        hidden = max(1, inputs // 2)
        self.first = uniform_linear(inputs, hidden, init_gain)
        self.second = uniform_linear(hidden, width, init_gain)

    def forward(self, x_NH: Tensor) -> Tensor:
        """Return [N, D]."""
        return F.linear(x_NH, self.second.weight @ self.first.weight, self.second(self.first.bias))


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method. Raises ConfigError when two views or the heads do not fit the width."""
    key, whole = parts.width_key, parts.train.width
    width, _ = halves(whole, config.block, key)
    refuse_heads(config.heads, width, config.block, f"half of {key} {whole}")
    spectrum = inputs.spectrum("centred")
    columns = leading(spectrum, width, standardize=config.standardize, key=key, whole=whole)
    start = torch.from_numpy(columns)
    start = start * (config.id_std / start.std())
    rows = text_rows(inputs.semantic, config.scale)
    mapping = TwoLinear(rows.shape[1], width, config.init_gain)
    backbone = parts.backbone(width)
    views = {
        "id": View(IdTable(len(rows), width, config.id_std, start), backbone),
        "text": View(TextMap(rows, mapping, width), backbone),
    }
    fusion = CrossViews("id", "text", width=width, heads=config.heads, init_gain=config.init_gain)
    objectives = {
        "ranking": (1.0, parts.ranking()),
        "alignment": (config.weight, SoftContrast("text", "id", config.temperature)),
    }
    return Method(model=SeqModel(views, fusion), phases=(Phase(name="fit", objectives=objectives),))
