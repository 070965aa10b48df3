"""Files that are either whole or absent, and the hashes that name them."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ResourceError

TEMPORARY = ".tmp"
"""Folder of unfinished files below an output root. It lies outside every DVC output."""


@contextmanager
def atomic(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` (fsync, then rename) when the block succeeds.

    scratch: folder for the temporary file, on the same file system; default `path.parent/.tmp`.
    Raises ResourceError when the disk is full; the unfinished file is removed in every case.
    """
    scratch = scratch or path.parent / TEMPORARY
    temporary = scratch / f"{os.getpid()}-{uuid.uuid4().hex}{path.suffix}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{path}: no space left on the disk. Nothing was written under that name. "
                f"Free some space and run the same command again."
            ) from error
        raise
    finally:
        with suppress(NotADirectoryError):  # the folder could not be made; its reason is told
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes, scratch: Path | None = None) -> None:
    """Write bytes to `path` so that readers see the old file or the whole new one."""
    with atomic(path, scratch) as temporary, temporary.open("wb") as handle:
        handle.write(content)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def remove_orphans(scratch: Path) -> int:
    """Delete temporary files whose process is gone; return how many. Safe beside running work."""
    removed = 0
    for file in scratch.glob("*-*") if scratch.is_dir() else ():
        owner = file.name.split("-", 1)[0]
        if owner.isdigit() and not _alive(int(owner)):
            file.unlink(missing_ok=True)
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


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
