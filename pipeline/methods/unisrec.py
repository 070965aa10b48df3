"""UniSRec: text mapped by a mixture of whitening experts, alone or beside an ID vector.

    x_k = W_k (dropout(m) - b_k)                              experts k = 1..K
    g   = softmax(m W_g + eps (softplus(m W_n) + floor))      eps normal in training, 0 otherwise
    E   = sum_k g_k x_k

Source: Hou et al., KDD 2022, section 2.1; PWLayer and MoEAdaptorLayer of RUCAIBox/UniSRec at
05aa5cb, unisrec.py; without ID as re-implemented by AlphaFuse (Hugo-Chinn/AlphaFuse at b501a05,
models/backbone_SASRec.py), with it (add) as in the original's transductive setting.
Differs: trained from scratch on one data set by the shared ranking loss, without pre-training and
its contrastive losses; gate noise and dropout are drawn once per item and step, where the code
draws at every lookup, and the experts share one dropout mask; concatenation with the ID vector is
read from the parameter counts of SpecTran, Table 5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.adapters import TextLayout, TextMap, laid_out, text_rows
from pipeline.layers.draws import Draw, drawn
from pipeline.layers.dropout import dropout
from pipeline.model import Inputs, Method, Parts, single

NEEDS = ("semantic",)


class Config(TextLayout):
    """The mixture, and what stands beside it."""

    experts: int = Field(gt=0)
    """K."""
    text_dropout: float = Field(ge=0, lt=1)
    """Dropout of the text before the experts; the gate reads all of it."""
    noise_floor: float = Field(ge=0)
    """Added to the standard deviation of the gate noise."""
    init_std: float = Field(gt=0)
    """Standard deviation of initial W; b and both gate matrices start at zero."""
    scale: float = Field(gt=0)
    """The text is brought to this norm on average; 40 in AlphaFuse."""


class Mixture(nn.Module):
    """The map of the module docstring, [N, H] to [N, D]."""

    def __init__(self, inputs: int, width: int, config: Config) -> None:
        super().__init__()
        experts = config.experts
        self.text_dropout = config.text_dropout
        self.noise_floor = config.noise_floor
        self.weight = nn.Parameter(torch.randn(experts, width, inputs) * config.init_std)
        self.bias = nn.Parameter(torch.zeros(experts, inputs))
        self.gate = nn.Parameter(torch.zeros(inputs, experts))
        self.noise = nn.Parameter(torch.zeros(inputs, experts))

    def forward(self, x_NH: Tensor) -> Tensor:
        """Return [N, D]; in training noise and dropout come from torch's global generator."""
        gates_NE = self.gates(x_NH)
        experts, width, _ = self.weight.shape
        x_NH = dropout(x_NH, self.text_dropout, self.training)
        # One product for all experts; W_k b_k is subtracted from their sum instead of b_k before.
        mapped_NED = F.linear(x_NH, self.weight.flatten(0, 1)).view(-1, experts, width)
        shift_ED = (self.weight @ self.bias[:, :, None]).squeeze(2)
        return (gates_NE[:, None, :] @ mapped_NED).squeeze(1) - gates_NE @ shift_ED

    def gates(self, x_NH: Tensor) -> Tensor:
        """Return the experts' shares [N, E]."""
        logits_NE = x_NH @ self.gate
        if self.training:
            spread_NE = F.softplus(x_NH @ self.noise) + self.noise_floor
            noise_NE = drawn(Draw("normal", tuple(logits_NE.shape)), logits_NE.device)
            logits_NE = logits_NE + noise_NE * spread_NE
        return logits_NE.softmax(-1)


def held(config: Config, inputs: int, width: int) -> int:
    """Return the numbers per item of a step: every expert's vector and its gradient."""
    return 2 * config.experts * (config.text_width or width)


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method. Raises ConfigError when the widths do not fit the cell's."""
    rows = text_rows(inputs.semantic, config.scale)

    def text(width: int) -> TextMap:
        return TextMap(rows, Mixture(rows.shape[1], width, config), width)

    return single(laid_out(config, inputs, parts, text), parts)
