"""Guessing what the columns of own tables are, from their names and then from their content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.config import Columns
from pipeline.data import filters, tabular
from pipeline.data.lines import NOT_UTF8
from pipeline.data.raw import RawTables
from pipeline.data.sieve import guess_unit
from pipeline.errors import ConfigError, DataError, near_miss

LOG_NAMES: dict[str, tuple[str, ...]] = {
    "user": ("user", "userid", "reviewerid", "customerid", "customer", "uid", "visitorid",
             "memberid"),
    "item": ("item", "itemid", "asin", "parentasin", "productid", "product", "movieid", "artistid",
             "newsid", "trackid", "bookid", "sku", "iid"),
    "time": ("timestamp", "time", "unixreviewtime", "datetime", "date", "eventtime", "createdat",
             "ts", "when"),
    "position": ("position", "pos", "order", "step", "eventindex"),
    "rating": ("rating", "overall", "stars", "score"),
}  # fmt: skip
"""Role -> usual names, best first, in small letters without signs."""

ITEM_NAMES: dict[str, tuple[str, ...]] = {
    "item_id": (*LOG_NAMES["item"], "id"),
    "title": ("title", "name", "itemname", "productname", "headline", "itemtitle"),
    "brand": ("brand", "manufacturer", "maker", "author", "artist"),
    "categories": ("categories", "category", "genres", "genre", "tags"),
    "description": ("description", "desc", "summary", "abstract", "about"),
}
SAMPLE = 2000
_VALUE = re.compile(r"-?\d+([.,]\d+)?$|\d{4}-\d{2}-\d{2}")
"""Numbers and dates, which are seldom names of columns."""


def sample(path: Path) -> pl.DataFrame:
    """Return the first rows of a table as text (dates and lists as their text).

    A column of a kind that has no text is null: it is no column to guess, and where it is named,
    reading the table tells its kind.
    Raises ConfigError or DataError for a file without names or without a row that can be read.
    """
    names = tabular.column_names(path)
    if len(set(names)) < len(names) or not names:
        raise ConfigError(
            f"{path}: the header must name every column once. Found: {', '.join(names)}. "
            f"If that is a row, put a header line above it."
        )
    if tabular.suffix(path) == ".parquet":
        frame = pl.read_parquet(path, n_rows=SAMPLE)
        if not len(frame):
            raise DataError(f"{path}: the file has no rows, only a schema. Add rows.")
    else:
        sieve = tabular.open_table(path, {n: n for n in names}, {n: n for n in names})
        frame = sieve.frame
        if not len(frame):
            raise _unreadable(path, sieve.rejected())
    return pl.DataFrame({name: _text(frame[name].head(SAMPLE)) for name in names})


def _text(column: pl.Series) -> pl.Series:
    """Return a column as text, null where its kind has none."""
    try:
        if isinstance(column.dtype, pl.List):
            return column.cast(pl.List(pl.String)).list.join(", ")
        return column.cast(pl.String)
    except pl.exceptions.PolarsError:
        return pl.Series(column.name, [None] * len(column), pl.String)


def _unreadable(path: Path, rejected: pl.DataFrame) -> DataError:
    """Return the error for a file none of whose rows can be read."""
    reasons = rejected["reason"].unique().sort().to_list()
    if reasons == [NOT_UTF8]:
        return DataError(
            f"{path}: no row is UTF-8. Save the file as UTF-8 and run the same command again."
        )
    return DataError(
        f"{path}: none of {len(rejected)} rows can be read: {', '.join(reasons)} (first: line "
        f"{rejected['line'][0]}: {rejected['excerpt'][0][:80]}). Write the file again."
    )


def guess(log: pl.DataFrame, items: pl.DataFrame, given: Mapping[str, str | None]) -> Columns:
    """Return the columns.

    given: role -> column that the user named, or None for "there is none".
    Raises ConfigError when a needed column cannot be guessed, naming the option that tells it.
    """
    found: dict[str, str | None] = {}
    for names, frame in ((LOG_NAMES, log), (ITEM_NAMES, items)):
        for role, usual in names.items():
            if role in given:
                found[role] = _named(role, given[role], frame)
            else:
                found[role] = _by_name(frame.columns, usual, set(found.values()), frame is log)
    if found["item_id"] is None and "item_id" not in given and found["item"] is not None:
        found["item_id"] = _overlap(items, log[found["item"]])
        if found["item_id"] in set(log[found["item"]]):
            raise ConfigError(
                f"items: found {', '.join(items.columns)}, and {found['item_id']} is an item of "
                f"the log. If that is a row, put a header line above it; else name the columns: "
                f"--item-id COLUMN"
            )
    if found["item"] is None and "item" not in given and found["item_id"] is not None:
        found["item"] = _overlap(log, items[found["item_id"]])
    if found["title"] is None and "title" not in given:
        found["title"] = _wordy(items, {found["item_id"], found["description"]})
    for role in ("user", "item", "item_id", "title"):
        if found[role] is None:
            frame = log if role in LOG_NAMES else items
            where = "interactions" if role in LOG_NAMES else "items"
            raise ConfigError(
                f"{where}: cannot tell which column is the {role.replace('_', ' ')}: found "
                f"{', '.join(frame.columns)}. Name it: --{role.replace('_', '-')} COLUMN"
                f"{_headless(frame)}"
            )
    if found["time"] is not None and "time" not in given and not _filled(log[found["time"]]).len():
        found["time"] = None  # an order-only log with an empty time column
    if found["time"] is None and found["position"] is None and "time" not in given:
        found["time"] = _timely(log, set(found.values()))
    if found["time"] is None and found["position"] is None:
        raise ConfigError(
            f"interactions: cannot tell the order of events: no time and no position among "
            f"{', '.join(log.columns)}. Name one: --time COLUMN or --position COLUMN"
            f"{_headless(log)}"
        )
    return Columns.model_validate(found)


def swapped(log: pl.DataFrame, items: pl.DataFrame) -> bool:
    """Whether every needed column is found once the two tables change places."""
    try:
        guess(items, log, {})
    except ConfigError:
        return False
    return True


def core_for(tables: RawTables) -> tuple[int, str]:
    """Return the largest core of 5, 3, 2 that keeps half of the events, else 1; and why."""
    user, _ = filters.encode(tables.interactions["user"])
    item, _ = filters.encode(tables.interactions["item"])
    shares: list[str] = []
    for core in (5, 3, 2):
        share = float(np.mean(filters.k_core(user, item, core)[0]))
        if share >= 0.5:
            tried = f" ({', '.join(shares)})" if shares else ""
            return core, f"core {core} keeps {share:.0%} of the events{tried}"
        shares.append(f"core {core} keeps {share:.0%}")
    return 1, f"{', '.join(shares)} of the events, so nothing is filtered"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _named(role: str, column: str | None, frame: pl.DataFrame) -> str | None:
    if column is not None and column not in frame.columns:
        raise ConfigError(
            f"--{role.replace('_', '-')} {column}: no such column."
            f"{near_miss(column, frame.columns)}{_headless(frame)}"
        )
    return column


def _headless(frame: pl.DataFrame) -> str:
    """Return the hint that a header is missing, where a name is a number, a date or a value."""
    for name in frame.columns:
        if _VALUE.match(name) or name in set(frame[name]):
            return f" ({name} looks like a value: if the header line is missing, add it.)"
    return ""


def _by_name(
    columns: list[str], usual: tuple[str, ...], taken: set[str | None], distinct: bool
) -> str | None:
    free = [c for c in columns if not (distinct and c in taken)]
    for name in usual:
        for column in free:
            if _plain(column) == name:
                return column
    return None


def _filled(values: pl.Series) -> pl.Series:
    values = values.drop_nulls()
    return values.filter(values.str.strip_chars() != "")


def _overlap(frame: pl.DataFrame, ids: pl.Series) -> str | None:
    """Return the column whose values are ids most often, when half of them are."""
    known = set(ids.drop_nulls().to_list())
    shares = {
        column: sum(value in known for value in frame[column]) / max(len(frame), 1)
        for column in frame.columns
    }
    best = max(shares, key=lambda column: shares[column])
    return best if shares[best] >= 0.5 else None


def _wordy(frame: pl.DataFrame, taken: set[str | None]) -> str | None:
    """Return the text column most of whose values hold letters and a blank."""
    for column in frame.columns:
        filled = _filled(frame[column])
        words = filled.str.contains(r"[^\W\d_]+\s+\S").mean()
        if column not in taken and isinstance(words, float) and words > 0.5:
            return column
    return None


def _timely(frame: pl.DataFrame, taken: set[str | None]) -> str | None:
    """Return the first column whose values are dates, or numbers that are times in some unit."""
    for column in frame.columns:
        filled = _filled(frame[column])
        if column in taken or not len(filled):
            continue
        median = filled.cast(pl.Float64, strict=False).median()
        epoch = isinstance(median, int | float) and guess_unit(median) is not None
        if epoch or filled.str.contains(r"^\s*\d{4}-\d{2}-\d{2}").all():
            return column
    return None


def unit_of(values: pl.Series) -> str | None:
    """Return the unit of numeric times, None for dates. Raises ConfigError when it is not clear."""
    filled = _filled(values)
    if not len(filled):
        raise ConfigError(
            f"interactions: column {values.name} (time) holds no value in its first {len(values)} "
            f"rows. Name another: --time COLUMN, or --position COLUMN for a log that knows only an "
            f"order; or say the unit of later rows: --time-unit s"
        )
    numbers = filled.cast(pl.Float64, strict=False)
    if numbers.null_count() > len(numbers) / 2:
        return None
    median = numbers.median()
    unit = guess_unit(median) if isinstance(median, int | float) else None
    if unit is None:
        raise ConfigError(
            f"cannot tell the unit of {values.name}: in none of s, ms, us, ns do its values (such "
            f"as {filled[0]}) lie between 1980 and 2100. Name it: --time-unit s"
        )
    return unit
