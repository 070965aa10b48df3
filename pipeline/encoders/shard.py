"""One shard of cached rows: two append-only files, and the lock of the process that extends them.

`NNNN.bin` is the bare float32 matrix; `NNNN.index` has one record per row (SHA-256 of the text,
rows left in its batch, tokens of the text, CRC-32 of hash, tokens and row) and is written after the
rows, so a row exists once its record does. A batch counts only when its last record (left = 0) is
there: a process killed at any moment loses at most the batch in flight, and what it lost is a whole
batch, so a resumed run forms the very batches of an uninterrupted one (the neighbours of a text in
a batch move its vector in the last bits).

Only the holder of the exclusive lock on `NNNN.bin` changes a shard, and rows that are committed are
never moved or changed, so readers need no lock. A reader keeps its files open: a shard that is
removed meanwhile stays readable for it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import weakref
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.encoders.locks import lock, same
from pipeline.errors import ArtifactError
from pipeline.files import fsync_folder, open_shared

RECORD = np.dtype(
    [
        ("text", "<u8", (4,)),
        ("left", "<u4"),
        ("tokens", "<u4"),
        ("crc", "<u4"),
        ("zero", "<u4"),  # keeps the hashes aligned, which halves the time of a scan
    ]
)
ROWS, INDEX = ".bin", ".index"
CHUNK_BYTES = 32 << 20
_SCAN_BYTES = 1 << 20  # fits the processor's cache: half the time of CHUNK_BYTES
_NAME = re.compile(r"(\d{4,})\.(bin|index)")


def place(folder: Path, number: int, suffix: str) -> Path:
    """Return the path of one file of a shard."""
    return folder / f"{number:04d}{suffix}"


def numbers(folder: Path) -> list[int]:
    """Return the shards that have any file in a folder, ascending."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted({int(match[1]) for name in names if (match := _NAME.fullmatch(name))})


def unlink(folder: Path, number: int) -> None:
    """Delete a shard that is locked. The index goes first: nobody finds rows without one."""
    place(folder, number, INDEX).unlink(missing_ok=True)
    place(folder, number, ROWS).unlink(missing_ok=True)


class Shard:
    """A shard as readers see it.

    Raises FileNotFoundError when one of its files is not there.
    """

    def __init__(self, folder: Path, number: int, width: int) -> None:
        self.number = number
        self.width = width
        self.path = place(folder, number, ROWS)
        # The writer makes the rows first: whoever sees the index may count on them.
        index = os.open(place(folder, number, INDEX), os.O_RDONLY)
        try:
            rows = os.open(self.path, os.O_RDONLY)
        except OSError:
            os.close(index)
            raise
        self._index, self._rows = index, rows
        self.close = weakref.finalize(self, _close, index, rows)

    @property
    def stands(self) -> bool:
        """Whether the files of this name are still the ones that are open."""
        return same(self._rows, self.path)

    @property
    def size_bytes(self) -> int:
        """Size of both files."""
        return os.fstat(self._index).st_size + os.fstat(self._rows).st_size

    def torn_bytes(self) -> int:
        """Return the bytes after the last whole batch that no live writer is about to complete."""
        try:
            fcntl.flock(self._rows, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0  # a batch in flight
        try:
            return self.size_bytes - self.committed() * (RECORD.itemsize + self.width * 4)
        finally:
            fcntl.flock(self._rows, fcntl.LOCK_UN)

    def committed(self) -> int:
        """Return the rows up to the last whole batch that both files hold."""
        return _committed(self._index, self._rows, self.width)

    def records(self, count: int, chunk_bytes: int = _SCAN_BYTES) -> Iterator[tuple[int, Records]]:
        """Yield the first `count` records in chunks, each with its place; valid until the next."""
        step = max(1, chunk_bytes // RECORD.itemsize)
        buffer = np.empty(min(step, count), RECORD)
        for start in range(0, count, step):
            part = buffer[: min(step, count - start)]
            self._fill(part, start)
            yield start, part

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return [n, H] float32, the rows of these numbers. Raises ArtifactError when cut off."""
        out = np.empty((len(rows), self.width), np.float32)
        if len(rows):
            matrix = self._mapped(self._rows, np.dtype((np.float32, self.width)), int(rows.max()))
            np.take(matrix, rows, axis=0, out=out, mode="clip")  # other modes buffer `out`
        return out

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Return [n] uint32, what was recorded as the tokens of these rows."""
        if not len(rows):
            return np.empty(0, np.uint32)
        found = self._mapped(self._index, RECORD, int(rows.max()))["tokens"][rows]
        return np.asarray(found, np.uint32)

    def sound(self, records: Records, rows: np.ndarray) -> np.ndarray:
        """Return [n] bool: whether each row is what was written. rows: [n] int64, their numbers."""
        good = np.empty(len(rows), bool)
        step = max(1, CHUNK_BYTES // (self.width * 4))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            values = self.take(rows[part])
            good[part] = checksums(records[part], values) == records["crc"][part]
        return good

    def _fill(self, part: Records, start: int) -> None:
        view, offset = part.view(np.uint8), start * RECORD.itemsize
        while len(view):
            count = os.preadv(self._index, [view.data], offset)
            if not count:
                raise self._cut()
            view, offset = view[count:], offset + count

    def _mapped(self, descriptor: int, kind: np.dtype, last: int) -> np.ndarray:
        """Return a file as an array that reaches to `last` and more.

        Mapped anew for each call, so that pages read before do not count as memory.
        """
        whole = os.fstat(descriptor).st_size // kind.itemsize  # a torn row may follow
        if last >= whole:
            raise self._cut()
        mapped = mmap.mmap(descriptor, whole * kind.itemsize, prot=mmap.PROT_READ)
        base, shape = kind.subdtype or (kind, ())
        return np.frombuffer(mapped, base).reshape(whole, *shape)

    def _cut(self) -> ArtifactError:
        return ArtifactError(
            f"{self.path}: rows that were there are gone: the file was cut while it was read. "
            f"Run the same command again; texts that lost their row are then encoded again."
        )


Records = np.ndarray
"""[n] of RECORD."""


class Writer:
    """The one process that may extend a shard; the lock goes with the object or the process."""

    def __init__(self, folder: Path, number: int, width: int, index: int, rows: int) -> None:
        self.folder = folder
        self.number = number
        self.width = width
        self._index, self._rows = index, rows
        self.close = weakref.finalize(self, _close, index, rows)

    @classmethod
    def take(cls, folder: Path, number: int, width: int) -> Writer | None:
        """Return the writer of a shard, made where it is new; None while another process has it."""
        path = place(folder, number, ROWS)
        rows = open_shared(path)
        try:
            # The one who held the lock before may have removed the file.
            free = lock(rows) and same(rows, path)
            index = open_shared(place(folder, number, INDEX)) if free else None
        except OSError:
            os.close(rows)
            raise
        if index is None:
            os.close(rows)
            return None
        writer = cls(folder, number, width, index, rows)
        writer.repair()
        return writer

    @property
    def size_bytes(self) -> int:
        """Size of the rows."""
        return os.fstat(self._rows).st_size

    def repair(self) -> int:
        """Cut off what a killed writer left behind; return the rows kept."""
        count = _committed(self._index, self._rows, self.width)
        os.ftruncate(self._index, count * RECORD.itemsize)
        os.ftruncate(self._rows, count * self.width * 4)
        return count

    def append(self, records: Records, rows: np.ndarray) -> int:
        """Add one batch, whole or not at all; return the number of its first row.

        records: [n] with text, tokens and crc. rows: [n, H] float32.
        """
        records["left"] = np.arange(len(records))[::-1]
        count = self.repair()
        try:
            _write(self._rows, np.ascontiguousarray(rows), count * self.width * 4)
            _write(self._index, records, count * RECORD.itemsize)
        except BaseException:
            with suppress(OSError):  # the next append repairs; the first error is the one to tell
                self.repair()
            raise
        return count

    def flush(self) -> None:
        """Make appended rows survive a power cut."""
        os.fsync(self._rows)
        os.fsync(self._index)
        fsync_folder(self.folder)


def checksums(records: Records, rows: np.ndarray) -> np.ndarray:
    """Return [n] uint32, the CRC-32 of each hash, its tokens and its row."""
    heads = np.empty(len(records), np.dtype([("text", "<u8", (4,)), ("tokens", "<u4")]))
    heads["text"], heads["tokens"] = records["text"], records["tokens"]
    head, row = heads.view(np.uint8).data, np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    body, a, b = row.data, heads.itemsize, rows.shape[1] * rows.itemsize
    values = (
        zlib.crc32(body[n * b : n * b + b], zlib.crc32(head[n * a : n * a + a]))
        for n in range(len(records))
    )
    return np.fromiter(values, np.uint32, len(records))


def _committed(index: int, rows: int, width: int) -> int:
    stored = os.fstat(rows).st_size // (width * 4)
    count = min(os.fstat(index).st_size // RECORD.itemsize, stored)
    while count:
        start = max(0, count - 4096)
        data = os.pread(index, (count - start) * RECORD.itemsize, start * RECORD.itemsize)
        whole = len(data) // RECORD.itemsize  # fewer when the writer cuts a torn tail just now
        ends = np.flatnonzero(np.frombuffer(data[: whole * RECORD.itemsize], RECORD)["left"] == 0)
        if len(ends):
            return int(start + ends[-1] + 1)
        count = start
    return 0


def _write(descriptor: int, content: np.ndarray, offset: int) -> None:
    left = content.reshape(-1).view(np.uint8).data
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
