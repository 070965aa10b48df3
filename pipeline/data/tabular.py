"""Opening own tables: the wanted columns of a CSV, JSON-lines or Parquet file, under their roles.

The text formats are read as text, so that a value that does not parse can be set aside with its
line. A CSV file that the fast reader refuses (bytes that are not UTF-8, rows with too many fields)
is read again row by row.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.data.lines import (
    MAX_LINE_BYTES,
    NOT_UTF8,
    Rejects,
    as_text,
    as_texts,
    blocks,
    decode,
    parse_json,
)
from pipeline.data.raw import REJECTED
from pipeline.data.sieve import Sieve
from pipeline.errors import ConfigError, DataError, near_miss

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons (;)", "|": "bars (|)"}
"""Sign -> how messages call it. Only the first two are read."""


def open_table(path: Path, wanted: Mapping[str, str], keys: Mapping[str, str]) -> Sieve:
    """Return the wanted columns of a file.

    wanted: role -> column; keys: role -> key of `source.columns`, for messages.
    Raises ConfigError for another suffix or a missing column, DataError for an empty or damaged
    file.
    """
    kind = suffix(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty. It should hold rows with {_names(wanted)}.")
    check = _Check(path, wanted, keys)
    if kind == ".parquet":
        sieve = _parquet(path, wanted, check)
    elif kind in (".csv", ".tsv"):
        sieve = _csv(path, wanted, check, "," if kind == ".csv" else "\t")
    else:
        sieve = _json(path, wanted, check)
    if not sieve.rows:
        raise DataError(f"{path}: the file has no rows, only a header or a schema. Add rows.")
    return sieve


def suffix(path: Path) -> str:
    """Return the suffix that decides the format, without .gz. Raises ConfigError for another."""
    parts = [part.lower() for part in path.suffixes]
    kind = parts[-2] if parts[-1:] == [".gz"] and len(parts) > 1 else "".join(parts[-1:])
    if kind not in SUFFIXES or (kind == ".parquet" and parts[-1] == ".gz"):
        raise ConfigError(
            f"{path}: format `table` reads {', '.join(SUFFIXES)} (text also as .gz), decided by "
            f"the name. Rename or convert the file."
        )
    return kind


def column_names(path: Path) -> list[str]:
    """Return the columns a file has (of JSON lines: the keys of its first 100 records).

    Raises DataError for an empty or damaged file, names that are not UTF-8, another separator
    than the suffix says, and JSON that is not one object per line.
    """
    kind = suffix(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    if kind == ".parquet":
        with _damage(path):
            return list(pl.read_parquet_schema(path))
    if kind in (".csv", ".tsv"):
        header = _header(path, "," if kind == ".csv" else "\t")
        _refuse_other_encoding(path, header)
        _refuse_other_separator(path, header)
        return header
    with _text(path) as handle:
        found: dict[str, None] = {}
        broken = ""
        for number, line in zip(range(1, 101), handle, strict=False):
            try:
                found.update(dict.fromkeys(parse_json(line)))
            except ValueError:
                if line.strip() and not broken:
                    excerpt = line.strip()[:40].encode("utf-8", "backslashreplace").decode()
                    broken = f"line {number} is not a JSON object: {excerpt}"
                    cure = (
                        "jq -c '.[]' writes an array as lines" if excerpt[0] == "[" else "Mend it"
                    )
    if not found and broken:
        raise DataError(f"{path}: {broken}. Allowed: one object per line. {cure}.")
    return list(found)


class _Check:
    """Refuses a file without the wanted columns."""

    def __init__(self, path: Path, wanted: Mapping[str, str], keys: Mapping[str, str]) -> None:
        self.path, self.wanted, self.keys = path, wanted, keys

    def __call__(self, found: list[str]) -> None:
        mistakes = [
            f"params.yaml: source.columns.{self.keys[role]}: {self.path} has no column {column}."
            f"{near_miss(column, found)}"
            for role, column in self.wanted.items()
            if column not in found
        ]
        if mistakes:
            _refuse_other_encoding(self.path, found)
            _refuse_other_separator(self.path, found)
            raise ConfigError("\n".join(mistakes))


def _refuse_other_encoding(path: Path, header: list[str]) -> None:
    if "\0" in "".join(header) or _row_problem(header, len(header)):
        raise DataError(
            f"{path}: the names of the columns are not UTF-8 text. "
            f"Save the file as UTF-8 and run the same command again."
        )


def _refuse_other_separator(path: Path, header: list[str]) -> None:
    """Refuse a header that is one name only because it is cut at another sign."""
    kind = suffix(path)
    if kind not in (".csv", ".tsv") or len(header) != 1:
        return
    counts = {sign: header[0].count(sign) for sign in SEPARATORS}
    sign = max(counts, key=lambda sign: counts[sign])
    if counts[sign]:
        allowed = SEPARATORS["," if kind == ".csv" else "\t"]
        read = {",": "Rename it to .csv", "\t": "Rename it to .tsv"}
        cure = read.get(sign, f"Write it again with {allowed}")
        raise DataError(
            f"{path}: the names of the columns are separated by {SEPARATORS[sign]}, but {kind} "
            f"means {allowed}. {cure}."
        )


def _names(wanted: Mapping[str, str]) -> str:
    return ", ".join(wanted.values())


def _renamed(wanted: Mapping[str, str]) -> list[pl.Expr]:
    return [pl.col(column).alias(role) for role, column in wanted.items()]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: the file cannot be read ({reason}). Write it again.") from None


@contextmanager
def _text(path: Path) -> Iterator[io.TextIOWrapper]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with (
        _damage(path),
        opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as handle,
    ):
        yield handle


def _header(path: Path, separator: str) -> list[str]:
    with _text(path) as handle:
        return next(csv.reader(handle, delimiter=separator), [])


def _parquet(path: Path, wanted: Mapping[str, str], check: _Check) -> Sieve:
    with _damage(path):
        check(list(pl.read_parquet_schema(path)))
        frame = pl.read_parquet(path, columns=sorted(set(wanted.values())))
    return Sieve(path.name, frame.select(_renamed(wanted)), len(frame), dict(wanted), first=1)


def _csv(path: Path, wanted: Mapping[str, str], check: _Check, separator: str) -> Sieve:
    check(_header(path, separator))
    try:
        frame = pl.read_csv(
            path,
            columns=sorted(set(wanted.values())),
            separator=separator,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError:
        return _csv_by_row(path, wanted, separator)
    return Sieve(path.name, frame.select(_renamed(wanted)), len(frame), dict(wanted), first=2)


def _csv_by_row(path: Path, wanted: Mapping[str, str], separator: str) -> Sieve:
    """Read row by row, setting aside rows of another width and bytes that are not UTF-8."""
    csv.field_size_limit(MAX_LINE_BYTES)
    columns: dict[str, list[Any]] = {role: [] for role in (*wanted, "line")}
    rejected: list[tuple[str, int, str, str]] = []
    rows = 0
    with _text(path) as handle:
        reader = csv.reader(handle, delimiter=separator)
        header = next(reader)
        places = {role: header.index(column) for role, column in wanted.items()}
        while True:
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                rejected.append((path.name, reader.line_num, f"not CSV: {error}", ""))
                rows += 1
                continue
            if not row:
                continue
            rows += 1
            reason = _row_problem(row, len(header))
            if reason:
                text = separator.join(row)[:200]
                text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                rejected.append((path.name, reader.line_num, reason, text[:200]))
                continue
            for role, place in places.items():
                columns[role].append(row[place] or None)
            columns["line"].append(reader.line_num)
    kinds = {role: pl.String for role in wanted} | {"line": pl.Int64}
    sieve = Sieve(path.name, pl.DataFrame(columns, schema=kinds), rows, dict(wanted), first=2)
    sieve.aside.append(pl.DataFrame(rejected, schema=REJECTED, orient="row"))
    return sieve


def _row_problem(row: list[str], width: int) -> str | None:
    if len(row) != width:
        return f"{'too many' if len(row) > width else 'too few'} fields"
    try:
        "".join(row).encode("utf-8")
    except UnicodeEncodeError:  # a surrogate stands for a byte that is not UTF-8
        return NOT_UTF8
    return None


def _json(path: Path, wanted: Mapping[str, str], check: _Check) -> Sieve:
    columns: dict[str, list[Any]] = {role: [] for role in (*wanted, "line")}
    rejects = Rejects(path.name)
    seen: set[str] = set()
    with _damage(path):
        for block in blocks(path):
            for number, line in enumerate(block.lines, block.first):
                if not line.strip():
                    continue
                try:
                    record = parse_json(decode(line))
                except ValueError as error:
                    rejects.add(number, str(error), line)
                    continue
                seen.update(record)
                values = {role: record.get(column) for role, column in wanted.items()}
                if any(_is_broken(values.get(role)) for role in ("user", "item")):
                    # Replacing the surrogate, as in text, could make two ids one.
                    rejects.add(number, "an id holds half a character (a lone surrogate)", line)
                    continue
                for role, value in values.items():
                    columns[role].append(_flat(value))
                columns["line"].append(number)
    if columns["line"]:
        check(sorted(seen))
    kinds = {role: pl.String for role in wanted} | {"line": pl.Int64}
    frame = pl.DataFrame(columns, schema=kinds)
    sieve = Sieve(path.name, frame, len(frame) + len(rejects.rows), dict(wanted), first=1)
    sieve.aside.append(rejects.frame())
    return sieve


def _is_broken(value: Any) -> bool:
    return isinstance(value, str) and as_text(value) != value


def _flat(value: Any) -> str | None:
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, bool) or value is None:
        return None
    texts = as_texts(value)
    return ", ".join(texts) if texts else None
