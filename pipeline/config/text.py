"""`encoders` and `spectrum`: item text to vectors, and their decomposition."""

from __future__ import annotations

from enum import Enum, auto
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from pipeline.config.numbers import Positive
from pipeline.strict import Strict


class Mark(Enum):
    """Metadata of a key: what it tells of the vectors. Without one, another value gives others."""

    IDLE = auto()
    """It changes how vectors are had, and not the vectors."""
    PIN = auto()
    """It only says which file is meant; null leaves that open."""


Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


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


class Block(Strict):
    """What every block of `encoders` says."""

    width: Positive
    """H the vectors must have."""
    transform: Transform | None
    """A control made of the cached rows; null leaves them as they are."""


class FromText(Block):
    """An engine that reads item text."""

    template: str
    """Item text, from {title}, {brand}, {categories}, {description}; instructions stand in it."""


class Model(FromText):
    """A language model that runs on this machine."""

    model: str
    """Hub name, folder, or `package:NAME` for weights that an installed package carries."""
    revision: Annotated[str | None, Mark.PIN]
    """Commit of a hub model; null for folders and packages. A hub model without one is resolved
    when it is used, and its commit recorded."""
    weights_sha256: Annotated[Sha256 | None, Mark.PIN]
    """Checksum of model.safetensors; null is not verified."""
    normalize: bool
    """Give rows of norm 1 (sbert: keep the model's closing normalisation)."""
    max_tokens: Positive
    """Longer texts are cut here, at their end; special tokens count."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Of weights and arithmetic; rows are float32 in any case."""
    batch_size: Annotated[Positive, Mark.IDLE]
    """Texts per batch at most."""
    batch_tokens: Annotated[Positive, Mark.IDLE]
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
    revision: Annotated[str | None, Mark.PIN]
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
    tensor_parallel: Annotated[Positive, Mark.IDLE]
    """GPUs that share one model."""
    memory_share: Annotated[float, Field(gt=0, le=1), Mark.IDLE]
    """Share of a GPU's memory that vLLM may take."""
    trust_remote_code: bool
    """Run code that the model brings along."""


class OpenAI(FromText):
    """Any server that answers POST BASE_URL/embeddings as OpenAI's does, vLLM's among them."""

    engine: Literal["openai"]
    model: str
    """Name the server knows."""
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
    """Address without /embeddings; mostly ends in /v1. No key, user or password stands in it."""
    key_variable: Annotated[Variable | None, Mark.IDLE]
    """Environment variable that holds the key; null sends none. A key never stands here."""
    dimensions: Positive | None
    """Sent with the request, for models that can shorten their vectors; null sends nothing."""
    normalize: bool
    """Give rows of norm 1, whatever the server sends."""
    max_characters: Positive
    """Longer texts are cut here, at their end, before they are sent."""
    encoding_format: Annotated[Literal["float", "base64"], Mark.IDLE]
    """How vectors are asked for: base64 is four times shorter, but not every server has it."""
    batch_size: Annotated[Positive, Mark.IDLE]
    """Texts per request at most."""
    batch_tokens: Annotated[Positive, Mark.IDLE]
    """Tokens per request at most, estimated as one per four bytes of text; a single longer text
    is a request of its own."""
    requests_per_minute: Annotated[Positive | None, Mark.IDLE]
    """Requests are spaced to stay below it; null sends one as soon as the last is answered."""
    retries: Annotated[int, Field(ge=0), Mark.IDLE]
    """Further attempts after a refusal for load, a server error, a lost connection or silence."""
    timeout_s: Annotated[Positive, Mark.IDLE]
    """Seconds of silence after which an attempt is given up."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> OpenAI:
        address = urlsplit(self.base_url)
        if not address.hostname or address.port == 0:  # a port that is no number raises here
            raise ValueError("base_url names no host or no port")
        if self.dimensions not in (None, self.width):
            raise ValueError(f"dimensions asks for {self.dimensions}, width says {self.width}")
        return self


class Vectors(Block):
    """Vectors made elsewhere, joined to the items by raw item id."""

    engine: Literal["vectors"]
    path: Annotated[str, Field(pattern=r"\.(npy|safetensors|parquet)$")]
    """.npy, .safetensors or .parquet file; a leading $NAME is read from the environment."""
    sha256: Annotated[Sha256 | None, Mark.PIN]
    """Checksum of the file; null is not verified."""
    name: str | None
    """Tensor or column that holds the vectors; null for .npy."""
    ids: str
    """.parquet: column of raw item ids. Else a text file (UTF-8) with one raw item id per line, in
    the order of the rows."""
    min_matched: Annotated[float, Field(gt=0, le=1), Mark.IDLE]
    """Share of the items that must have a vector; the others get the mean of those that have."""

    @model_validator(mode="after")
    def _name_fits_the_file(self) -> Vectors:
        if self.path.endswith(".npy") != (self.name is None):
            raise ValueError("name belongs to .safetensors and .parquet; write null for .npy")
        return self


TextEncoder = Hash | Sbert | Transformers | Vllm | OpenAI
"""Blocks of engines that read item text."""
AnyEncoder = TextEncoder | Vectors
Encoder = Annotated[AnyEncoder, Field(discriminator="engine")]


class SpectrumConfig(Strict):
    """Decomposition of the text embeddings."""

    views: Annotated[list[Literal["unit", "centred", "raw", "unit_centred"]], Field(min_length=1)]
    """unit: unit rows, not centred; centred: raw rows, centred; raw: rows as they are;
    unit_centred: unit rows, centred."""
    cutoff: Annotated[float, Field(gt=0, lt=1)]
    """Components with singular value below cutoff * largest are dropped."""
