"""SpecTran: attention over the whole spectrum of the text, with a learned spectral position.

    A  = softshrink(Q K^T, lambda)                    [D, R]   Q [D, h], K [R, h] learned
    P  = [ diag(f(s_1), ..., f(s_D)) | 0 ]            [D, R]
    E  = E_ID + U (A + P)^T                           [N, D]
    f(s) = s_1 * sum_{k=0..order} a_k (s / s_1)^k     a_k learned, start at 1

Source: SpecTran, equations 3 and 7-12, reconstructed: the text prints no public code, and symbols
are lost in it. Table 3's ablations are settings: `attention: none` (A1), `softmax` (A2), `position:
sigma` (A3), `identity` (A4), `none` (A5).
Differs: rows of the embeddings have norm one before the decomposition; the value matrix is U; the
scalar before the polynomial is s_1; the constant term k = 0 is included; one lambda for all
dimensions, clamped at zero after every step; the ID table is added; order, h and the spread of Q
and K are not stated in the paper. Settings offer the other readings, but for s / sum(s) and s / |s|
where the polynomial has s / s_1.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.layers.draws import Draw, drawn
from pipeline.model import (
    Adapter,
    Before,
    Inputs,
    Method,
    MethodConfig,
    Parts,
    Rates,
    normal_table,
    single,
    with_padding,
)
from pipeline.values import Spectrum

NEEDS = ("spectrum:unit", "spectrum:centred", "spectrum:raw", "spectrum:unit_centred")


class Config(MethodConfig):
    """What attends to what, how it starts, and how it joins the ID vectors."""

    view: Literal["unit", "centred", "raw", "unit_centred"]
    """Spectrum read, a name of `spectrum.views`: row normalisation and centring."""
    embed_scale: Annotated[float, Before(1.0)] = Field(gt=0)
    """What the view's rows are multiplied by, and so every s_i; U stays. 40 in AlphaFuse."""
    value: Literal["u", "sqrt_n_u"]
    """Value matrix: U, or sqrt(N) U, whose columns have entries of size one."""
    attention: Literal["softshrink", "softmax", "none"]
    """Activation of the scores; none: A = 0."""
    scaled: bool
    """Divide the scores by sqrt(h)."""
    thresholds: Annotated[Literal["one", "per_dimension"], Before("one")]
    """lambda of softshrink: one, or one for every output dimension."""
    query_width: int = Field(gt=0)
    """h, width of queries and keys."""
    std: float = Field(ge=0)
    """Standard deviation of initial queries and keys."""
    position: Literal["polynomial", "sigma", "identity", "none"]
    """f: learned polynomial; f(s) = s; f(s) = 1; P = 0."""
    order: int = Field(ge=1)
    """Highest power K of the polynomial."""
    constant: bool
    """Whether the polynomial has the power k = 0."""
    position_scale: Literal["s1", "si", "none"]
    """What the polynomial is multiplied by: s_1, s_i, or nothing."""
    learn_position: bool
    """False keeps the polynomial at its start."""
    fusion: Literal["add", "concat", "nullspace", "none"]
    """E_ID + E'; [E_ID ; E']; E_ID added to the last dimensions only; no ID vectors."""
    id_share: float = Field(gt=0, lt=1)
    """Share of the width that carries ID vectors under concat and nullspace."""
    id_dropout: float = Field(ge=0, lt=1)
    """Share of the items whose ID vector is zero in a training step, so that the text must do."""
    id_weight_decay: Annotated[float | None, Before(None)] = Field(ge=0)
    """Of the ID vectors alone; null: train.weight_decay."""
    id_learning_rate: Annotated[float | None, Before(None)] = Field(gt=0)
    """Of the ID vectors alone; null: train.learning_rate."""


class SpectralAttention(Adapter):
    """The table E of the module docstring."""

    selective = True

    def __init__(self, spectrum: Spectrum, width: int, id_std: float, config: Config) -> None:
        super().__init__()
        self.width = width
        self.config = config
        items, components = spectrum.u.shape
        partial = config.fusion in ("concat", "nullspace")
        id_width = round(config.id_share * width) if partial else width
        self.text_width = width - id_width if config.fusion == "concat" else width
        if config.fusion != "none":
            self.id = normal_table(items, id_width, id_std)
        if config.attention != "none":
            shape = (config.query_width,)
            self.query = nn.Parameter(torch.randn(self.text_width, *shape) * config.std)
            self.key = nn.Parameter(torch.randn(components, *shape) * config.std)
        if config.attention == "softshrink":
            each = config.thresholds == "per_dimension"
            self.shrink = nn.Parameter(torch.zeros((self.text_width, 1) if each else ()))
        first = 0 if config.constant else 1
        if config.position == "polynomial":
            ones = torch.ones(config.order + 1 - first)
            if config.learn_position:
                self.position: Tensor = nn.Parameter(ones)
            else:
                self.register_buffer("position", ones, persistent=False)
        value = torch.from_numpy(spectrum.u) * (items**0.5 if config.value == "sqrt_n_u" else 1.0)
        self.register_buffer("u", with_padding(value), persistent=False)
        principal = torch.from_numpy(spectrum.s)[: min(self.text_width, components)]
        principal = principal * config.embed_scale
        ratio = principal / principal[0]
        powers = ratio[:, None] ** torch.arange(first, config.order + 1)
        match config.position_scale:
            case "s1":
                powers = powers * principal[0]
            case "si":
                powers = powers * principal[:, None]
            case "none":
                pass
        self.register_buffer("principal", principal, persistent=False)
        self.register_buffer("powers", powers, persistent=False)
        self.u: Tensor
        self.principal: Tensor
        self.powers: Tensor

    def attention(self) -> Tensor | None:
        """Return A [D, R]; None where the variant has none."""
        if self.config.attention == "none":
            return None
        scores = self.query @ self.key.T
        if self.config.scaled:
            scores = scores / self.config.query_width**0.5
        if self.config.attention == "softmax":
            return scores.softmax(dim=1)
        # Written with relu so that the gradient of lambda is not zero at lambda = 0.
        return F.relu(scores - self.shrink) - F.relu(-scores - self.shrink)

    def weights(self) -> Tensor:
        """Return f(s_i) of the principal components, [min(D, R)]."""
        match self.config.position:
            case "polynomial":
                return self.powers @ self.position
            case "sigma":
                return self.principal
            case "identity":
                return torch.ones_like(self.principal)
            case "none":
                return torch.zeros_like(self.principal)

    def text(self, items: Tensor | None = None) -> Tensor:
        """Return the semantic part U (A + P)^T, [N+1, D], row 0 zero; of items [M]: [M, D]."""
        attention, weights = self.attention(), self.weights()
        u = self.u if attention is not None else self.u[:, : len(weights)]
        if items is not None:
            u = F.embedding(items, u)
        if attention is None:  # only the principal components are weighted
            return F.pad(u * weights, (0, self.text_width - len(weights)))
        diagonal = torch.diag(weights)
        rest = (0, u.shape[1] - len(diagonal), 0, self.text_width - len(diagonal))
        return u @ (attention + F.pad(diagonal, rest)).T

    def table(self) -> Tensor:
        """Return [N+1, D]."""
        return self._joined(self.text(), None)

    def rows_of(self, items: Tensor) -> Tensor:
        """Return the rows of items [M] alone: the product costs M R D instead of N R D."""
        return self._joined(self.text(items), items)

    def _joined(self, text: Tensor, items: Tensor | None) -> Tensor:
        if self.config.fusion == "none":
            return text
        ids: Tensor = self.id if items is None else F.embedding(items, self.id)
        if self.training and self.config.id_dropout:
            # Drawn for all items, so that a step over a few of them hides the same ones.
            level = drawn(Draw("uniform", (len(self.id), 1)), ids.device)
            level = level if items is None else F.embedding(items, level)
            ids = ids * (level >= self.config.id_dropout)
        if self.config.fusion == "concat":
            return torch.cat([ids, text], dim=1)
        return text + F.pad(ids, (self.width - ids.shape[1], 0))

    def semantic(self) -> Tensor:
        """Return the semantic part, [N+1, D']."""
        return self.text()

    def rates(self) -> dict[str, Rates]:
        """Return no decay for the few scalars whose size carries meaning, and the ID part's own."""
        found = dict.fromkeys(("shrink", "position"), Rates(weight_decay=0.0))
        return found | {"id": Rates(self.config.id_weight_decay, self.config.id_learning_rate)}

    def after_step(self) -> None:
        """Keep lambda at or above zero: a negative one would inflate small scores."""
        if self.config.attention == "softshrink":
            with torch.no_grad():
                self.shrink.clamp_(min=0)

    def spectral_weights(self) -> tuple[float, float]:
        """Return the mean over output dimensions of |A_ii + f(s_i)| and of sum_{j > D} |A_ij|.

        Source: SpecTran, Table 6 (principal and subordinate weights), as its sizes suggest.
        """
        weights, attention = self.weights(), self.attention()
        if attention is None:
            return float(weights.abs().mean()), 0.0
        own = attention.diagonal()[: len(weights)] + weights
        rest = attention[:, self.text_width :].abs().sum(1)
        return float(own.abs().mean()), float(rest.mean())

    def measures(self) -> dict[str, float]:
        """Return the sizes of both parts, lambda, the polynomial and the share of exact zeros."""
        config = self.config
        with torch.no_grad():
            text = self.text()[1:]
            found = {"std_text": float(text.std())}
            found["principal"], found["subordinate"] = self.spectral_weights()
            if config.fusion != "none":
                found["std_id"] = float(self.id[1:].std())
            if config.fusion == "add":
                found["cosine_id_text"] = float(F.cosine_similarity(self.id[1:], text).mean())
            if config.attention == "softshrink":
                found["shrink"] = float(self.shrink.mean())
                found["zeros"] = float((self.attention() == 0).float().mean())  # type: ignore[union-attr]
            if config.position == "polynomial":
                found["weight_mean"] = float(self.weights().mean())
                first = 0 if config.constant else 1
                found |= {f"position_{k}": float(a) for k, a in enumerate(self.position, first)}
        return found


def needs(config: Config) -> tuple[str, ...]:
    """Return the inputs that these settings read."""
    return (f"spectrum:{config.view}",)


def build(config: Config, inputs: Inputs, parts: Parts) -> Method:
    """Compose the method. Raises ConfigError for settings under which the text has no part."""
    if config.attention == "none" and config.position == "none":
        raise ConfigError(
            f"params.yaml: {config.block}: attention and position are both none, so the text has "
            f"no part in the item vectors. Use the method id instead."
        )
    train = parts.train
    if config.fusion in ("concat", "nullspace"):
        ids = round(config.id_share * train.width)
        if not 0 < ids < train.width:
            raise ConfigError(
                f"params.yaml: {config.block}.id_share: {config.id_share:g} of {train.width} "
                f"columns ({parts.width_key}) are {ids} for ID vectors; fusion {config.fusion} "
                f"needs one for them and one for the text. Use another share or a larger width."
            )
    spectrum = inputs.spectrum(config.view)
    return single(SpectralAttention(spectrum, train.width, train.item_std, config), parts)
