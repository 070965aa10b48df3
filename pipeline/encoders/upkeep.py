"""Looking after the row cache: what lies there, whether it is sound, and taking away.

Everything here may run beside encoding. Nothing is removed before what replaces it is on the disk
under its own name, so a process killed in between leaves rows twice, never none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encoders.locks import USED, Presence, refusals
from pipeline.encoders.rows import FOLDER, FORMAT, MEANING, RowCache, unpack
from pipeline.encoders.shard import (
    CHUNK_BYTES,
    INDEX,
    RECORD,
    ROWS,
    Shard,
    Writer,
    numbers,
    place,
    unlink,
)
from pipeline.files import TEMPORARY


@dataclass(frozen=True)
class Strange:
    """A folder that this version cannot read; it is never touched."""

    folder: Path
    reason: str
    damaged: bool
    """Whether it is damage, not another version's work."""


@dataclass(frozen=True)
class Stored:
    """The rows of one meaning."""

    folder: Path
    meaning: dict[str, Any]
    width: int

    @cached_property
    def cache(self) -> RowCache:
        """The rows, opened without noting a use."""
        root = self.folder.parent.parent
        return RowCache(root, self.meaning, self.width, upkeep=True)

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return _bytes(path for path in self.folder.rglob("*") if not path.is_dir())

    @property
    def used(self) -> float:
        """Time of the last use, seconds since 1970."""
        path = self.folder / USED
        return (path if path.exists() else self.folder).stat().st_mtime


def stored(root: Path) -> Iterator[Stored | Strange]:
    """Yield what lies in the row cache below `root`, in the order of the keys."""
    area = root / FOLDER
    for folder in sorted(area.iterdir()) if area.is_dir() else ():
        # A folder without a meaning and without rows is one where a writer begins.
        begun = folder.is_dir() and {path.name for path in folder.iterdir()} - {TEMPORARY, USED}
        if begun and folder.name != TEMPORARY:
            yield _described(root, folder)


def _described(root: Path, folder: Path) -> Stored | Strange:
    path = folder / MEANING
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        form = content.get("format", "without a number")
        if form != FORMAT:
            known = f"{path}: format {form}, this version reads {FORMAT}"
            return Strange(folder, f"{known}. Use the version that made it.", damaged=False)
        found = Stored(folder, content["meaning"], content["width"])
        if found.cache.folder == folder:
            return found
        reason = "describes other rows"
    except FileNotFoundError:
        reason = "is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = "cannot be read"
    reason = (
        f"{path} {reason}. `spectran encode` with the encoder of these rows writes it again; "
        f"delete the folder where no block of `encoders` made them."
    )
    return Strange(folder, reason, damaged=True)


# ---------------------------------------------------------------- verify


def problems(found: Stored, advance: Callable[[int], None]) -> Iterator[str]:
    """Read every row; yield what is wrong. advance: called with the number of rows read."""
    opened = set()
    with closing(found.cache):
        for _, shard in found.cache.shards():
            opened.add(shard.number)
            count, bad = shard.committed(), 0
            for start, records in shard.records(count):
                rows = np.arange(start, start + len(records))
                bad += int((~shard.sound(records, rows)).sum())
                advance(len(records))
            if bad:
                yield f"{shard.path}: {bad} of {count} rows are not what was written"
            if torn := shard.torn_bytes():
                yield f"{shard.path}: {torn} bytes are no whole batch (cut, or a run was killed)"
    for number in sorted(set(numbers(found.folder)) - opened):
        if half := _size(found.folder, number):
            path = place(found.folder, number, ROWS)
            yield f"{path}: {half} bytes without its other half, {ROWS} or {INDEX}"


# ---------------------------------------------------------------- prune


@dataclass(frozen=True)
class Freed:
    """What was taken away, or would be."""

    size_bytes: int = 0
    rows: int = 0
    """Damaged ones and those that a later row replaces."""
    busy: int = 0
    """Shards left alone because a running process extends them."""

    def __add__(self, other: Freed) -> Freed:
        return Freed(
            self.size_bytes + other.size_bytes, self.rows + other.rows, self.busy + other.busy
        )


def mend(found: Stored, *, dry_run: bool) -> Freed:
    """Take away damaged, torn and replaced rows. Raises ResourceError when the disk is full.

    A shard with such rows is copied without them under a new number and then removed; who reads
    it meanwhile keeps it.
    """
    total = Freed()
    with refusals(found.folder), closing(found.cache):
        if dry_run:
            return sum((_waste(found, number) for number in numbers(found.folder)), total)
        with suppress(FileNotFoundError), closing(Presence(found.folder, alone=False)):
            for number in numbers(found.folder):
                total += _mend(found, number)
    return total


def remove(found: Stored, *, dry_run: bool) -> Freed:
    """Take away all rows of a meaning, unless a running process writes some."""
    with closing(found.cache):
        freed = Freed(found.size_bytes, len(found.cache))
    if dry_run:
        return freed
    try:
        presence = Presence(found.folder, alone=True)
    except BlockingIOError:
        return Freed(busy=len(numbers(found.folder)))
    except FileNotFoundError:
        return Freed()
    with closing(presence):
        for number in numbers(found.folder):
            unlink(found.folder, number)
        shutil.rmtree(found.folder / TEMPORARY, ignore_errors=True)
        (found.folder / MEANING).unlink(missing_ok=True)
        # Last the file that carries the lock: until then nobody begins to write here.
        (found.folder / USED).unlink(missing_ok=True)
        with suppress(OSError):  # not empty: a new writer has begun
            found.folder.rmdir()
    return freed


def _waste(found: Stored, number: int) -> Freed:
    """Return what `mend` would free of a shard."""
    opened = _opened(found, number)
    if opened is None:
        return Freed(_size(found.folder, number))
    slot, shard = opened
    dropped = int((~_kept(found.cache, slot, shard)).sum())
    return Freed(shard.torn_bytes() + dropped * (RECORD.itemsize + found.width * 4), dropped)


def _mend(found: Stored, number: int) -> Freed:
    before = _size(found.folder, number)
    writer = Writer.take(found.folder, number, found.width)
    if writer is None:
        return Freed(busy=1)
    after = 0
    with closing(writer):
        opened = _opened(found, number)
        assert opened is not None
        slot, shard = opened
        keep = _kept(found.cache, slot, shard)
        if len(keep) and keep.all():
            after = _size(found.folder, number)
        else:
            if keep.any():
                after = _size(found.folder, _copy(found, shard, keep))
            unlink(found.folder, number)
    return Freed(before - after, int((~keep).sum()))


def _kept(cache: RowCache, slot: int, shard: Shard) -> np.ndarray:
    """Return [n] bool: whether a look-up of its text gives this very row.

    Of equal rows the highest stays. So each row that goes is replaced by a sound one above it, and
    two processes that do this at once cannot take each other's.
    """
    keep = np.zeros(shard.committed(), bool)
    for start, records in shard.records(len(keep), CHUNK_BYTES):
        prefixes = records["text"][:, 0]
        _, first, which = np.unique(prefixes, return_index=True, return_inverse=True)
        slots, rows = unpack(cache.find(records["text"][first])[which])
        own = np.arange(start, start + len(records))
        keep[own] = (slots == slot) & (rows == own)
    return keep


def _copy(found: Stored, shard: Shard, keep: np.ndarray) -> int:
    """Write the rows that stay under a new number, checksums as they were; return the number."""
    target = None
    while target is None or target.size_bytes:  # taken or filled by a new writer meanwhile
        target = Writer.take(found.folder, numbers(found.folder)[-1] + 1, found.width)
    with closing(target):
        try:
            step = max(1, CHUNK_BYTES // (found.width * 4))
            for start, records in shard.records(len(keep), step * RECORD.itemsize):
                rows = np.flatnonzero(keep[start : start + len(records)])
                if len(rows):
                    target.append(records[rows], shard.take(start + rows))
            target.flush()
        except BaseException:
            unlink(found.folder, target.number)
            raise
    return target.number


def _opened(found: Stored, number: int) -> tuple[int, Shard] | None:
    return next((pair for pair in found.cache.shards() if pair[1].number == number), None)


def _size(folder: Path, number: int) -> int:
    return _bytes(place(folder, number, suffix) for suffix in (ROWS, INDEX))


def _bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
