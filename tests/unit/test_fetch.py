"""Downloads against a server on loopback that misbehaves in every way we have met."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.config import Download
from pipeline.download.fetch import PARTS, REGISTRY, Fetcher, Wanted, alone
from pipeline.download.transfer import content_range, offered_bytes
from pipeline.errors import DataError, ResourceError

BODY = gzip.compress(os.urandom(600_000), compresslevel=0, mtime=0)
SHA = hashlib.sha256(BODY).hexdigest()
NAME = "reviews.json.gz"
STALL_AT = 300_000


@dataclass
class Server:
    """What the server does, and what it was asked."""

    body: bytes = BODY
    ranges: bool = True
    etag: str | None = '"one"'
    drop_after: list[int] = field(default_factory=list)
    """Bytes sent before the connection is cut, one entry per request."""
    answers: list[int] = field(default_factory=list)
    """Status codes sent first."""
    length: int | None = None
    """Content-Length when it lies."""
    stall_s: float = 0.0
    asked: list[str | None] = field(default_factory=list)
    """Range headers, in order."""
    url: str = ""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.body)))
            self.end_headers()

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.asked.append(wanted)
            if server.answers and (code := server.answers.pop(0)) != 200:
                self.send_error(code)
                return
            start, code = 0, 200
            same = self.headers.get("If-Range") in (None, server.etag)
            if wanted and server.ranges and same:
                start, code = int(wanted.removeprefix("bytes=").rstrip("-")), 206
                if start >= len(server.body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(server.body)}")
                    self.end_headers()
                    return
            content = server.body[start:]
            self.send_response(code)
            self.send_header("Content-Length", str(server.length or len(content)))
            if server.etag:
                self.send_header("ETag", server.etag)
            if code == 206:
                whole = len(server.body)
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            self.end_headers()
            if server.drop_after:
                content = content[: server.drop_after.pop(0)]
            if server.stall_s:
                wait, server.stall_s = server.stall_s, 0.0
                self.wfile.write(content[:STALL_AT])
                self.wfile.flush()
                time.sleep(wait)
                content = content[STALL_AT:]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{running.server_port}/{NAME}"
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def fetcher(folder: Path, retries: int = 3, timeout_s: int = 5) -> Fetcher:
    settings = Download(mirror=None, retries=retries, timeout_s=timeout_s, max_unpacked_bytes=10**9)
    return Fetcher(folder, settings, lambda n: None, sleep=lambda s: None)


def wanted(server: Server, sha256: str | None = SHA, size_bytes: int | None = None) -> Wanted:
    return Wanted(server.url, NAME, sha256, size_bytes)


def nothing_kept(folder: Path) -> bool:
    return not (folder / NAME).exists() and not list(folder.glob("tmp*"))


def parts(folder: Path) -> list[str]:
    return [path.name for path in (folder / PARTS).iterdir() if path.is_file()]


def test_file_gets_its_name_and_the_part_goes(tmp_path: Path) -> None:
    with serving(Server()) as server:
        path = fetcher(tmp_path).fetch(wanted(server))
    assert path == tmp_path / NAME and path.read_bytes() == BODY
    assert parts(tmp_path) == []


def test_dropped_connection_resumes_where_it_stopped(tmp_path: Path) -> None:
    with serving(Server(drop_after=[200_000, 100_000])) as server:
        path = fetcher(tmp_path).fetch(wanted(server))
        assert server.asked == [None, "bytes=200000-", "bytes=300000-"]
    assert path.read_bytes() == BODY


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    steps: list[int] = []
    with serving(Server(drop_after=[200_000], ranges=False)) as server:
        settings = fetcher(tmp_path).settings
        Fetcher(tmp_path, settings, steps.append, sleep=lambda s: None).fetch(wanted(server))
    assert sum(steps) == len(BODY)
    assert min(steps) == -200_000  # without ranges it starts again


def test_server_without_ranges_starts_again(tmp_path: Path) -> None:
    with serving(Server(drop_after=[300_000], ranges=False)) as server:
        path = fetcher(tmp_path).fetch(wanted(server))
        assert len(server.asked) == 2
    assert path.read_bytes() == BODY


def test_drop_at_the_same_place_gives_up(tmp_path: Path) -> None:
    with serving(Server(drop_after=[1000] * 50, ranges=False)) as server:
        with pytest.raises(ResourceError, match=r"1000 of \d+; 4 attempts got no further. 1000"):
            fetcher(tmp_path).fetch(wanted(server))
        assert len(server.asked) == 5  # one that got to byte 1000, four that got no further
    assert nothing_kept(tmp_path)


def test_next_command_goes_on_from_the_part(tmp_path: Path) -> None:
    with serving(Server(drop_after=[400_000], answers=[200, 503, 503])) as server:
        with pytest.raises(ResourceError, match="503"):
            fetcher(tmp_path, retries=1).fetch(wanted(server))
        assert (tmp_path / PARTS / NAME).stat().st_size == 400_000
        path = fetcher(tmp_path).fetch(wanted(server))
        assert server.asked[-1] == "bytes=400000-"
    assert path.read_bytes() == BODY


def test_server_error_then_success(tmp_path: Path) -> None:
    with serving(Server(answers=[500, 429])) as server:
        assert fetcher(tmp_path).fetch(wanted(server)).read_bytes() == BODY


def test_not_found_is_not_retried_and_names_the_mirror(tmp_path: Path) -> None:
    with serving(Server(answers=[404])) as server:
        with pytest.raises(DataError, match=r"404 .*may have moved.*download\.mirror"):
            fetcher(tmp_path).fetch(wanted(server))
        assert len(server.asked) == 1
    assert nothing_kept(tmp_path)


def test_nobody_listening_is_a_network_problem(tmp_path: Path) -> None:
    with serving(Server()) as server:
        pass
    with pytest.raises(ResourceError, match="run the same command to go on"):
        fetcher(tmp_path, retries=1).fetch(wanted(server))


def test_wrong_bytes_keep_nothing(tmp_path: Path) -> None:
    other = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with (
        serving(Server(body=other)) as server,
        pytest.raises(DataError, match=f"SHA-256 .* expected {SHA}.* Nothing was kept"),
    ):
        fetcher(tmp_path).fetch(wanted(server))
    assert nothing_kept(tmp_path)
    assert parts(tmp_path) == []


def test_wrong_size_is_refused_before_the_bytes_come(tmp_path: Path) -> None:
    with (
        serving(Server()) as server,
        pytest.raises(DataError, match=f"offers {len(BODY)} bytes, the publisher states 12"),
    ):
        fetcher(tmp_path).fetch(wanted(server, size_bytes=12))
    assert nothing_kept(tmp_path)


def test_promised_length_that_never_comes_gives_up(tmp_path: Path) -> None:
    with (
        serving(Server(length=len(BODY) + 5, ranges=False)) as server,
        pytest.raises(ResourceError, match="attempts got no further"),
    ):
        fetcher(tmp_path, retries=1).fetch(wanted(server))
    assert nothing_kept(tmp_path)


def test_page_instead_of_archive_is_refused(tmp_path: Path) -> None:
    with (
        serving(Server(body=b"<!DOCTYPE html><p>The data have moved")) as server,
        pytest.raises(DataError, match=r"is no \.gz file: it begins with b'<!DOCTYPE"),
    ):
        fetcher(tmp_path).fetch(wanted(server, sha256=None))
    assert nothing_kept(tmp_path) and not (tmp_path / REGISTRY).exists()


def test_stalled_server_times_out_and_resumes(tmp_path: Path) -> None:
    with serving(Server(stall_s=1.5)) as server:
        assert fetcher(tmp_path, timeout_s=1).fetch(wanted(server)).read_bytes() == BODY
        assert server.asked == [None, f"bytes={STALL_AT}-"]


def test_changed_file_is_not_glued_to_an_old_part(tmp_path: Path) -> None:
    old = b"\x1f\x8b" + b"old" * 100_000
    with serving(Server(body=old, etag='"zero"', drop_after=[100_000, 0, 0])) as server:
        with pytest.raises(ResourceError):
            fetcher(tmp_path, retries=1).fetch(wanted(server))
        server.body, server.etag = BODY, '"one"'
        assert fetcher(tmp_path).fetch(wanted(server)).read_bytes() == BODY


def test_changed_file_without_version_is_fetched_once_more(tmp_path: Path) -> None:
    old = b"\x1f\x8b" + b"old" * 100_000
    with serving(Server(body=old, etag=None, drop_after=[100_000, 0, 0])) as server:
        with pytest.raises(ResourceError):
            fetcher(tmp_path, retries=1).fetch(wanted(server))
        server.body = BODY
        assert fetcher(tmp_path).fetch(wanted(server)).read_bytes() == BODY


def test_whole_part_left_by_a_kill_is_taken(tmp_path: Path) -> None:
    with serving(Server(drop_after=[len(BODY) - 1, 0, 0])) as server:
        with pytest.raises(ResourceError):
            fetcher(tmp_path, retries=1).fetch(wanted(server))
        part = tmp_path / PARTS / NAME
        part.write_bytes(BODY)
        assert fetcher(tmp_path).fetch(wanted(server)).read_bytes() == BODY
        assert server.asked[-1] == f"bytes={len(BODY)}-"


def test_first_checksum_is_recorded_and_later_downloads_must_match(tmp_path: Path) -> None:
    with serving(Server()) as server:
        fetcher(tmp_path).fetch(wanted(server, sha256=None))
        assert (tmp_path / REGISTRY).read_text() == f"{NAME} {SHA} {server.url}\n"
        server.body = gzip.compress(b"another")
        fetcher(tmp_path).fetch(wanted(server, sha256=None))  # in the cache: no request
        assert len(server.asked) == 1
        with pytest.raises(DataError, match=r"earlier download.*delete its line in .*registry"):
            fetcher(tmp_path).fetch(wanted(server, sha256=None), force=True)


def test_altered_cached_file_is_fetched_again(tmp_path: Path) -> None:
    with serving(Server()) as server:
        path = fetcher(tmp_path).fetch(wanted(server, sha256=None))
        path.write_bytes(b"\x1f\x8baltered")
        assert fetcher(tmp_path).fetch(wanted(server, sha256=None)).read_bytes() == BODY


def test_mirror_folder_needs_no_server(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror" / NAME
    mirror.parent.mkdir()
    mirror.write_bytes(BODY)
    folder = tmp_path / "cache"
    folder.mkdir()
    path = fetcher(folder).fetch(Wanted(str(mirror), NAME, SHA, len(BODY)))
    assert path.read_bytes() == BODY
    with pytest.raises(DataError, match="no such file in the mirror"):
        fetcher(folder).fetch(Wanted(str(tmp_path / "x.gz"), "x.gz", None, None))


def test_two_downloads_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(ResourceError, match="another download"),
        alone(tmp_path, patience_s=0.1),
    ):
        pass


def test_offered_size_is_asked_for(tmp_path: Path) -> None:
    with serving(Server()) as server:
        assert offered_bytes(server.url, 5) == len(BODY)
    assert offered_bytes(server.url, 5) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 5-9/10", (5, 10)),
        ("bytes 5-9/*", (5, None)),
        ("bytes */10", (-1, 10)),
        (None, (-1, None)),
        ("lines 1-2/3", (-1, None)),
    ],
)
def test_content_range(text: str | None, expected: tuple[int, int | None]) -> None:
    assert content_range(text) == expected


SCRIPT = """
import sys
from pathlib import Path
from pipeline.config import Download
from pipeline.download.fetch import Fetcher, Wanted
settings = Download(mirror=None, retries=0, timeout_s=30, max_unpacked_bytes=1)
Fetcher(Path(sys.argv[1]), settings, lambda n: None).fetch(Wanted(*sys.argv[2:5], None))
"""


def test_killed_download_goes_on(tmp_path: Path) -> None:
    with serving(Server(stall_s=8.0)) as server:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), server.url, NAME, SHA]
        process = subprocess.Popen(command)
        part = tmp_path / PARTS / NAME
        deadline = time.monotonic() + 15
        while not (part.exists() and part.stat().st_size > STALL_AT // 2):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / NAME).exists()
        with alone(tmp_path):  # as every command does; it clears what the kill left
            assert fetcher(tmp_path).fetch(wanted(server)).read_bytes() == BODY
        assert server.asked[1] is not None  # it did not start again
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", PARTS, NAME]
