"""`datasets`: where raw data come from, and how they become sequences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.numbers import Positive, Share
from pipeline.strict import Strict


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
    """Where the locations were read, and whether they were tried; shown before the download."""
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

    @model_validator(mode="after")
    def _unit_has_times(self) -> Source:
        if self.time_unit is not None:
            if self.columns is None:
                raise ValueError(f"format `{self.format}` fixes the unit: write time_unit: null")
            if self.columns.time is None and self.columns.position is not None:
                raise ValueError("no column holds times: write time_unit: null, or name one")
        return self


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
