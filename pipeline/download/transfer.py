"""Bytes from a server or a folder into a part file, resumed after drops, kills and full disks."""

from __future__ import annotations

import errno
import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.config import Download
from pipeline.errors import DataError, ResourceError
from pipeline.files import write_atomic

CHUNK = 1 << 18
AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be different a moment later."""
LONGEST_WAIT_S = 30.0
HEADERS = {"User-Agent": "spectran", "Accept-Encoding": "identity"}


class Stale(Exception):
    """The bytes collected so far do not belong to the file that the server offers now."""


class Drop(Exception):
    """An attempt ended early; another may succeed."""


@dataclass
class Meter:
    """Turns positions into steps of a progress bar, backwards where an attempt starts again."""

    advance: Callable[[int], None]
    shown: int = 0

    def at(self, position: int) -> None:
        """Show that the part holds `position` bytes."""
        self.advance(position - self.shown)
        self.shown = position


@dataclass(frozen=True)
class Transfer:
    """One file on its way to `part`."""

    url: str
    """http(s) address, or a local path."""
    part: Path
    size_bytes: int | None
    """Stated by the publisher."""
    settings: Download
    meter: Meter
    sleep: Callable[[float], None] = time.sleep

    def collect(self) -> None:
        """Bring the whole file to `part`. Retries count afresh whenever an attempt got further.

        Raises ResourceError when attempts, or the disk, run out (the part is kept), and DataError
        when the location does not hold the file.
        """
        self.part.parent.mkdir(parents=True, exist_ok=True)
        furthest, tries = have(self.part), 0
        while True:
            try:
                return self._attempt()
            except Stale:
                discard(self.part)
                reason = "the file at the server changed"
            except Drop as drop:
                reason = str(drop)
            tries = 0 if have(self.part) > furthest else tries + 1
            furthest = max(furthest, have(self.part))
            if tries > self.settings.retries:
                raise ResourceError(
                    f"{self.url}: {reason}; {tries} attempts got no further. {have(self.part)} "
                    f"bytes are kept: run the same command to go on. Where the network is closed, "
                    f"set download.mirror in params.yaml."
                )
            self.sleep(min(LONGEST_WAIT_S, 0.5 * 2**tries))

    def _attempt(self) -> None:
        try:
            if "://" in self.url:
                self._request()
            else:
                self._copy()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ResourceError(
                f"{self.part}: no space left on the disk. The bytes so far are kept: free some "
                f"space and run the same command again."
            ) from error

    def _request(self) -> None:
        """Ask for what the part lacks and append it."""
        start = have(self.part)
        notes = _read_notes(self.part)
        if start and notes.get("url") != self.url:
            raise Stale
        headers = dict(HEADERS)
        if start:
            headers["Range"] = f"bytes={start}-"
            if notes.get("version"):
                headers["If-Range"] = notes["version"]
        try:
            request = urllib.request.Request(self.url, headers=headers)
            with urllib.request.urlopen(request, timeout=self.settings.timeout_s) as response:
                total = self._receive(response, start)
        except urllib.error.HTTPError as error:
            self._refused(error, start)
            return
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
            raise Drop(str(getattr(error, "reason", error)) or type(error).__name__) from None
        except (ConnectionError, ssl.SSLError) as error:
            raise Drop(str(error) or type(error).__name__) from None
        if total is not None and have(self.part) != total:
            raise Drop(f"the connection ended at byte {have(self.part)} of {total}")

    def _receive(self, response: Any, start: int) -> int | None:
        """Write the body at its place; return the size of the whole file, if the server says it."""
        if response.status == 206:
            first, total = content_range(response.headers.get("Content-Range"))
            if first != start:
                raise Stale
        else:  # all of it: no ranges here, or another file than the part's
            start, total = 0, content_length(response)
        if None not in (total, self.size_bytes) and total != self.size_bytes:
            raise DataError(
                f"{self.url}: the server offers {total} bytes, the publisher states "
                f"{self.size_bytes}. Check the location and size_bytes in params.yaml."
            )
        etag = response.headers.get("ETag") or ""
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        notes = json.dumps({"url": self.url, "version": version})
        write_atomic(notes_of(self.part), notes.encode())
        with self.part.open("r+b" if self.part.exists() else "wb") as handle:
            handle.truncate(start)
            handle.seek(start)
            self._pour(response, handle, start)
        return total

    def _refused(self, error: urllib.error.HTTPError, start: int) -> None:
        if error.code == 416:  # nothing left to send: the part is whole, or of another file
            if start and content_range(error.headers.get("Content-Range"))[1] == start:
                self.meter.at(start)
                return
            raise Stale from None
        if error.code in AGAIN:
            raise Drop(f"the server answers {error.code} {error.reason}") from None
        raise DataError(
            f"{self.url}: the server answers {error.code} {error.reason}. The file may have moved: "
            f"look at the publisher's page and correct the location in params.yaml, or set "
            f"download.mirror to a copy."
        ) from None

    def _copy(self) -> None:
        """Copy from a mirror folder, from the start: it is near."""
        if not Path(self.url).is_file():
            raise DataError(
                f"{self.url}: no such file in the mirror. Put it there, or set download.mirror "
                f"to null."
            )
        with Path(self.url).open("rb") as source, self.part.open("wb") as handle:
            self._pour(source, handle, 0)

    def _pour(self, source: IO[bytes], handle: IO[bytes], position: int) -> None:
        self.meter.at(position)
        # read1 hands over what has arrived, so that a stall loses nothing.
        read = getattr(source, "read1", source.read)
        while chunk := read(CHUNK):
            handle.write(chunk)
            position += len(chunk)
            self.meter.at(position)


def have(part: Path) -> int:
    """Return the bytes collected so far."""
    return part.stat().st_size if part.exists() else 0


def discard(part: Path) -> None:
    """Forget a part and what is noted about it."""
    part.unlink(missing_ok=True)
    notes_of(part).unlink(missing_ok=True)


def notes_of(part: Path) -> Path:
    """Return the path of what is known about a part: its address and version."""
    return part.with_name(part.name + ".json")


def _read_notes(part: Path) -> dict[str, Any]:
    try:
        notes = json.loads(notes_of(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def content_range(text: str | None) -> tuple[int, int | None]:
    """Return (start, total) of `bytes 5-9/10` or `bytes */10`; start -1 where there is none."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", text or "")
    if not match:
        return -1, None
    return int(match[1] or -1), None if match[2] == "*" else int(match[2])


def content_length(response: Any) -> int | None:
    """Return the size that an answer states."""
    text = response.headers.get("Content-Length") or ""
    return int(text) if text.isdigit() else None


def offered_bytes(url: str, timeout_s: float) -> int | None:
    """Return the size that a server or folder states for a file; None when it does not."""
    if "://" not in url:
        return Path(url).stat().st_size if Path(url).is_file() else None
    request = urllib.request.Request(url, method="HEAD", headers=HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return content_length(response)
    except (OSError, http.client.HTTPException):
        return None
