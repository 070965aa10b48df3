"""Matrices that users made elsewhere: .npy, .safetensors and .parquet, read without running code.

A matrix is never loaded whole: its rows are read where they lie. Parquet has no rows to jump to, so
those that are needed are laid out in an unnamed file first.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError, near_miss

BATCH_BYTES = 32 << 20
_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Dtype of the format -> numpy's; bfloat16 has none and is the upper half of float32."""


@dataclass(frozen=True)
class Matrix:
    """[n, H] floats in a file."""

    file: Path | IO[bytes]
    dtype: np.dtype[Any]
    """As stored."""
    shape: tuple[int, int]
    offset: int = 0
    """Of the first number, bytes."""
    by_column: bool = False
    """Stored column by column."""
    bfloat16: bool = False

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the rows at these places, [m, H] float32; what is too large becomes infinity."""
        with self._open() as handle:
            rows = self._mapped(handle, places) if self.by_column else self._read(handle, places)
        if self.bfloat16:
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows, np.float32)

    def _read(self, handle: IO[bytes], places: np.ndarray) -> np.ndarray:
        rows = np.empty((len(places), self.shape[1]), self.dtype)
        width_bytes = rows.itemsize * self.shape[1]
        into = memoryview(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        # One read for each stretch of rows that lie behind one another.
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        for start, end in pairwise([*starts.tolist(), len(places)]):
            handle.seek(self.offset + int(places[start]) * width_bytes)
            part = into[start * width_bytes : end * width_bytes]
            if handle.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise DataError(f"{self.file}: became shorter while it was read. Write it again.")
        return rows

    def _mapped(self, handle: IO[bytes], places: np.ndarray) -> np.ndarray:
        # The numbers of a row lie apart. The map lives for one call: its pages count as memory.
        whole = np.memmap(handle, self.dtype, "r", self.offset, self.shape, "F")
        return np.asarray(whole[places])

    def _open(self) -> AbstractContextManager[IO[bytes]]:
        if isinstance(self.file, Path):
            return self.file.open("rb")
        return nullcontext(self.file)


def open_npy(path: Path) -> Matrix:
    """Return the matrix of a .npy file. Raises DataError for one that would need pickle."""
    with path.open("rb") as handle:
        start = handle.read(1)
    try:
        if start == b"\x80":  # how pickles begin
            raise ValueError("Python objects")
        mapped = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        if "Python objects" in str(error):
            raise DataError(
                f"{path}: holds Python objects (pickle), and reading them could run code. Save the "
                f"vectors as numbers: np.save(PATH, array.astype('float32'))."
            ) from None
        raise unreadable(path, "a whole .npy file", error) from None
    shape, kind = mapped.shape, mapped.dtype
    _is_matrix(path, "the array", shape, str(kind), kind.kind == "f" and kind.itemsize <= 8)
    by_column = not mapped.flags.c_contiguous
    return Matrix(path, kind, (shape[0], shape[1]), mapped.offset, by_column)


def open_safetensors(path: Path, name: str) -> Matrix:
    """Return a tensor of a .safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # checks the header
            known = list(file.keys())
            found = file.get_slice(name) if name in known else None
            kind = found.get_dtype() if found else ""
            shape = tuple(found.get_shape()) if found else ()
    except (SafetensorError, OSError) as error:
        raise unreadable(path, "a whole .safetensors file", error) from None
    if found is None:
        raise DataError(f"{path}: no tensor {name!r} (`name`).{near_miss(name, known)}")
    _is_matrix(path, f"tensor {name!r}", shape, kind, kind in _SAFETENSORS)
    with path.open("rb") as handle:
        size = struct.unpack("<Q", handle.read(8))[0]
        begin = json.loads(handle.read(size))[name]["data_offsets"][0]
    dtype = np.dtype(_SAFETENSORS[kind])
    return Matrix(path, dtype, (shape[0], shape[1]), 8 + size + begin, bfloat16=kind == "BF16")


class Table:
    """A .parquet file with a column of ids and a column of lists."""

    def __init__(self, path: Path, ids: str, name: str) -> None:
        """Raises DataError when the file cannot be read or has no such columns."""
        self.path, self.name = path, name
        with self._readable():
            schema = pq.read_schema(path)
        for key, column in (("ids", ids), ("name", name)):
            if column not in schema.names:
                raise DataError(
                    f"{path}: no column {column!r} (`{key}`).{near_miss(column, schema.names)}"
                )
        kind = schema.field(name).type
        lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(is_one(kind) for is_one in lists) or not pa.types.is_floating(kind.value_type):
            raise DataError(
                f"{path}: column {name!r} holds {kind}, expected lists of float16, float32 or "
                f"float64."
            )
        with self._readable():
            column = pq.read_table(path, columns=[ids], use_threads=False).column(0)
        self.ids = _texts(path, ids, column)

    def lay_out(self, used: np.ndarray, width: int, scratch: Path) -> Matrix:
        """Return the rows `used` (ascending) as a matrix in an unnamed file below `scratch`.

        It needs len(used) * width * 4 bytes of disk while it is used.
        Raises DataError for a list of another length, and for nulls.
        """
        scratch.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # lives as long as the matrix
        start = 0
        for column in self._batches(width):
            inside = used[np.searchsorted(used, start) : np.searchsorted(used, start + len(column))]
            part = column.take(pa.array(inside - start))
            file.write(self._rows(part, inside, width).data.cast("B"))
            start += len(column)
        file.flush()
        return Matrix(file, np.dtype(np.float32), (len(used), width))

    def _rows(self, part: pa.Array, places: np.ndarray, width: int) -> np.ndarray:
        lengths = pc.list_value_length(part).fill_null(-1).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != width)
        if len(wrong):
            found = lengths[wrong[0]]
            what = "no vector" if found < 0 else f"a vector of width {found}"
            raise DataError(
                f"{self.path}: id {self.ids[int(places[wrong[0]])].as_py()!r} has {what} in column "
                f"{self.name!r}, params say {width}. Set `width: N` to the vectors' width, and "
                f"leave rows without a vector out."
            )
        values = part.flatten()
        rows = values.to_numpy(zero_copy_only=False).reshape(-1, width)
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32)
        if values.null_count:  # found by the check for NaN, as any number that is none
            rows[values.is_null().to_numpy(zero_copy_only=False).reshape(-1, width)] = np.nan
        return np.ascontiguousarray(rows)

    def _batches(self, width: int) -> Iterator[pa.Array]:
        # Buffered ahead, a file comes into memory whole.
        with self._readable(), pq.ParquetFile(self.path, pre_buffer=False) as file:
            step = max(1, BATCH_BYTES // (8 * width))
            for batch in file.iter_batches(step, columns=[self.name], use_threads=False):
                yield batch.column(0)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.path, "a whole Parquet file", error) from None


def read_ids(path: Path) -> pa.Array:
    """Return the lines of a text file as large_string. Raises DataError for a blank line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise unreadable(path, "a text file in UTF-8", error) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    if blank := [number for number, line in enumerate(lines, 1) if not line.strip()]:
        raise DataError(
            f"{path}: line {blank[0]} is blank, expected one raw item id per line, in the order of "
            f"the rows. Write the file again."
        )
    return pa.array(lines, pa.large_string())


def unreadable(path: Path, what: str, error: Exception) -> DataError:
    """Return the error for a file that is damaged or of another kind."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DataError(f"{path}: not {what} ({reason}). Write it again, or correct the path.")


def _texts(path: Path, name: str, column: pa.ChunkedArray) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not texts and not pa.types.is_integer(kind):
        raise DataError(
            f"{path}: column {name!r} (`ids`) holds {column.type}, expected text or whole numbers: "
            f"the raw item ids of the catalogue."
        )
    if column.null_count:
        row = pc.index(column.is_null(), pa.scalar(True)).as_py()
        raise DataError(
            f"{path}: column {name!r} (`ids`) has no id in {column.null_count} rows; first: row "
            f"{row + 1}. Leave them out."
        )
    return column.cast(kind).cast(pa.large_string()).combine_chunks()


def _is_matrix(path: Path, what: str, shape: tuple[int, ...], kind: str, floats: bool) -> None:
    if len(shape) != 2 or 0 in shape or not floats:
        raise DataError(
            f"{path}: {what} is {kind} {list(shape)}, expected a matrix [rows, width] of floats "
            f"of at most 64 bits. Write it again as float32."
        )
