"""Own tables: CSV, JSON-lines or Parquet files of interactions and items, with named columns.

The file's suffix decides how it is read: .parquet, .csv, .jsonl (or .ndjson); the text formats also
as .gz. `source.columns` names the columns; ids may be text or integers and become text.

Order: an event needs a time, or, in a log with a `position` column, a position; an event with
neither is set aside. Events whose time is unknown are kept on the strength of their position.
Whether the split can do without their times is decided after the filters (`pipeline.data.split`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline.config import Columns, Source
from pipeline.data.raw import RawTables, gather
from pipeline.data.sieve import Sieve, identifiers, numbers, seconds, strings
from pipeline.data.tabular import open_table
from pipeline.errors import ConfigError

ROLES = ("interactions", "items")


def read(files: Mapping[str, Path], source: Source) -> RawTables:
    """Return the tables of two files.

    Raises ConfigError for a column that is not there or whose type cannot be what it is named for,
    DataError for a file that cannot be opened at all and for times in another unit.
    """
    columns = source.columns
    assert columns is not None
    if columns.time is None and columns.position is None:
        raise ConfigError(
            "params.yaml: source.columns: time and position are both null, so the log has no "
            "order. Name one of them."
        )
    events = _interactions(files["interactions"], columns, source.time_unit)
    items = _items(files["items"], columns)
    return gather(
        events.frame, items.frame, [events.rejected(), items.rejected()], events.rows + items.rows
    )


def _wanted(columns: Columns, roles: tuple[str, ...]) -> dict[str, str]:
    """Return role -> column for the roles that have one."""
    named = {role: getattr(columns, role) for role in roles}
    return {role: column for role, column in named.items() if column is not None}


def _interactions(path: Path, columns: Columns, unit: str | None) -> Sieve:
    wanted = _wanted(columns, ("user", "item", "time", "position", "rating"))
    sieve = open_table(path, wanted, {role: role for role in wanted})
    identifiers(sieve, "user")
    identifiers(sieve, "item")
    if "position" in wanted:
        numbers(sieve, "position", pl.Int64)
    if "time" in wanted:
        seconds(sieve, unit)
        if "position" in wanted:
            absent = pl.col("time").is_null() & pl.col("position").is_null()
            sieve.reject(absent, "no time and no position")
        else:
            sieve.reject(pl.col("time").is_null(), "no time")
    else:
        sieve.reject(pl.col("position").is_null(), "no position")
    if "rating" in wanted:
        numbers(sieve, "rating", pl.Float64)
    return sieve


def _items(path: Path, columns: Columns) -> Sieve:
    wanted = _wanted(columns, ("title", "brand", "categories", "description"))
    keys = {"item": "item_id", **{role: role for role in wanted}}
    sieve = open_table(path, {"item": columns.item_id, **wanted}, keys)
    identifiers(sieve, "item")
    sieve.reject(~pl.col("item").is_first_distinct(), "duplicate item")
    for role in wanted:
        strings(sieve, role)
    return sieve
