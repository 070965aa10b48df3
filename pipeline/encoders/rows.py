"""Row cache: vectors stored once per meaning and text, outside every DVC output.

`<cache>/rows/<key>/` holds two append-only files. `rows.bin` is the bare float32 matrix;
`index.bin` has one record per row (SHA-256 of the text, rows left in its batch, CRC-32 of hash and
row) and is written after the rows, so a row exists once its record does. A batch counts only when
its last record (left = 0) is there: a process killed at any moment loses at most the batch in
flight, and what it lost is a whole batch, so a resumed run forms the very batches of an
uninterrupted one (the neighbours of a text in a batch move its vector in the last bits).
Appends hold an exclusive lock on the index; readers need none, because rows that are committed are
never moved or changed. A row whose CRC does not fit counts as absent and is encoded again; of two
rows for one text the later wins.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ResourceError
from pipeline.files import write_atomic

RECORD = np.dtype([("text", "<u8", (4,)), ("left", "<u4"), ("crc", "<u4")])
ABSENT = -1
_CHUNK_BYTES = 32 << 20


def key_of(meaning: Mapping[str, Any]) -> str:
    """Return the folder name for vectors of one meaning: SHA-256 of its sorted JSON."""
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def digest(texts: Sequence[str]) -> np.ndarray:
    """Return [n, 4] uint64, the SHA-256 of each text."""
    hashed = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return np.frombuffer(b"".join(hashed), "<u8").reshape(-1, 4)


class RowCache:
    """Rows of one meaning, each found by the hash of its text."""

    def __init__(self, folder: Path, meaning: Mapping[str, Any], width: int) -> None:
        self.width = width
        self.folder = folder / "rows" / key_of(meaning)
        self.index = self.folder / "index.bin"
        self.rows = self.folder / "rows.bin"
        self._meaning = dict(meaning)

    def __len__(self) -> int:
        """Return the number of committed rows, repeated texts included."""
        if not self.index.exists():
            return 0
        with self.index.open("rb") as handle:
            return self._committed(handle.fileno())

    def find(self, texts: np.ndarray) -> np.ndarray:
        """Return [n] int64, where the row of each hash lies, or ABSENT.

        texts: [n, 4] uint64, distinct. Linear in the rows of the cache, and vectorised.
        """
        places = np.full(len(texts), ABSENT, np.int64)
        if not len(texts) or not self.index.exists():
            return places
        # The first 8 bytes select, all 32 decide; distinct hashes that share 8 bytes cost a
        # repeated encode, never a wrong row.
        prefixes = texts[:, 0]
        order = np.argsort(prefixes, kind="stable")
        ordered = prefixes[order]
        with self.index.open("rb") as handle:
            count = self._committed(handle.fileno())
            step = _CHUNK_BYTES // RECORD.itemsize
            for start in range(0, count, step):
                records = np.fromfile(handle, RECORD, min(step, count - start))
                found = records["text"][:, 0]
                at = np.minimum(np.searchsorted(ordered, found), len(ordered) - 1)
                hits = np.flatnonzero(ordered[at] == found)
                wanted = order[at[hits]]
                equal = (texts[wanted] == records["text"][hits]).all(axis=1)
                sound = self._sound(records[hits[equal]], start + hits[equal])
                # Ascending positions: of equal texts the last assignment, the later row, stays.
                places[wanted[equal][sound]] = start + hits[equal][sound]
        return places

    def read(self, places: np.ndarray) -> np.ndarray:
        """Return [n, H] float32, the rows at these places."""
        out = np.empty((len(places), self.width), np.float32)
        if len(places):
            # Mapped anew for each call, so that pages read before do not count as memory.
            whole = self.rows.stat().st_size // (self.width * 4)  # a torn row may follow
            matrix = np.memmap(self.rows, np.float32, "r", shape=(whole, self.width))
            np.take(matrix, places, axis=0, out=out, mode="clip")
        return out

    def append(self, texts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Add one batch, whole or not at all; return the places of its rows.

        texts: [n, 4] uint64. rows: [n, H] float32. Raises ResourceError when the disk is full.
        """
        assert rows.shape == (len(texts), self.width) and rows.dtype == np.float32
        rows = np.ascontiguousarray(rows)
        records = np.empty(len(texts), RECORD)
        records["text"] = texts
        records["left"] = np.arange(len(texts))[::-1]
        records["crc"] = _checksums(records["text"], rows)
        try:
            with self._locked() as (index, data):
                count = self._repair(index, data)
                _write(data, rows.data, count * self.width * 4)
                _write(index, records.data, count * RECORD.itemsize)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceError(
                    f"{self.folder}: no space left for encoded rows. Rows encoded before are kept. "
                    f"Free some space, or set SPECTRAN_CACHE to another disk, and run again."
                ) from error
            raise
        return np.arange(count, count + len(texts))

    def flush(self) -> None:
        """Make appended rows survive a power cut."""
        for file in (self.rows, self.index):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    # ------------------------------------------------------------ inside

    @contextmanager
    def _locked(self) -> Iterator[tuple[int, int]]:
        described = self.folder / "meaning.json"  # for people and for tools that prune
        if not described.exists():
            text = json.dumps({**self._meaning, "width": self.width}, sort_keys=True, indent=1)
            write_atomic(described, text.encode())
        # The rows first: whoever sees the index may count on the rows being there.
        data = os.open(self.rows, os.O_RDWR | os.O_CREAT, 0o666)
        index = os.open(self.index, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(index, fcntl.LOCK_EX)
            yield index, data
        finally:
            os.close(index)  # releases the lock
            os.close(data)

    def _committed(self, index: int) -> int:
        """Return the rows up to the last whole batch that both files hold."""
        stored = self.rows.stat().st_size // (self.width * 4)
        count = min(os.fstat(index).st_size // RECORD.itemsize, stored)
        while count:
            start = max(0, count - 4096)
            data = os.pread(index, (count - start) * RECORD.itemsize, start * RECORD.itemsize)
            ends = np.flatnonzero(np.frombuffer(data, RECORD)["left"] == 0)
            if len(ends):
                return int(start + ends[-1] + 1)
            count = start
        return 0

    def _repair(self, index: int, data: int) -> int:
        """Cut off what a killed writer left behind; the lock is held. Return the rows kept."""
        count = self._committed(index)
        os.ftruncate(index, count * RECORD.itemsize)
        os.ftruncate(data, count * self.width * 4)
        return count

    def _sound(self, records: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return [n] bool: whether each row is what was written."""
        good = np.empty(len(places), bool)
        step = max(1, _CHUNK_BYTES // (self.width * 4))
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            rows = self.read(places[part])
            good[part] = _checksums(records["text"][part], rows) == records["crc"][part]
        return good


def _checksums(texts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    pairs = zip(texts, rows, strict=True)
    values = (zlib.crc32(row.data, zlib.crc32(text.tobytes())) for text, row in pairs)
    return np.fromiter(values, np.uint32, len(rows))


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    left = content.cast("B")
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
