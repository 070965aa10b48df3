"""Fusions of several views into one query and one key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.layers.attention import attend
from pipeline.layers.cosine import unit_rows
from pipeline.layers.linear import uniform_linear
from pipeline.layers.packing import Packing
from pipeline.model import Fusion, Similarity, Views
from pipeline.sampling.batches import History


def beside(views: Views, similarity: Similarity) -> Tensor:
    """Return the views' vectors side by side, [..., sum of D_v].

    Under cosine every view has norm one and the joined vector is left alone, so that a score is the
    sum of the views' cosines, whatever their sizes.
    """
    parts = views.values()
    if similarity == "cosine":
        return torch.cat([unit_rows(part) for part in parts], dim=-1)
    return torch.cat(list(parts), dim=-1)


class CrossAttention(nn.Module):
    """One view asks, the other answers; no residual, causal.

    Source: LLM-ESR, Multi_CrossAttention (liuqidong07/LLM-ESR, models/utils.py).
    Differs: causal, since all positions are trained; every weight starts uniform within
    init_gain / sqrt(width).
    """

    def __init__(self, width: int, heads: int, init_gain: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = uniform_linear(width, width, init_gain, bias=False)
        self.key = uniform_linear(width, width, init_gain, bias=False)
        self.value = uniform_linear(width, width, init_gain, bias=False)
        self.out = uniform_linear(width, width, init_gain)

    def forward(
        self, asking_TD: Tensor, answering_TD: Tensor, packing: Packing, allowed: Tensor
    ) -> Tensor:
        """Return [T, D]; both views packed; allowed: [B, 1, L, L] bool."""
        asked = (self.query(asking_TD), self.key(answering_TD), self.value(answering_TD))
        q, k, v = (self._split(packing.pad(x)) for x in asked)
        mixed = attend(q, k, v, allowed, 0.0, self.training).transpose(1, 2).flatten(2)
        out: Tensor = self.out(packing.pack(mixed))
        return out

    def _split(self, x_BLD: Tensor) -> Tensor:
        """Return [B, heads, L, D / heads]."""
        return x_BLD.view(*x_BLD.shape[:2], self.heads, -1).transpose(1, 2)


class CrossViews(Fusion):
    """Two views that read each other before their backbones, then side by side.

    Each view becomes what it answers to the other one's questions: queries come from the other
    view, keys and values from its own.
    """

    def __init__(
        self, first: str, second: str, *, width: int, heads: int, init_gain: float
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.answers = nn.ModuleDict(
            {view: CrossAttention(width, heads, init_gain) for view in (first, second)}
        )

    def mix(self, x: Views, history: History) -> Views:
        """Return both views after the exchange, zero where the history is padded."""
        real = history.items > 0
        packing = Packing(real)
        length = real.shape[1]
        causal = real.new_ones(length, length).tril()
        own = torch.eye(length, dtype=torch.bool, device=real.device)
        # A padded query sees itself only: a row without keys would be NaN.
        allowed = ((causal & real[:, None, :]) | own)[:, None]
        packed = {name: packing.pack(part) for name, part in x.items()}
        other = {self.first: self.second, self.second: self.first}
        return {
            name: packing.pad(answer(packed[other[name]], packed[name], packing, allowed))
            for name, answer in self.answers.items()
        }

    def query(self, states: Views, similarity: Similarity) -> Tensor:
        """Return both states side by side."""
        return beside(states, similarity)

    def key(self, tables: Views, similarity: Similarity) -> Tensor:
        """Return both item vectors side by side."""
        return beside(tables, similarity)
