"""The models of params.yaml: every value that can change a number, none with a hidden default.

The blocks `methods` and `backbones` are typed by the modules of the same name and built only for
the cell that runs (`pipeline.naming`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from pipeline.errors import ConfigError, near_miss
from pipeline.strict import Strict, build

BlockT = TypeVar("BlockT")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


# ---------------------------------------------------------------- sources


class RemoteFile(Strict):
    """One file of a public data set."""

    url: Annotated[str, Field(pattern="^https?://")]
    """Official location."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """Checksum given by the publisher; null: none is given, it is recorded at first download."""
    size_bytes: int | None
    """Size given by the publisher, bytes; null when unknown."""
    member: str | None
    """Path inside the archive at `url`; null for a plain file. Roles may share an archive."""


class Web(Strict):
    """Files fetched from their publisher."""

    kind: Literal["web"]
    files: dict[str, RemoteFile]
    """Role (as the format names it) -> file."""
    read_from: str
    """Where the locations were read, and whether they were tried."""
    terms: str
    """Terms of use, shown before the download."""


class Synthetic(Strict):
    """The generated demo data, written in the raw layout of Amazon 2014."""

    kind: Literal["synthetic"]
    users: Positive
    items: Positive
    seed: int


class Local(Strict):
    """Files of the user. A leading $NAME is read from the environment."""

    kind: Literal["local"]
    files: dict[str, str]
    """Role (as the format names it) -> path, relative to the folder of params.yaml."""


class Columns(Strict):
    """Column names of own tables; null where the table has no such column."""

    user: str
    item: str
    time: str | None
    position: str | None
    rating: str | None
    item_id: str
    """Column of the item table that holds the item's id."""
    title: str
    brand: str | None
    categories: str | None
    description: str | None


class Source(Strict):
    """Where raw data come from and how they are read."""

    format: str
    """A module of pipeline/data/sources."""
    origin: Annotated[Web | Synthetic | Local, Field(discriminator="kind")]
    columns: Columns | None
    """Only for format `table`."""
    time_unit: Literal["s", "ms", "us", "ns"] | None
    """Unit of the time column of own tables; null where the format fixes it."""
    max_rejected_share: Share
    """Share of rows that may fail to parse before the stage stops."""

    @model_validator(mode="after")
    def _table_has_columns(self) -> Source:
        if (self.format == "table") != (self.columns is not None):
            raise ValueError("columns belong to format `table`, and only to it")
        return self


# ---------------------------------------------------------------- preprocess


class Split(Strict):
    """Which events train, validate and test."""

    kind: Literal["user_time", "leave_one_out", "global_time"]
    train: Share
    """Share of users (user_time) or events (global_time) that train; 1 for leave_one_out."""
    valid: Share
    """The next share, which validates; the rest tests. 0 for leave_one_out."""

    @model_validator(mode="after")
    def _shares(self) -> Split:
        if self.kind == "leave_one_out":
            if (self.train, self.valid) != (1, 0):
                raise ValueError("leave_one_out takes train: 1 and valid: 0")
        elif not (self.train > 0 and self.valid > 0 and self.train + self.valid < 1):
            raise ValueError("train and valid must be positive and leave a rest to test on")
        return self


class Preprocess(Strict):
    """From raw rows to sequences."""

    core: Annotated[int, Field(ge=1)]
    """Users and items keep at least this many events; 1 = no filter."""
    min_rating: float | None
    """Events rated below are no interactions; null keeps every event."""
    require_title: bool
    """Drop items without a title (and filter again)."""
    repeats: Literal["keep", "first", "last"]
    """What becomes of a user's repeated events with one item."""
    keep_last: Positive | None
    """Last events kept per user, after all filters; null = all."""
    ties: Literal["source", "shuffle"]
    """Order of a user's events with equal times: position or file order, or drawn."""
    ties_seed: int
    """Seed of the draw; used by `shuffle` only."""
    split: Split
    short_users: Literal["drop", "keep"]
    """Users left with fewer than two events: drop them, or keep them as training users."""


# ---------------------------------------------------------------- encoders


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


# ---------------------------------------------------------------- train


DrawnFrom = Literal["trained", "catalogue"]
Similarity = Literal["cosine", "dot"]


class SampledLoss(Strict):
    """What the losses share that compare a target with drawn items."""

    name: str
    negatives: Positive
    """Drawn per history, shared by its positions."""
    negatives_from: DrawnFrom
    """trained: items with a training event; catalogue: all items. An item that is only ever a
    negative is pushed away from every user, which hides what its text says."""
    similarity: Similarity
    temperature: Annotated[float, Field(gt=0)]
    """Divides the similarity."""

    @property
    def draw_power(self) -> float:
        """Items are drawn in proportion to their training events to this power; 0 = uniformly."""
        return 0.0


class InfoNCELoss(SampledLoss):
    """Cross-entropy of the target against the negatives, uncorrected."""

    name: Literal["infonce"]


class SampledSoftmaxLoss(SampledLoss):
    """Cross-entropy against negatives that are weighted to stand for all items they come from."""

    name: Literal["sampled_softmax"]
    sampling_power: Share
    """Items are drawn in proportion to their training events to this power: 0 = uniformly, 1 =
    proportionally. Above 0, items without a training event are never drawn."""

    @property
    def draw_power(self) -> float:
        """See `sampling_power`."""
        return self.sampling_power


class BCELoss(SampledLoss):
    """Binary cross-entropy of the target against the mean of the negatives."""

    name: Literal["bce"]


class GBCELoss(SampledLoss):
    """Binary cross-entropy whose positive term makes up for the share of negatives drawn."""

    name: Literal["gbce"]
    calibration: Share
    """t: 0 = plain binary cross-entropy, 1 = fully calibrated scores."""


class SoftmaxLoss(Strict):
    """Cross-entropy of the target against the whole catalogue, items without an event included."""

    name: Literal["softmax"]
    similarity: Similarity
    temperature: Annotated[float, Field(gt=0)]
    """Divides the similarity."""

    negatives: ClassVar[int] = 0
    negatives_from: ClassVar[DrawnFrom] = "catalogue"
    draw_power: ClassVar[float] = 0.0


Loss = Annotated[
    InfoNCELoss | SoftmaxLoss | SampledSoftmaxLoss | BCELoss | GBCELoss,
    Field(discriminator="name"),
]
"""Ranking loss, shared by all methods. All tell `negatives`, `negatives_from`, `draw_power`."""


class TrainConfig(Strict):
    """Training protocol, shared by all methods and backbones."""

    width: Positive
    """Item vector size D."""
    seeds: Annotated[list[int], Field(min_length=1)]
    max_epochs: Positive
    patience: Positive
    """Epochs without a better validation value before training stops."""
    monitor_k: Positive
    """Early stopping watches validation NDCG at this cut-off."""
    batch_size: Positive
    """Histories per step."""
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    """L2 term of Adam (coupled, as in the reference code)."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    positions: Literal["all", "last"]
    """all: every event but a user's first is a target once; last: only the last training event.
    A backbone with cloze targets reads the same windows and masks events of its own choice."""
    item_std: Annotated[float, Field(ge=0)]
    """Standard deviation of initial ID vectors."""
    loss: Loss
    ranking: Similarity
    """Similarity used to rank."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    """Decay of Adam's running means of the gradient and of its square."""
    adam_eps: Annotated[float, Field(gt=0)]
    """Added to the root of Adam's second mean."""
    threads: Positive
    """CPU threads of training; part of the params because sums depend on it in the last bit."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> TrainConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is named twice; a repeated seed is no new run")
        return self


# ---------------------------------------------------------------- tune

Choice = bool | int | float | str | None
"""One value that a search may try; checked by the model that the key belongs to."""

Choices = Annotated[list[Choice], Field(min_length=1)]


class Tune(Strict):
    """Search for settings of a method: what may be tried, and how often."""

    trials: Positive
    """Configurations tried for every method; fewer only where fewer exist."""
    random_trials: Positive
    """The first ones, the present values included, that are drawn before results guide the rest."""
    seed: int
    """Of the draws."""
    train_seed: int
    """Seed that every configuration is trained with."""
    space: dict[str, Choices]
    """For all methods: `train.KEY` -> values."""
    methods: dict[str, dict[str, Choices]]
    """Method -> its own keys (or further `train.KEY`) -> values; variants take those of their
    file."""


# ---------------------------------------------------------------- evaluate


class Strata(Strict):
    """Classes of test targets by their number of training events; 0 events = unseen."""

    cold_at_most: Positive
    median_at_most: Positive


class EvaluateConfig(Strict):
    """Metrics from ranks."""

    ks: Annotated[list[Positive], Field(min_length=1)]
    seen_items: Literal["candidates", "excluded"]
    """Whether items of the user's own history stay in the ranking."""
    strata: Strata
    alpha: Annotated[float, Field(gt=0, lt=1)]
    """Level of the corrected paired tests; intervals have level 1 - alpha."""


# ---------------------------------------------------------------- the whole file


class Cells(Strict):
    """One group of cells: every backbone with every method."""

    backbone: list[str]
    method: list[str]


class TextCells(Cells):
    """One group of cells with item text: every encoder with every backbone and method."""

    encoder: list[str]


class Grid(Strict):
    """What `dvc repro` makes."""

    dataset: Annotated[list[str], Field(min_length=1)]
    encoder: Annotated[list[str], Field(min_length=1)]
    """Encoded and decomposed; the groups name which of them they train on."""
    text: TextCells
    """Trained methods that read item text."""
    plain: Cells
    """Trained methods without text; encoder `none`."""
    ablation: TextCells
    """As text, also for methods that name another one's file (`of`): variants of a method."""
    protocol: TextCells
    """As text, also for backbones with `of`: other losses, negatives, sizes."""
    protocol_plain: Cells
    """As plain, also for blocks with `of`."""
    control: TextCells
    """As text, on changed text: encoders with a `transform`."""
    baseline: Cells
    """Untrained methods without text; encoder and backbone `none`."""
    baseline_text: TextCells
    """Untrained methods with text; backbone `none`."""


class Download(Strict):
    """How files are fetched; changes no number."""

    mirror: str | None
    """Folder or URL tried instead of the publisher: MIRROR/DATASET/FILENAME."""
    retries: Annotated[int, Field(ge=0)]
    timeout_s: Positive
    """Seconds without a byte before an attempt ends."""
    max_unpacked_bytes: Positive
    """Archives that unpack to more are refused."""


class Dataset(Strict):
    """One data set, and what it changes in `train`."""

    source: Source
    preprocess: Preprocess
    train: dict[str, Any]
    """Values that replace those of `train` for this data set; {} for none."""


class Params(Strict):
    """params.yaml."""

    grid: Grid
    datasets: dict[str, Dataset]
    encoders: dict[str, Encoder]
    spectrum: SpectrumConfig
    backbones: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    train: TrainConfig
    tune: Tune
    evaluate: EvaluateConfig
    download: Download

    def dataset(self, name: str) -> Dataset:
        """Return the block of a data set. Raises ConfigError for an unknown name."""
        return _named(self.datasets, "datasets", name)

    def encoder(self, name: str) -> Hash | Sbert:
        """Return the block of an encoder. Raises ConfigError for an unknown name."""
        return _named(self.encoders, "encoders", name)

    def train_for(
        self, dataset: str, backbone: str | None = None, method: str | None = None
    ) -> TrainConfig:
        """Return `train` with the own values of a data set, a backbone and a method in place.

        The later named wins. Raises ConfigError when what comes out is not allowed.
        """
        values = _merge(self.train.model_dump(), self.dataset(dataset).train)
        where = f"datasets.{dataset}.train"
        for kind, name in (("backbones", backbone), ("methods", method)):
            own = getattr(self, kind).get(name, {}).get("train")
            if isinstance(own, Mapping) and own:
                values = _merge(values, own)
                where += f" and {kind}.{name}.train"
        return build(TrainConfig, values, f"train (with {where})")


def _named(blocks: Mapping[str, BlockT], section: str, name: str) -> BlockT:
    if name not in blocks:
        raise ConfigError(f"params.yaml: {section}.{name}: no such block.{near_miss(name, blocks)}")
    return blocks[name]


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes over a mapping; a block with another `name` (of a loss) replaces the old one."""
    if changes.get("name", base.get("name")) != base.get("name"):
        return dict(changes)
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
