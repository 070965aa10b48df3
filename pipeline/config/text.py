"""`encoders` and `spectrum`: item text to vectors, and their decomposition."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.numbers import Positive
from pipeline.strict import Strict


class Permute(Strict):
    """Every item gets the vector of another one: text without its meaning."""

    kind: Literal["permute"]
    seed: int


class SameSpectrum(Strict):
    """Random vectors with the singular values and right vectors of the real ones."""

    kind: Literal["same_spectrum"]
    seed: int


class Anisotropic(Strict):
    """Unit rows plus a common direction, as the vectors of language models have."""

    kind: Literal["anisotropic"]
    mean_cosine: Annotated[float, Field(gt=0, lt=1)]
    """Mean cosine of all pairs that the common direction is scaled to."""


Transform = Annotated[Permute | SameSpectrum | Anisotropic, Field(discriminator="kind")]


class Hash(Strict):
    """Deterministic vectors from hashed words; for tests, needs no model."""

    engine: Literal["hash"]
    width: Positive
    """H."""
    seed: int
    template: str
    """Item text, from {title}, {brand}, {categories}, {description}."""
    transform: Transform | None
    """A control made of the cached rows; null leaves them as they are."""


class Sbert(Strict):
    """A sentence-transformers model."""

    engine: Literal["sbert"]
    model: str
    """Hub name, folder, or `package:NAME` for weights that an installed package carries."""
    revision: str | None
    """Commit of a hub model; null for folders and packages."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """Checksum of model.safetensors; null is not verified."""
    width: Positive
    """H the model must have."""
    normalize: bool
    """Keep the model's closing normalisation."""
    max_tokens: Positive
    """Longer texts are cut here."""
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_size: Positive
    """Texts per batch, sorted by length."""
    template: str
    """Item text, from {title}, {brand}, {categories}, {description}."""
    transform: Transform | None
    """A control made of the cached rows; null leaves them as they are."""


Encoder = Annotated[Hash | Sbert, Field(discriminator="engine")]


class SpectrumConfig(Strict):
    """Decomposition of the text embeddings."""

    views: list[Literal["unit", "centred", "raw", "unit_centred"]]
    """unit: unit rows, not centred; centred: raw rows, centred; raw: rows as they are;
    unit_centred: unit rows, centred."""
    cutoff: Annotated[float, Field(gt=0, lt=1)]
    """Components with singular value below cutoff * largest are dropped."""
