"""Files of a public data set: Pooch keeps names and checksums, `transfer` moves the bytes.

Bytes collect in `<folder>/.parts/NAME` and get their final name only after size, kind and SHA-256
were checked. A checksum that the publisher does not give is recorded at the first download in
`registry.txt`, with the location; later downloads on this machine must match it, and a file whose
location was changed since then is fetched again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.config import Download
from pipeline.download.transfer import Meter, Transfer, discard, have
from pipeline.errors import DataError, ResourceError
from pipeline.files import sha256_file, write_atomic

logger = logging.getLogger(__name__)

PARTS = ".parts"
REGISTRY = "registry.txt"
MAGIC = {".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".zip": b"PK"}
"""First bytes by name: where a file has moved, the server may answer with a page."""


@dataclass(frozen=True)
class Wanted:
    """One file to fetch."""

    url: str
    """http(s) address, or a path in a mirror folder."""
    name: str
    sha256: str | None
    """From the publisher; None takes the one recorded before, or records it."""
    size_bytes: int | None
    publisher: str | None = None
    """Official location, where `url` is a mirror's."""

    @property
    def official(self) -> str:
        """Where the publisher has it."""
        return self.publisher or self.url


class _Recorded(NamedTuple):
    """What an earlier download found."""

    sha256: str
    official: str | None = None


class Mismatch(Exception):
    """The collected bytes are not the file."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches into one folder, held by `alone`."""

    folder: Path
    settings: Download
    advance: Callable[[int], None]
    """Called with bytes; negative when a server makes us start again."""
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, wanted: Wanted, force: bool = False) -> Path:
        """Return the path of the file, fetching it when it is absent, altered or forced.

        Raises DataError for wrong bytes or a location that does not hold the file, ResourceError
        when the network or the disk gives out; then the same command goes on where it stopped.
        """
        target = self.folder / wanted.name
        part = self.folder / PARTS / wanted.name
        recorded = self._registry().get(wanted.name)
        known = wanted.sha256 or (recorded.sha256 if recorded else None)
        moved = recorded is not None and recorded.official not in (None, wanted.official)
        # Without a record, bytes cannot be told from damaged ones.
        if force or known is None or (moved and wanted.sha256 is None):
            target.unlink(missing_ok=True)
        resumed = have(part) > 0
        try:
            try:
                self._through_pooch(wanted, part, known)
            except Mismatch:
                if not resumed:
                    raise
                logger.warning("%s: the resumed bytes are wrong; starting again", wanted.name)
                self._through_pooch(wanted, part, known)
        except Mismatch as error:
            raise self._wrong(wanted, error) from None
        return target

    def _through_pooch(self, wanted: Wanted, part: Path, known: str | None) -> None:
        import pooch

        pooch.get_logger().setLevel("ERROR")

        def download(url: str, output: str, _: Any) -> None:
            meter = Meter(self.advance)
            Transfer(url, part, wanted.size_bytes, self.settings, meter, self.sleep).collect()
            digest = self._inspect(part, wanted, known)
            if wanted.sha256 is None:
                self._record(wanted, digest)
            part.replace(output)
            discard(part)

        pooch.Pooch(
            path=self.folder,
            base_url="",
            registry={wanted.name: f"sha256:{known}" if known else None},
            urls={wanted.name: wanted.url},
        ).fetch(wanted.name, downloader=download)

    def _inspect(self, part: Path, wanted: Wanted, known: str | None) -> str:
        """Return the checksum; raise Mismatch, and forget the part, when the bytes are wrong."""
        size, digest = have(part), sha256_file(part)
        with part.open("rb") as handle:
            head = handle.read(40)
        magic = MAGIC.get(Path(wanted.name).suffix)
        problem = None
        if wanted.size_bytes not in (None, size):
            problem = f"holds {size} bytes, the publisher states {wanted.size_bytes}"
        elif magic and not head.startswith(magic):
            problem = f"is no {Path(wanted.name).suffix} file: it begins with {head!r}"
        elif known and digest != known:
            problem = f"has SHA-256 {digest}, expected {known}"
        if problem:
            discard(part)
            raise Mismatch(problem)
        return digest

    def _wrong(self, wanted: Wanted, error: Exception) -> DataError:
        if wanted.sha256 is None and wanted.name in self._registry():
            cure = (
                f"The checksum is that of an earlier download; if the publisher changed the file "
                f"on purpose, or you mean another, delete its line in {self.folder / REGISTRY}."
            )
        else:
            cure = "Check the location in params.yaml, or set download.mirror to a copy."
        return DataError(f"{wanted.url}: the file {error}. Nothing was kept. {cure}")

    def _registry(self) -> dict[str, _Recorded]:
        """Return what was recorded: lines `NAME SHA256 LOCATION`, the form Pooch reads.

        Versions before did not write the location.
        """
        try:
            lines = (self.folder / REGISTRY).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        words = (line.split(maxsplit=2) for line in lines)
        return {word[0]: _Recorded(*word[1:]) for word in words if len(word) > 1}

    def _record(self, wanted: Wanted, digest: str) -> None:
        found = self._registry() | {wanted.name: _Recorded(digest, wanted.official)}
        lines = (
            " ".join(filter(None, (name, one.sha256, one.official)))
            for name, one in sorted(found.items())
        )
        write_atomic(self.folder / REGISTRY, "".join(f"{line}\n" for line in lines).encode())


@contextmanager
def alone(folder: Path, patience_s: float = 10.0) -> Iterator[None]:
    """Hold a data set's folder: two commands must not write one file. Clears what kills left.

    Raises ResourceError when another command still holds it after `patience_s`.
    """
    with (folder / ".lock").open("w") as handle:
        deadline = time.monotonic() + patience_s
        while not _held(handle):
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise ResourceError(
                f"{folder}: another download of this data set is running. Wait for it to end, "
                f"then run the same command."
            )
        for orphan in folder.glob("tmp*"):  # Pooch's, after a kill
            orphan.unlink(missing_ok=True)
        yield


def _held(handle: IO[str]) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
