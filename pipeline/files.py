"""Files that are either whole or absent, and the hashes that name them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ResourceError

TEMPORARY = ".tmp"
"""Folder of unfinished files: below an output root, and below each folder of it that lies on
another disk. DVC is told to ignore it."""

DEPTH = 6
"""Folders from an output root to a file of a cell."""


@contextmanager
def atomic(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` (fsync, then rename) when the block succeeds.

    scratch: folder of that name for the temporary file, below the output root. Default, and for a
    path outside that root on another disk: `path.parent/.tmp`.
    Raises ResourceError when the disk is full; the unfinished file is removed in every case.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{uuid.uuid4().hex}{path.suffix}"
        temporary = _on_its_disk(path, scratch) / name
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{path}: no space left on the disk. Nothing was written under that name. "
                f"Free some space and run the same command again."
            ) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _on_its_disk(path: Path, scratch: Path | None) -> Path:
    """Make and return the folder from which a file can be renamed to `path`, whose folder exists.

    On a disk of its own that is the highest folder below the output root: outputs lie below it.
    """
    place = path.parent
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
        disk, root = _disk(place), scratch.parent
        if _disk(scratch) == disk:
            return scratch
        if root in place.parents:
            while place.parent != root and _disk(place.parent) == disk:
                place = place.parent
    (place / TEMPORARY).mkdir(parents=True, exist_ok=True)
    return place / TEMPORARY


def _disk(folder: Path) -> object:
    """Return what tells the file system of a folder, through links."""
    return folder.stat().st_dev


def write_atomic(path: Path, content: bytes, scratch: Path | None = None) -> None:
    """Write bytes to `path` so that readers see the old file or the whole new one."""
    with atomic(path, scratch) as temporary, temporary.open("wb") as handle:
        handle.write(content)


def make_shared(folder: Path) -> None:
    """Make a folder and those above it; each gives the group what the one above gives it."""
    if folder.is_dir():
        return
    make_shared(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        share(folder)


def share(path: Path) -> None:
    """Give the group the rights to a new file or folder that it has to the folder around it.

    So colleagues can go on with each other's work in a folder they share, whatever the umask.
    """
    with suppress(FileNotFoundError):  # removed meanwhile by another process
        if path.parent.stat().st_mode & stat.S_IWGRP:
            path.chmod(path.stat().st_mode | (0o070 if path.is_dir() else 0o060))


def open_shared(path: Path) -> int:
    """Open a file for reading and writing, made where it is new; return its descriptor."""
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            share(path)
            return descriptor


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def scratches(root: Path) -> Iterator[Path]:
    """Yield the folders of unfinished files below an output root."""
    for depth in range(DEPTH):
        yield from root.glob("*/" * depth + TEMPORARY)


def remove_orphans(scratch: Path) -> int:
    """Delete temporary files and folders whose process is gone; return how many.

    Safe beside running work.
    """
    removed = 0
    for found in scratch.glob("*-*") if scratch.is_dir() else ():
        owner = found.name.split("-", 1)[0]
        if owner.isdigit() and not _alive(int(owner)):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)
            removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
