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


class AnyEncoder(Strict):
    """What every block of `encoders` says."""

    width: Positive
    """H the vectors must have."""
    transform: Transform | None
    """A control made of the cached rows; null leaves them as they are."""


class FromText(AnyEncoder):
    """An engine that reads item text."""

    template: str
    """Item text, from {title}, {brand}, {categories}, {description}; instructions stand in it."""


class Model(FromText):
    """A language model that runs on this machine."""

    model: str
    """Hub name, folder, or `package:NAME` for weights that an installed package carries."""
    revision: str | None
    """Commit of a hub model; null for folders and packages. A hub model without one is resolved
    when it is used, and its commit recorded."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """Checksum of model.safetensors; null is not verified."""
    normalize: bool
    """Give rows of norm 1 (sbert: keep the model's closing normalisation)."""
    max_tokens: Positive
    """Longer texts are cut here, at their end; special tokens count."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Of weights and arithmetic; rows are float32 in any case."""
    batch_size: Positive
    """Texts per batch at most."""
    batch_tokens: Positive
    """Tokens per batch at most, padding included; a single longer text is a batch of its own."""


class Hash(FromText):
    """Deterministic vectors from hashed words; for tests, needs no model."""

    engine: Literal["hash"]
    seed: int


class Sbert(Model):
    """A sentence-transformers model: pooling and closing modules are the model's own."""

    engine: Literal["sbert"]


class Adapter(Strict):
    """A LoRA adapter."""

    model: str
    """Hub name or folder."""
    revision: str | None
    """Commit on the hub; null as for a model."""


class Transformers(Model):
    """A decoder or encoder of the transformers library, pooled here.

    A text is read with the special tokens that the tokenizer puts around it.
    """

    engine: Literal["transformers"]
    layer: Annotated[int, Field(ge=-1)]
    """Hidden state that is pooled: 0 the input embeddings, k after block k, -1 the last."""
    norm: Literal["post", "pre"]
    """The last state after or before the model's final normalisation; other layers have none."""
    pooling: Literal["last", "mean", "eos", "cls"]
    """last: the last token, special ones included; mean: all of them; cls: the first; eos: the end
    token, put behind the text where the tokenizer does not."""
    bidirectional: bool
    """Let a decoder's tokens attend to those after them, as LLM2Vec does."""
    adapters: list[Adapter]
    """Merged into the weights in this order; [] for none."""
    trust_remote_code: bool
    """Run code that the model brings along."""


class Vllm(Model):
    """A decoder run by vLLM, on GPUs; states are after the final normalisation."""

    engine: Literal["vllm"]
    pooling: Literal["last", "mean", "eos"]
    """As for `transformers`."""
    tensor_parallel: Positive
    """GPUs that share one model."""
    memory_share: Annotated[float, Field(gt=0, le=1)]
    """Share of a GPU's memory that vLLM may take."""
    trust_remote_code: bool
    """Run code that the model brings along."""


class OpenAI(FromText):
    """Any server that answers POST BASE_URL/embeddings as OpenAI's does, vLLM's among them."""

    engine: Literal["openai"]
    model: str
    """Name the server knows."""
    base_url: Annotated[str, Field(pattern="^https?://")]
    key_variable: str | None
    """Environment variable that holds the key; null sends none. A key never stands here."""
    dimensions: Positive | None
    """Sent with the request, for models that can shorten their vectors; null sends nothing."""
    normalize: bool
    """Give rows of norm 1, whatever the server sends."""
    max_characters: Positive
    """Longer texts are cut here, at their end, before they are sent."""
    batch_size: Positive
    """Texts per request."""
    requests_per_minute: Positive | None
    """Requests are spaced to stay below it; null sends them one after another."""
    retries: Annotated[int, Field(ge=0)]
    """Attempts after a refusal for load, a server error or a timeout."""
    timeout_s: Positive
    """Seconds an answer may take."""


class Vectors(AnyEncoder):
    """Vectors made elsewhere, joined to the items by raw item id."""

    engine: Literal["vectors"]
    path: str
    """.npy, .safetensors or .parquet file."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """Checksum of the file; null is not verified."""
    name: str | None
    """Tensor or column that holds the vectors; null for .npy."""
    ids: str
    """.parquet: column of raw item ids. Else a text file with one raw item id per line, in the
    order of the rows."""
    min_matched: Annotated[float, Field(gt=0, le=1)]
    """Share of the items that must have a vector; the others get the mean of all."""


Encoder = Annotated[
    Hash | Sbert | Transformers | Vllm | OpenAI | Vectors, Field(discriminator="engine")
]


class SpectrumConfig(Strict):
    """Decomposition of the text embeddings."""

    views: list[Literal["unit", "centred", "raw", "unit_centred"]]
    """unit: unit rows, not centred; centred: raw rows, centred; raw: rows as they are;
    unit_centred: unit rows, centred."""
    cutoff: Annotated[float, Field(gt=0, lt=1)]
    """Components with singular value below cutoff * largest are dropped."""
