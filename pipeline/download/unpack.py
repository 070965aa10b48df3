"""Archives opened without trust: no path leaves the target, no links or devices, a size limit."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import DataError

CHUNK = 1 << 20


@dataclass(frozen=True)
class _Entry:
    name: str
    regular: bool
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def is_archive(name: str) -> bool:
    """Return whether a file of this name is unpacked."""
    return name.endswith((".zip", ".tar.gz", ".tgz"))


def unpack(archive: Path, members: Sequence[str], target: Path, limit: int) -> dict[str, Path]:
    """Bring the wanted members into the folder `target`, whole or not at all; return their paths.

    members: paths inside the archive; a bare name stands for the one file so called in any folder.
    limit: bytes that may be written. An archive with an unsafe entry is refused, wanted or not.
    Raises DataError.
    """
    scratch = target.with_name(f".unpack-{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        with _entries(archive) as entries:
            found = _choose(archive, list(entries), members)
            left = limit
            for member, entry in found.items():
                left -= _write(archive, entry, scratch / PurePosixPath(member).name, left, limit)
        if target.exists():
            shutil.rmtree(target)
        scratch.replace(target)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as e:
        raise DataError(
            f"{archive}: the archive is damaged ({e}). Run the download with --force."
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {member: target / PurePosixPath(member).name for member in found}


@contextmanager
def _entries(archive: Path) -> Iterator[Iterator[_Entry]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield _zip_entries(archive, packed)
    else:
        with tarfile.open(archive, "r:gz") as tar:
            yield _tar_entries(tar)


def _zip_entries(archive: Path, packed: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in packed.infolist():
        if info.is_dir():
            continue
        if info.flag_bits & 1:
            raise DataError(f"{archive}: {info.filename} is encrypted; it cannot be read.")
        kind = stat.S_IFMT(info.external_attr >> 16)

        def opened(info: zipfile.ZipInfo = info) -> IO[bytes]:
            return packed.open(info)

        yield _Entry(info.filename, kind in (0, stat.S_IFREG), opened)


def _tar_entries(tar: tarfile.TarFile) -> Iterator[_Entry]:
    for info in tar.getmembers():
        if info.isdir():
            continue

        def opened(info: tarfile.TarInfo = info) -> IO[bytes]:
            handle = tar.extractfile(info)
            assert handle is not None
            return handle

        yield _Entry(info.name, info.isreg(), opened)


def _choose(archive: Path, entries: list[_Entry], members: Sequence[str]) -> dict[str, _Entry]:
    for entry in entries:
        path = PurePosixPath(entry.name)
        odd = "\\" in entry.name or ":" in entry.name or "\0" in entry.name
        if path.is_absolute() or ".." in path.parts or odd:
            raise DataError(f"{archive}: refused: the entry {entry.name!r} would leave the folder.")
        if not entry.regular:
            raise DataError(f"{archive}: refused: the entry {entry.name!r} is a link or a device.")
    found = {}
    for member in dict.fromkeys(members):
        hits = [e for e in entries if e.name == member]
        if not hits and "/" not in member:
            hits = [e for e in entries if PurePosixPath(e.name).name == member]
        if len(hits) != 1:
            names = ", ".join(sorted(e.name for e in entries)[:8])
            many = "more than once" if hits else "not"
            raise DataError(f"{archive}: {member} is {many} in the archive. It holds: {names}.")
        found[member] = hits[0]
    short = [PurePosixPath(member).name for member in found]
    assert len(set(short)) == len(short), short
    return found


def _write(archive: Path, entry: _Entry, path: Path, left: int, limit: int) -> int:
    """Stream one entry; return its size. Sizes that an archive states are not believed."""
    written = 0
    with entry.open() as source, path.open("xb") as handle:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > left:
                raise DataError(
                    f"{archive}: unpacks to more than {limit} bytes. If that is right, raise "
                    f"download.max_unpacked_bytes in params.yaml."
                )
            handle.write(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    return written
