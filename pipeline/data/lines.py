"""Text files line by line, fast where lines are sound and exact where they are not.

A file is read in blocks of whole lines. polars parses a block of JSON lines at once; a block that
it refuses is halved until the broken lines stand alone, and those are parsed one by one, so that
each gets its own reason. No line is dropped: what does not parse is set aside in `Rejects`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import polars as pl

from pipeline.data.raw import REJECTED
from pipeline.errors import DataError

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 32 << 20
"""A longer line is damage (a lost newline), and would take gigabytes to parse."""
EXCERPT = 200
"""Characters of a rejected line that are kept."""
FEW = 32
"""Lines below which halving a refused block stops paying."""
LATEST_SECONDS = 100_000_000_000
"""Seconds beyond it lie after the year 5000: the number counts milliseconds."""

NOT_UTF8 = "not UTF-8"
TOO_LONG = f"longer than {MAX_LINE_BYTES >> 20} MiB"

Schema = Mapping[str, pl.DataType | type[pl.DataType]]
Value = TypeVar("Value")


@dataclass
class Rejects:
    """Lines of one file that were set aside."""

    file: str
    seen: int = 0
    """Rows met, good ones included; blank lines are no rows."""
    rows: list[tuple[str, int, str, str]] = field(default_factory=list)

    def add(self, line: int, reason: str, content: bytes | str) -> None:
        """Set one line aside. line: 1-based."""
        if isinstance(content, bytes):
            content = content[: 4 * EXCERPT].decode("utf-8", errors="backslashreplace")
        self.rows.append((self.file, line, reason, content.strip()[:EXCERPT]))

    def frame(self) -> pl.DataFrame:
        """Return the rows in the schema REJECTED."""
        return pl.DataFrame(self.rows, schema=REJECTED, orient="row")


@dataclass
class Block:
    """Consecutive whole lines."""

    first: int
    """1-based number of the first line."""
    lines: list[bytes]


def blocks(path: Path) -> Iterator[Block]:
    """Yield the lines of a file, plain or .gz, in blocks; a too long line is cut, not loaded.

    Raises DataError when the file is empty, or its compression is damaged.
    """
    number = 1
    rest = b""
    try:
        with _open(path) as handle:
            while chunk := handle.read(BLOCK_BYTES):
                cut = chunk.rfind(b"\n") + 1
                if not cut:
                    rest = (rest + chunk)[: MAX_LINE_BYTES + 1]
                    continue
                lines = (rest + chunk[:cut]).split(b"\n")[:-1]
                rest = chunk[cut:]
                yield Block(number, lines)
                number += len(lines)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: the compressed file is damaged or cut short ({error}). "
            f"Fetch it again: spectran download DATASET --force"
        ) from None
    if rest:
        yield Block(number, [rest])
    elif number == 1:
        raise DataError(f"{path}: the file is empty. It should hold one record per line.")


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def decode(line: bytes) -> str:
    """Return a line as text. Raises ValueError with the reason."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(TOO_LONG)
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(NOT_UTF8) from None


def read_json(
    path: Path, schema: Schema, problem: pl.Expr | None = None
) -> tuple[pl.DataFrame, Rejects]:
    """Return the records of a JSON-lines file, and the rejected lines.

    schema: the fields wanted; others are ignored, absent ones are null.
    problem: reason to reject a parsed row, null for a good one.
    """
    rejects = Rejects(path.name)
    frames = [pl.DataFrame(schema=dict(schema))]
    for block in blocks(path):
        for first, lines, frame in _parse(block, schema, rejects):
            if problem is not None:
                frame = _set_aside(frame, problem, first, lines, rejects)
            frames.append(frame.drop("line"))
            rejects.seen += len(frame)
    rejects.seen += len(rejects.rows)
    rejects.rows.sort()
    return pl.concat(frames), rejects


def _parse(
    block: Block, schema: Schema, rejects: Rejects
) -> Iterator[tuple[int, list[bytes], pl.DataFrame]]:
    """Yield (number of the first line, lines, frame with column `line`), in order."""
    waiting = [block]
    while waiting:
        part = waiting.pop()
        frame = _fast(part, schema)
        if frame is None and len(part.lines) > FEW:
            middle = len(part.lines) // 2
            waiting.append(Block(part.first + middle, part.lines[middle:]))
            waiting.append(Block(part.first, part.lines[:middle]))
            continue
        yield part.first, part.lines, _slow(part, schema, rejects) if frame is None else frame


def _fast(block: Block, schema: Schema) -> pl.DataFrame | None:
    """Parse a block at once; None when any line of it is broken, blank or over-long."""
    text = b"\n".join(block.lines)
    if len(text) > MAX_LINE_BYTES:
        return None
    try:
        frame = pl.read_ndjson(text, schema=dict(schema))
    except (pl.exceptions.PolarsError, OSError):
        return None
    if len(frame) != len(block.lines):
        return None
    return frame.with_columns(line=pl.int_range(block.first, block.first + len(frame)))


def _slow(block: Block, schema: Schema, rejects: Rejects) -> pl.DataFrame:
    """Parse a block line by line, setting aside what is broken."""
    columns: dict[str, list[Any]] = {name: [] for name in (*schema, "line")}
    for number, line in enumerate(block.lines, block.first):
        if not line.strip():
            continue
        try:
            record = parse_json(decode(line))
            values = {name: convert(record.get(name), kind, name) for name, kind in schema.items()}
        except ValueError as error:
            rejects.add(number, str(error), line)
            continue
        for name, value in values.items():
            columns[name].append(value)
        columns["line"].append(number)
    return pl.DataFrame(columns, schema={**schema, "line": pl.Int64})


def parse_json(text: str) -> dict[str, Any]:
    """Return the object on one line. Raises ValueError with the reason."""
    try:
        record = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def convert(value: Any, kind: pl.DataType | type[pl.DataType], name: str) -> Any:
    """Return a parsed value as the column's type. Raises ValueError with the reason."""
    if value is None:
        return None
    if kind == pl.String:
        return as_text(value)
    if kind == pl.List(pl.String):
        return as_texts(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is not a number")
    if kind == pl.Float64:
        return float(value)
    if not whole or abs(value) >= 2**63:
        raise ValueError(f"{name} is not a whole number")
    return int(value)


def as_text(value: Any) -> str | None:
    """Return a string or number as text, lone surrogates replaced; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).encode("utf-8", errors="replace").decode()


def as_texts(value: Any) -> list[str]:
    """Return the strings in a value, nested lists opened; a lone string is a list of one."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting.extend(reversed(part))
        elif (text := as_text(part)) is not None:
            found.append(text)
    return found


def _set_aside(
    frame: pl.DataFrame, problem: pl.Expr, first: int, lines: list[bytes], rejects: Rejects
) -> pl.DataFrame:
    """Move the rows with a problem to `rejects` and return the others."""
    marked = frame.with_columns(problem=problem)
    for line, reason in (
        marked.filter(pl.col("problem").is_not_null()).select("line", "problem").rows()
    ):
        rejects.add(line, reason, lines[line - first])
    return marked.filter(pl.col("problem").is_null()).drop("problem")


def no_text(column: str, what: str) -> pl.Expr:
    """Return the reason expression for a missing or blank text column."""
    blank = pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")
    return pl.when(blank).then(pl.lit(f"no {what}"))


def bad_seconds(column: str) -> pl.Expr:
    """Return the reason expression for a time that is not Unix seconds."""
    time = pl.col(column)
    return (
        pl.when(time.is_null())
        .then(pl.lit("no time"))
        .when(time < 0)
        .then(pl.lit("negative time"))
        .when(time > LATEST_SECONDS)
        .then(pl.lit("time looks like milliseconds; this format counts seconds"))
    )


def records(
    path: Path, parse: Callable[[str], Value], rejects: Rejects, header: int = 0
) -> Iterator[Value]:
    """Yield what `parse` makes of each line; lines for which it raises ValueError are set aside.

    header: lines at the top that are no rows.
    """
    for block in blocks(path):
        for number, line in enumerate(block.lines, block.first):
            if number <= header or not line.strip():
                continue
            rejects.seen += 1
            try:
                value = parse(decode(line))
            except ValueError as error:
                rejects.add(number, str(error), line)
            else:
                yield value
