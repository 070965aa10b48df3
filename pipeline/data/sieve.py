"""Columns of own tables turned into ids, numbers, times and text; the rest is set aside."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from pipeline.data.raw import REJECTED
from pipeline.errors import ConfigError, DataError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
LATEST = 4_102_444_800
"""2100-01-01; a later time is taken for another unit."""
EARLIEST = 315_532_800
"""1980-01-01; where a guess at the unit must land."""

_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_ZONED = ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M%:z")


@dataclass
class Sieve:
    """The rows of one file that are good so far, and those that were set aside."""

    file: str
    frame: pl.DataFrame
    """One column per role, and `line` once some row has gone."""
    rows: int
    """Rows in the file."""
    columns: dict[str, str]
    """Role -> column in the file."""
    first: int
    """Number of the first row: 1, or 2 below a header line."""
    aside: list[pl.DataFrame] = field(default_factory=list)

    def reject(self, condition: pl.Expr, reason: str) -> None:
        """Set aside the rows where the condition holds."""
        hit = self.frame.select(condition.fill_null(False).alias("hit"))["hit"]
        if not hit.any():
            return
        if "line" not in self.frame.columns:
            lines = pl.int_range(self.first, self.first + len(self.frame), dtype=pl.Int64)
            self.frame = self.frame.with_columns(line=lines)
        shown = pl.concat_str(
            [pl.col(role).cast(pl.String).fill_null("").str.slice(0, 80) for role in self.columns],
            separator=" | ",
        )
        self.aside.append(
            self.frame.filter(hit).select(
                pl.lit(self.file).alias("file"),
                pl.col("line"),
                pl.lit(reason).alias("reason"),
                shown.str.slice(0, 200).alias("excerpt"),
            )
        )
        self.frame = self.frame.filter(~hit)

    def rejected(self) -> pl.DataFrame:
        """Return the rows set aside, by line."""
        return pl.concat([pl.DataFrame(schema=REJECTED), *self.aside]).sort("line")

    def replace(self, role: str, values: pl.Expr) -> None:
        """Put parsed values in the place of a column."""
        self.frame = self.frame.with_columns(values.alias(role))

    def refuse(self, role: str, allowed: str) -> ConfigError:
        """Return the error for a column of a type that cannot be what it is named for."""
        return ConfigError(
            f"params.yaml: source.columns: {self.file}: column {self.columns[role]} ({role}) is "
            f"{self.frame[role].dtype}. Allowed: {allowed}. Convert it, or name another column."
        )


def identifiers(sieve: Sieve, role: str) -> None:
    """Ids: text as it stands, or whole numbers; never empty."""
    kind = sieve.frame[role].dtype
    column = pl.col(role)
    if kind.is_float():
        sieve.reject(column.is_not_nan() & (column != column.floor()), f"{role} is no whole number")
        sieve.replace(role, column.fill_nan(None).cast(pl.Int64, strict=False).cast(pl.String))
    elif kind.is_integer() or isinstance(kind, pl.Categorical | pl.Enum | pl.Null):
        sieve.replace(role, column.cast(pl.String))
    elif kind != pl.String:
        raise sieve.refuse(role, "text or whole numbers")
    # Text that begins with white space sorts before "!": a cheap look before the exact one.
    if sieve.frame.select((column.is_null() | (column < "!")).any()).item():
        sieve.reject(column.is_null() | (column.str.strip_chars() == ""), f"no {role}")


def numbers(sieve: Sieve, role: str, kind: type[pl.DataType], *, floor: bool = False) -> None:
    """Numbers, null where empty or NaN.

    kind: Int64 or Float64. floor: round fractions down instead of setting the row aside.
    """
    found = sieve.frame[role].dtype
    column = pl.col(role)
    if found == pl.Int64 and kind == pl.Int64:
        return
    if found == pl.String:
        sieve.replace(role, column.str.strip_chars().replace("", None))
    elif found.is_float():
        sieve.replace(role, column.fill_nan(None))
    elif not (found.is_integer() or found == pl.Null):
        raise sieve.refuse(role, "numbers")
    rough = column.cast(pl.Float64, strict=False)
    parsed: pl.Expr = pl.when(rough.is_finite()).then(rough)
    if kind == pl.Int64:
        whole = rough.floor() if floor else pl.when(rough == rough.floor()).then(rough)
        # Directly where possible: Float64 is too coarse for nanoseconds.
        exact = [] if found.is_float() else [column.cast(pl.Int64, strict=False)]
        parsed = pl.coalesce([*exact, whole.cast(pl.Int64, strict=False)])
    what = "number" if kind == pl.Float64 or floor else "whole number"
    sieve.reject(parsed.is_null() & column.is_not_null(), f"{role} is not a {what}")
    sieve.replace(role, parsed)


def strings(sieve: Sieve, role: str) -> None:
    """Text; lists become one text with commas, numbers their digits."""
    kind = sieve.frame[role].dtype
    column = pl.col(role)
    while isinstance(kind, pl.List) and isinstance(kind.inner, pl.List):
        column = (
            column.list.eval(pl.element().list.join(", "))
            if (kind.inner.inner == pl.String)
            else column.list.eval(pl.element().explode())
        )
        kind = pl.List(pl.String)
    if isinstance(kind, pl.List):
        column = column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    elif kind.is_nested() or kind == pl.Binary:
        raise sieve.refuse(role, "text, numbers, lists of text")
    sieve.replace(role, column.cast(pl.String))


def seconds(sieve: Sieve, unit: str | None) -> None:
    """Times as whole Unix seconds (floor), null where empty.

    Accepts numbers in `unit`, dates, and ISO 8601 text; times without a zone are UTC.
    Raises ConfigError when the unit is missing or has no meaning, DataError when most times show
    that the unit is another.
    """
    kind = sieve.frame["time"].dtype
    column = pl.col("time")
    if kind == pl.Null:
        sieve.replace("time", column.cast(pl.Int64))
        return
    if kind.is_temporal():
        if kind == pl.Time or isinstance(kind, pl.Duration):
            raise sieve.refuse("time", "numbers, dates, ISO 8601 text")
        _no_unit(sieve, unit, "dates")
        sieve.replace("time", column.dt.epoch("s"))
    elif kind == pl.String and _is_iso(sieve.frame["time"]):
        _no_unit(sieve, unit, "dates as text")
        parsed = _iso(column)
        empty = column.is_null() | (column.str.strip_chars() == "")
        sieve.reject(parsed.is_null() & ~empty, "time is neither ISO 8601 nor empty")
        sieve.replace("time", _iso(column))
    else:
        _epoch(sieve, unit)
        return
    sieve.reject(column < 0, "time before 1970")


def _epoch(sieve: Sieve, unit: str | None) -> None:
    column = pl.col("time")
    if unit is None:
        _refuse_other_dates(sieve)
        raise ConfigError(
            f"params.yaml: source.time_unit: null, but {sieve.columns['time']} in {sieve.file} "
            f"holds numbers. Allowed: s, ms, us, ns (add: --time-unit s)."
        )
    numbers(sieve, "time", pl.Int64, floor=True)
    sieve.reject(column < 0, "negative time")
    _check_unit(sieve, unit)
    if unit != "s":
        sieve.replace("time", column.floordiv(PER_SECOND[unit]))
    sieve.reject(column > LATEST, "time after 2100")


def _refuse_other_dates(sieve: Sieve) -> None:
    """Refuse text most of which is neither a number nor, as its first value shows, ISO 8601."""
    times = sieve.frame["time"]
    if times.dtype != pl.String:
        return
    filled = times.drop_nulls().str.strip_chars()
    filled = filled.filter(filled != "")
    odd = filled.filter(filled.cast(pl.Float64, strict=False).is_null())
    if len(odd) > len(filled) / 2:
        raise DataError(
            f"{sieve.file}: column {sieve.columns['time']}: found {odd[0][:40]!r}, which is no "
            f"time that can be read. Allowed: ISO 8601, such as 2020-10-04 06:58, or epoch numbers "
            f"in s, ms, us or ns. Convert the column."
        )


def _check_unit(sieve: Sieve, unit: str) -> None:
    """Refuse times most of which make no sense in the declared unit."""
    times = sieve.frame["time"]
    median = times.gather_every(1 + len(times) // 100_000).median()
    if not isinstance(median, int | float):
        return
    guess = guess_unit(median)
    place = median / PER_SECOND[unit]
    if place > LATEST or (place < EARLIEST and unit != "s" and guess is not None):
        what = "after the year 2100" if place > LATEST else "before the year 1980"
        cure = (
            f"They look like {guess}. Set source.time_unit: {guess} (add: --time-unit {guess})."
            if guess
            else ("Set source.time_unit to s, ms, us or ns, whichever they are.")
        )
        raise DataError(
            f"{sieve.file}: column {sieve.columns['time']}: read as {unit}, most times lie {what} "
            f"(median {median:.0f}). {cure}"
        )


def guess_unit(value: float) -> str | None:
    """Return the unit in which a number is a time between 1980 and 2100, or None."""
    fits = (unit for unit, per in PER_SECOND.items() if EARLIEST <= value / per <= LATEST)
    return next(fits, None)


def _no_unit(sieve: Sieve, unit: str | None, what: str) -> None:
    if unit is not None:
        raise ConfigError(
            f"params.yaml: source.time_unit: {unit}, but {sieve.columns['time']} in {sieve.file} "
            f"holds {what}, which have no unit. Set it to null (add: --time-unit none)."
        )


def _is_iso(times: pl.Series) -> bool:
    """Tell dates from numbers by the first value that is not empty."""
    filled = times.drop_nulls()
    filled = filled.filter(filled.str.strip_chars() != "")
    return bool(len(filled)) and bool(filled.head(1).str.contains(r"^\s*\d{4}-\d{2}-\d{2}").all())


def _iso(column: pl.Expr) -> pl.Expr:
    text = column.str.strip_chars().str.replace(r"^(\d{4}-\d{2}-\d{2})T", "${1} ")
    plain = text.str.replace(r"\s*(Z|UTC|\+00:?00)$", "")
    zoned = [text.str.to_datetime(form, strict=False, time_zone="UTC") for form in _ZONED]
    local = [plain.str.to_datetime(form, strict=False, time_unit="us") for form in _FORMATS[:2]]
    day = plain.str.to_date(_FORMATS[2], strict=False).cast(pl.Datetime("us"))
    return pl.coalesce([t.dt.epoch("s") for t in (*local, day, *zoned)])
