"""SpecTran: attention over the whole spectrum of the text, with a learned spectral position.

    A  = softshrink(Q K^T, lambda)                    [D, R]   Q [D, h], K [R, h] learned
    P  = [ diag(f(s_1), ..., f(s_D)) | 0 ]            [D, R]
    E  = E_ID + U (A + P)^T                           [N, D]
    f(s) = s_1 * sum_{k=0..order} a_k (s / s_1)^k     a_k learned, start at 1

Source: SpecTran, equations 3 and 7-12, reconstructed: the text prints no public code, and symbols
are lost in it.
Differs: rows of the embeddings have norm one before the decomposition; the value matrix is U; the
scalar before the polynomial is s_1; the constant term k = 0 is included; one lambda, clamped at
zero after every step; the ID table is added; order, h and the spread of Q and K are not stated in
the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

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
from pipeline.values import Spectrum

NEEDS = ("spectrum:unit",)


class Config(MethodConfig):
    """Size of the attention and of the polynomial."""

    query_width: int = Field(gt=0)
    """h, width of queries and keys."""
    order: int = Field(ge=1)
    """Highest power K of the spectral position."""
    std: float = Field(ge=0)
    """Standard deviation of initial queries and keys."""


class SpectralAttention(Adapter):
    """The table E of the module docstring."""

    def __init__(self, spectrum: Spectrum, width: int, id_std: float, config: Config) -> None:
        super().__init__()
        self.width = width
        components = len(spectrum.s)
        self.id = normal_table(len(spectrum.u), width, id_std)
        self.query = nn.Parameter(torch.randn(width, config.query_width) * config.std)
        self.key = nn.Parameter(torch.randn(components, config.query_width) * config.std)
        self.shrink = nn.Parameter(torch.zeros(()))
        self.position = nn.Parameter(torch.ones(config.order + 1))
        self.register_buffer("u", with_padding(torch.from_numpy(spectrum.u)), persistent=False)
        singular = torch.from_numpy(spectrum.s)
        powers = torch.arange(config.order + 1)
        principal = singular[: min(width, components)] / singular[0]
        self.register_buffer("powers", principal[:, None] ** powers, persistent=False)
        self.register_buffer("largest", singular[0], persistent=False)
        self.u: Tensor
        self.powers: Tensor
        self.largest: Tensor

    def attention(self) -> Tensor:
        """Return A [D, R]."""
        scores = self.query @ self.key.T
        # Written with relu so that the gradient of lambda is not zero at lambda = 0.
        return F.relu(scores - self.shrink) - F.relu(-scores - self.shrink)

    def weights(self) -> Tensor:
        """Return f(s_i) of the principal components, [min(D, R)]."""
        return self.largest * (self.powers @ self.position)

    def text(self) -> Tensor:
        """Return the semantic part U (A + P)^T, [N+1, D], row 0 zero."""
        diagonal = torch.diag(self.weights())
        rest = (0, self.u.shape[1] - len(diagonal), 0, self.width - len(diagonal))
        return self.u @ (self.attention() + F.pad(diagonal, rest)).T

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        return self.id + self.text()

    def undecayed(self) -> set[str]:
        """Return the few scalars whose size carries meaning."""
        return {"shrink", "position"}

    def after_step(self) -> None:
        """Keep lambda at or above zero: a negative one would inflate small scores."""
        with torch.no_grad():
            self.shrink.clamp_(min=0)

    def measures(self) -> dict[str, float]:
        """Return the sizes of both parts, lambda, the polynomial and the share of exact zeros."""
        with torch.no_grad():
            text, ids, attention = self.text()[1:], self.id[1:], self.attention()
            own = {f"position_{k}": float(a) for k, a in enumerate(self.position)}
            return {
                "std_id": float(ids.std()),
                "std_text": float(text.std()),
                "cosine_id_text": float(F.cosine_similarity(ids, text).mean()),
                "shrink": float(self.shrink),
                "zeros": float((attention == 0).float().mean()),
                "weight_mean": float(self.weights().mean()),
                **own,
            }


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method."""
    train = parts.train
    spectrum = inputs.spectrum("unit")
    return single(SpectralAttention(spectrum, train.width, train.item_std, config), parts)
