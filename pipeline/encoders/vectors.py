"""Vectors made elsewhere, joined to the items of a catalogue by their raw ids.

Items without a vector get the mean of the vectors of all others: equal vectors, so that none of
them is favoured, in the middle of the rest. How many these are is for the caller to report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Vectors
from pipeline.encoders.vectorfile import Matrix, Table, open_npy, open_safetensors, read_ids
from pipeline.errors import ConfigError, DataError
from pipeline.files import sha256_file
from pipeline.params import expand

CHUNK_BYTES = 32 << 20
SHOWN = 5
"""Ids that a message names."""


@dataclass(frozen=True)
class Matched:
    """How vectors and items met."""

    items: int
    """N."""
    matched: int
    """Items with a vector of their own."""
    missing: tuple[str, ...]
    """First few raw ids without one."""
    unused: int
    """Rows of no item."""


@dataclass(frozen=True)
class Joined:
    """The vectors of a catalogue's items."""

    matched: Matched
    identity: dict[str, Any]
    """What the vectors are, for provenance: checksums of the files, and names inside them."""
    _items: pa.Array
    _places: np.ndarray
    """[N] int64, row of each item in `_matrix`, -1 for none."""
    _matrix: Matrix
    _mean: np.ndarray
    """[H] float32."""

    def missing(self) -> Iterator[str]:
        """Yield the raw id of every item without a vector, in the order of the items."""
        for place in np.flatnonzero(self._places < 0):
            yield self._items[int(place)].as_py()

    def rows(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[np.ndarray]:
        """Yield [n, H] float32 in the order of the items, in chunks of bounded size."""
        step = max(1, chunk_bytes // (4 * len(self._mean)))
        for start in range(0, len(self._places), step):
            places = self._places[start : start + step]
            chunk = np.tile(self._mean, (len(places), 1))
            own = places >= 0
            if own.any():
                chunk[own] = self._matrix.take(places[own])
            yield chunk


def join(
    spec: Vectors, base: Path, raw_items: pa.ChunkedArray | Sequence[str], scratch: Path
) -> Joined:
    """Return the vectors of the items, all of them checked once.

    base: folder that relative paths start from. raw_items: [N] raw ids, distinct. scratch: folder
    for a temporary file, as large as the used vectors (.parquet only).
    Reads the file twice, in chunks; ids are held in memory.
    Raises ConfigError for another width, DataError when file or ids are missing or damaged, are
    not those of the checksum, disagree in number, repeat, meet too few items, or hold NaN.
    """
    path = _existing(spec.path, base, "path")
    checksum = sha256_file(path)
    if spec.sha256 not in (None, checksum):
        raise DataError(
            f"{path}: has sha256 {checksum}, params say {spec.sha256}. Get the file again; set the "
            f"new checksum only if you meant to change the vectors."
        )
    identity = {"engine": "vectors", "sha256": checksum, "name": spec.name}
    source: Table | Matrix
    if path.suffix == ".parquet":
        assert spec.name is not None
        source = Table(path, spec.ids, spec.name)
        ids = source.ids
        identity["ids"] = spec.ids
    else:
        listed = _existing(spec.ids, base, "ids")
        source = open_npy(path) if spec.name is None else open_safetensors(path, spec.name)
        ids = read_ids(listed)
        identity["ids"] = sha256_file(listed)
        _fits(spec, path, source.shape, listed, len(ids))
    _distinct(path, ids)
    items = _large(raw_items)
    places = pc.index_in(items, value_set=ids).fill_null(-1).to_numpy().astype(np.int64)
    matched = _matched(items, places, len(ids))
    _enough(spec, path, matched, ids)
    used = np.sort(places[places >= 0])
    if isinstance(source, Table):
        matrix = source.lay_out(used, spec.width, scratch)
        places = np.where(places < 0, -1, np.searchsorted(used, places))
        ids = ids.take(pa.array(used))
        used = np.arange(len(used))
    else:
        matrix = source
    return Joined(matched, identity, items, places, matrix, _mean(path, matrix, used, ids))


def _existing(written: str, base: Path, key: str) -> Path:
    path = expand(written, base)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file (`{key}` of the encoder: {written}). Put it there, or correct "
            f"the path in params.yaml."
        )
    return path


def _fits(spec: Vectors, path: Path, shape: tuple[int, int], listed: Path, count: int) -> None:
    if shape[1] != spec.width:
        raise ConfigError(
            f"{path}: the vectors have width {shape[1]}, params say {spec.width}. Set "
            f"`width: {shape[1]}`."
        )
    if shape[0] != count:
        hint = " A line with a heading does not belong there." if count == shape[0] + 1 else ""
        raise DataError(
            f"{listed}: {count} ids for {shape[0]} rows in {path}. Write one id per line, in the "
            f"order of the rows.{hint}"
        )


def _distinct(path: Path, ids: pa.Array) -> None:
    counts = pc.value_counts(ids)
    again = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(again):
        raise DataError(
            f"{path}: {len(again)} ids stand there more than once; first: "
            f"{_first(again.field('values'))}. Keep one row for each id."
        )


def _matched(items: pa.Array, places: np.ndarray, rows: int) -> Matched:
    without = np.flatnonzero(places < 0)
    missing = items.take(pa.array(without[:SHOWN])).to_pylist()
    count = len(items) - len(without)
    return Matched(len(items), count, tuple(missing), rows - count)


def _enough(spec: Vectors, path: Path, found: Matched, ids: pa.Array) -> None:
    if found.matched >= spec.min_matched * found.items:
        return
    shown = ", ".join(map(repr, found.missing))
    raise DataError(
        f"{path}: {found.matched} of {found.items} items have a vector "
        f"({found.matched / found.items:.1%}), min_matched asks for {spec.min_matched:.1%}. First "
        f"items without: {shown}. First ids of the file: {_first(ids)}. Ids must be the raw item "
        f"ids of the data set, letter by letter. Mend them, or lower min_matched: items without "
        f"get the mean of all others."
    )


def _mean(path: Path, matrix: Matrix, used: np.ndarray, ids: pa.Array) -> np.ndarray:
    """Return the mean of the rows `used`, [H] float32, summed in float64 in the file's order.

    Raises DataError when a row holds NaN or infinity.
    """
    width = matrix.shape[1]
    total = np.zeros(width)
    bad: list[np.ndarray] = []
    step = max(1, CHUNK_BYTES // (4 * width))
    for start in range(0, len(used), step):
        places = used[start : start + step]
        rows = matrix.take(places)
        bad.append(places[~np.isfinite(rows).all(axis=1)])
        with np.errstate(invalid="ignore"):  # refused below
            total += rows.sum(axis=0, dtype=np.float64)
    wrong = np.concatenate(bad)
    if len(wrong):
        raise DataError(
            f"{path}: the vectors of {len(wrong)} items hold NaN, infinity, nulls, or numbers too "
            f"large for float32; first ids: {_first(ids.take(pa.array(wrong[:SHOWN])))}. Mend "
            f"them, or leave these rows out."
        )
    return np.asarray(total / len(used), np.float32)


def _first(ids: pa.Array) -> str:
    return ", ".join(repr(value) for value in ids[:SHOWN].to_pylist())


def _large(raw_items: pa.ChunkedArray | Sequence[str]) -> pa.Array:
    if isinstance(raw_items, pa.ChunkedArray):
        return raw_items.cast(pa.large_string()).combine_chunks()
    return pa.array(raw_items, pa.large_string())
