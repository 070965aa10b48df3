"""The models of params.yaml: every value that can change a number, none with a hidden default.

Unknown keys are refused with the nearest known one, and all mistakes are reported at once.
The blocks `methods` and `backbones` are typed by the modules of the same name and built only for
the cell that runs (`pipeline.naming`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError, near_miss

ModelT = TypeVar("ModelT", bound=BaseModel)

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
"""Names become folder names and DVC cell names, so they stay plain."""


class Strict(BaseModel):
    """Frozen, unknown keys forbidden, no coercion between types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


# ---------------------------------------------------------------- sources


class RemoteFile(Strict):
    """One file of a public data set."""

    url: Annotated[str, Field(pattern="^https?://")]
    """Official location."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """Checksum given by the publisher; null when there is none (then recorded at first download)."""
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
        elif not (0 < self.train and 0 < self.valid and self.train + self.valid < 1):
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


class Hash(Strict):
    """Deterministic vectors from hashed words; for tests, needs no model."""

    engine: Literal["hash"]
    width: Positive
    """H."""
    seed: int
    template: str
    """Item text, from {title}, {brand}, {categories}, {description}."""


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


Encoder = Annotated[Hash | Sbert, Field(discriminator="engine")]


class SpectrumConfig(Strict):
    """Decomposition of the text embeddings."""

    views: list[Literal["unit", "centred"]]
    """unit: unit rows, not centred; centred: raw rows, centred."""
    cutoff: Annotated[float, Field(gt=0, lt=1)]
    """Components with singular value below cutoff * largest are dropped."""


# ---------------------------------------------------------------- train


class Loss(Strict):
    """Ranking loss, shared by all methods."""

    name: Literal["infonce"]
    negatives: Positive
    """Drawn per history, uniformly, shared by its positions."""
    similarity: Literal["cosine", "dot"]
    temperature: Annotated[float, Field(gt=0)]
    """Divides the similarity."""


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
    """all: every event but a user's first is a target once; last: only the last training event."""
    item_std: Annotated[float, Field(ge=0)]
    """Standard deviation of initial ID vectors."""
    loss: Loss
    ranking: Literal["cosine", "dot"]
    """Similarity used to rank."""
    threads: Positive
    """CPU threads of training; part of the params because sums depend on it in the last bit."""


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
    """Level of the corrected paired tests."""


# ---------------------------------------------------------------- the whole file


class Cells(Strict):
    """One group of cells: every backbone with every method."""

    backbone: list[str]
    method: list[str]


class Grid(Strict):
    """What `dvc repro` makes."""

    dataset: Annotated[list[str], Field(min_length=1)]
    encoder: Annotated[list[str], Field(min_length=1)]
    text: Cells
    """Trained methods that read item text."""
    plain: Cells
    """Trained methods without text; encoder `none`."""
    baseline: Cells
    """Untrained methods without text; encoder and backbone `none`."""
    baseline_text: Cells
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
    evaluate: EvaluateConfig
    download: Download

    def dataset(self, name: str) -> Dataset:
        """Return the block of a data set. Raises ConfigError for an unknown name."""
        return _named(self.datasets, "datasets", name)

    def encoder(self, name: str) -> Hash | Sbert:
        """Return the block of an encoder. Raises ConfigError for an unknown name."""
        return _named(self.encoders, "encoders", name)

    def train_for(self, dataset: str) -> TrainConfig:
        """Return `train` with the data set's own values in place."""
        values = _merge(self.train.model_dump(), self.dataset(dataset).train)
        return build(TrainConfig, values, f"train (with datasets.{dataset}.train)")


def _named(blocks: Mapping[str, Any], section: str, name: str) -> Any:
    if name not in blocks:
        raise ConfigError(
            f"params.yaml: {section}.{name}: no such block.{near_miss(name, blocks)}"
        )
    return blocks[name]


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


# ---------------------------------------------------------------- reading


class _UniqueLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: the second would silently win."""


def _mapping(loader: _UniqueLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))  # type: ignore[no-untyped-call]


_UniqueLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises ConfigError with line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file. Run the command in the folder that holds params.yaml, "
            f"or name it with --params."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}).") from None
    try:
        value = yaml.load(text, Loader=_UniqueLoader)  # SafeLoader subclass: no objects are made
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {type(value).__name__}.")
    return value


def load(path: Path, changes: Mapping[str, Any] | None = None) -> Params:
    """Read and check params.yaml; `changes` are dotted keys laid over it.

    Raises ConfigError that lists every mistake.
    """
    raw = read_yaml(path)
    for key, value in (changes or {}).items():
        _assign(raw, key, value)
    params = build(Params, raw, path.name)
    mistakes = []
    for section in ("datasets", "encoders", "backbones", "methods"):
        for name in getattr(params, section):
            reserved = name == "none" and section != "backbones"
            if reserved or not NAME.fullmatch(name):
                mistakes.append(
                    f"{section}.{name}: a name is small letters, digits and _, and not `none`."
                )
    for name in params.datasets:
        try:
            params.train_for(name)
        except ConfigError as error:
            mistakes.append(str(error).removeprefix(f"{path.name}: "))
    if mistakes:
        raise ConfigError("\n".join(f"{path.name}: {line}" for line in mistakes))
    return params


def _assign(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = raw
    for depth, key in enumerate(parents):
        if not isinstance(node.get(key), dict):
            where = ".".join(parents[: depth + 1])
            raise ConfigError(f"--set {dotted}: {where} is not a block.{near_miss(key, node)}")
        node = node[key]
    if last not in node and parents[:1] != ["datasets"]:
        raise ConfigError(f"--set {dotted}: unknown key.{near_miss(last, node)}")
    node[last] = value


def build(model: type[ModelT], values: Mapping[str, Any], where: str) -> ModelT:
    """Validate `values` as `model`. Raises ConfigError with one line per mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, detail, where) for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _explain(model: type[BaseModel], detail: Any, where: str) -> str:
    path = [str(part) for part in detail["loc"]]
    dotted = ".".join(path)
    match detail["type"]:
        case "extra_forbidden":
            known = _fields(model, detail["loc"][:-1])
            return f"{where}: {dotted}: unknown key.{near_miss(path[-1], known)}"
        case "missing":
            return f"{where}: {dotted}: missing. There is no default; write the value you want."
        case _:
            found = repr(detail.get("input"))
            found = found if len(found) <= 60 else found[:57] + "..."
            return f"{where}: {dotted}: {detail['msg']} (found {found})."


def _fields(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the field names allowed at a location inside a model, as far as they are known."""
    from typing import get_args

    current: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for kind in current:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                if part in kind.model_fields:
                    following += _unfold(kind.model_fields[part].annotation)
                elif part in _tags(kind):
                    following.append(kind)
            else:  # dict[str, X] or list[X]: the part is a key
                following += [inner for arg in get_args(kind)[-1:] for inner in _unfold(arg)]
        current = following or current
    return sorted(
        {
            name
            for kind in current
            if isinstance(kind, type) and issubclass(kind, BaseModel)
            for name in kind.model_fields
        }
    )


def _tags(kind: type[BaseModel]) -> set[Any]:
    from typing import get_args

    return {tag for field in kind.model_fields.values() for tag in get_args(field.annotation)}


def _unfold(annotation: Any) -> list[Any]:
    from types import UnionType
    from typing import Annotated, Union, get_args, get_origin

    origin = get_origin(annotation)
    if origin is Annotated:
        return _unfold(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [inner for arg in get_args(annotation) for inner in _unfold(arg)]
    return [annotation]


# ---------------------------------------------------------------- environment


def expand(path: str, base: Path) -> Path:
    """Resolve a path of params.yaml: a leading $NAME from the environment, else below `base`.

    Raises ConfigError when the variable is not set.
    """
    match = re.match(r"\$(\w+)", path)
    if match:
        value = os.environ.get(match[1])
        if not value:
            raise ConfigError(
                f"params.yaml: {path}: the environment variable {match[1]} is not set. "
                f"Set it to the folder that holds the data."
            )
        path = value + path[match.end() :]
    found = Path(path).expanduser()
    return found if found.is_absolute() else base / found


def cache_folder(base: Path) -> Path:
    """Return the prunable store beside DVC: $SPECTRAN_CACHE, or .cache below `base`."""
    return Path(os.environ.get("SPECTRAN_CACHE") or base / ".cache")
