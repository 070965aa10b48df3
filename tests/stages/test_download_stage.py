"""`spectran download`: from a source to a manifest, and from the manifest back to the bytes."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.artifacts import RAW, load_json
from pipeline.download import rawfiles
from pipeline.download.rawfiles import locate
from pipeline.errors import ArtifactError, ConfigError, DataError, ResourceError
from pipeline.params import load
from stages.download import download
from stages.run import Run

DEMO = {"kind": "synthetic", "users": 60, "items": 30, "seed": 7}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)


def project(base: Path, origin: dict[str, Any], mirror: str | None = None) -> Path:
    """Write params.yaml with one data set `own`, and return its path."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    block = raw["datasets"]["demo"]
    block["source"]["origin"] = origin
    raw["datasets"] = {"own": block}
    raw["grid"]["dataset"] = ["own"]
    raw["download"] |= {"mirror": mirror, "retries": 1, "timeout_s": 5}
    path = base / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def remote(url: str, **known: Any) -> dict[str, Any]:
    return {"url": url, "sha256": None, "size_bytes": None, "member": None} | known


def web(reviews: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    files = {"reviews": reviews, "metadata": metadata}
    return {"kind": "web", "files": files, "read_from": "a test", "terms": "for tests only"}


def run(params: Path, **options: Any) -> Run:
    return Run(name="download", params_path=params, **options)


def manifest(base: Path) -> dict[str, Any]:
    return load_json(RAW, base / "artifacts", dataset="own")


def located(params: Path) -> dict[str, Path]:
    source = load(params).dataset("own").source
    return locate(manifest(params.parent), source, params.parent / ".cache", params.parent)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_demo_is_generated_and_the_manifest_is_stable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = project(tmp_path, DEMO)
    download(run(params), "own")
    first = RAW.path(tmp_path / "artifacts", dataset="own").read_bytes()
    assert "synthetic" in capsys.readouterr().out
    download(run(params, force=True), "own")
    assert "Next: spectran preprocess own" in capsys.readouterr().out
    assert RAW.path(tmp_path / "artifacts", dataset="own").read_bytes() == first
    assert str(tmp_path).encode() not in first
    assert set(located(params)) == {"reviews", "metadata"}
    # The bytes are not a DVC output, so they cannot be pushed.
    assert [p.name for p in (tmp_path / "artifacts").rglob("*") if p.is_file()] == ["own.json"]


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(run(project(tmp_path, DEMO), dry_run=True), "own")
    assert "artifacts/raw/own.json" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


def test_web_files_arrive_with_their_origin(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "r.json").write_bytes(b"reviews")
    (tmp_path / "m.json").write_bytes(b"metadata")
    with served(tmp_path) as url:
        params = project(tmp_path, web(remote(f"{url}/r.json"), remote(f"{url}/m.json")))
        download(run(params), "own")
        out = capsys.readouterr().out
    assert "terms: for tests only" in out and "size: 15 B" in out
    entry = manifest(tmp_path)["files"]["reviews"]
    digest = hashlib.sha256(b"reviews").hexdigest()
    assert entry == {
        "name": "r.json",
        "origin": f"{url}/r.json",
        "sha256": digest,
        "size_bytes": 7,
    }
    assert located(params)["reviews"].read_bytes() == b"reviews"
    download(run(params), "own")  # from the cache: the server is gone


def test_a_changed_location_is_asked_though_the_name_is_the_same(tmp_path: Path) -> None:
    for place, content in (("old", b"reviews"), ("moved", b"reviews"), ("other", b"others")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "r.json").write_bytes(content)
    (tmp_path / "m.json").write_bytes(b"metadata")
    with served(tmp_path) as url:

        def fetched(place: str) -> dict[str, Any]:
            origin = web(remote(f"{url}/{place}/r.json"), remote(f"{url}/m.json"))
            download(run(project(tmp_path, origin)), "own")
            return dict(manifest(tmp_path)["files"]["reviews"])

        first = fetched("old")
        assert fetched("moved") == first | {"origin": f"{url}/moved/r.json"}
        with pytest.raises(DataError, match=r"you mean another, delete its line in .*registry"):
            fetched("other")
        registry = tmp_path / ".cache/raw/own/registry.txt"
        registry.write_text("".join(x for x in registry.open() if not x.startswith("r.json")))
        assert fetched("other")["sha256"] == hashlib.sha256(b"others").hexdigest()


def test_a_location_recorded_without_its_place_is_taken(tmp_path: Path) -> None:
    """As versions before did, for which a file would else be fetched again at once."""
    for name in ("r.json", "m.json"):
        (tmp_path / name).write_bytes(b"reviews")
    with served(tmp_path) as url:
        params = project(tmp_path, web(remote(f"{url}/r.json"), remote(f"{url}/m.json")))
        download(run(params), "own")
    registry = tmp_path / ".cache/raw/own/registry.txt"
    lines = [line.split() for line in registry.read_text().splitlines()]
    registry.write_text("".join(f"{name} {digest}\n" for name, digest, _ in lines))
    download(run(params), "own")  # the server is gone


def test_two_roles_share_one_archive(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner/behaviors.tsv", "b")
        archive.writestr("inner/news.tsv", "n")
    (tmp_path / "MIND.zip").write_bytes(packed.getvalue())
    with served(tmp_path) as url:
        one = remote(f"{url}/MIND.zip", member="behaviors.tsv")
        two = remote(f"{url}/MIND.zip", member="inner/news.tsv")
        params = project(tmp_path, web(one, two))
        download(run(params), "own")
    files = manifest(tmp_path)["files"]
    assert files["reviews"]["origin"] == f"{url}/MIND.zip#behaviors.tsv"
    assert [files[r]["name"] for r in files] == ["MIND/news.tsv", "MIND/behaviors.tsv"]
    assert [p.read_text() for p in located(params).values()] == ["n", "b"]


@pytest.mark.parametrize("by", ["folder", "address"])
def test_mirror_replaces_the_publisher_but_not_the_origin(tmp_path: Path, by: str) -> None:
    official = "https://publisher.invalid/data"
    mirror = tmp_path / "mirror" / "own"
    mirror.mkdir(parents=True)
    (mirror / "r.json").write_bytes(b"reviews")
    (mirror / "m.json").write_bytes(b"metadata")
    origin = web(remote(f"{official}/r.json"), remote(f"{official}/m.json"))
    with served(tmp_path / "mirror") as url:
        params = project(tmp_path, origin, mirror="mirror" if by == "folder" else f"{url}/")
        download(run(params), "own")
    assert manifest(tmp_path)["files"]["reviews"]["origin"] == f"{official}/r.json"


def test_own_files_are_measured_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "r.json").write_bytes(b"reviews")
    (data / "m.json").write_bytes(b"metadata")
    monkeypatch.setenv("MY_DATA", str(data))
    files = {"reviews": "$MY_DATA/r.json", "metadata": "data/m.json"}
    params = project(tmp_path, {"kind": "local", "files": files})
    download(run(params), "own")
    assert manifest(tmp_path)["files"]["reviews"]["origin"] == "$MY_DATA/r.json"
    text = RAW.path(tmp_path / "artifacts", dataset="own").read_text()
    assert str(tmp_path) not in text
    assert located(params) == {"reviews": data / "r.json", "metadata": data / "m.json"}
    assert not (tmp_path / ".cache" / "raw" / "own").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"", "the file is empty")]
)
def test_own_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "r.json").write_bytes(content)
    files = {"reviews": "r.json", "metadata": "r.json"}
    params = project(tmp_path, {"kind": "local", "files": files})
    with pytest.raises(
        DataError, match=rf"own\.source\.origin\.files\.metadata: r\.json: {message}"
    ):
        download(run(params), "own")


def test_changed_missing_and_stale_files_name_the_command(tmp_path: Path) -> None:
    params = project(tmp_path, DEMO)
    download(run(params), "own")
    path = located(params)["metadata"]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"SYN", b"XYZ"))
    with pytest.raises(ArtifactError, match=r"SHA-256 is not.*dvc repro -f -s download@own"):
        located(params)
    path.write_bytes(whole + b"\n")
    with pytest.raises(ArtifactError, match=r"holds \d+ bytes.*Run: spectran download own"):
        located(params)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"is missing.*Run: spectran download own"):
        located(params)
    download(run(params), "own")
    assert located(params)["metadata"].read_bytes() == whole
    project(tmp_path, DEMO | {"seed": 8})
    with pytest.raises(ArtifactError, match=r"params\.yaml changed since the download"):
        located(params)


def test_verified_files_are_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = project(tmp_path, DEMO)
    download(run(params), "own")
    located(params)
    monkeypatch.setattr(rawfiles, "sha256_file", lambda path: pytest.fail(f"hashed {path}"))
    located(params)


def test_member_belongs_to_archives_only(tmp_path: Path) -> None:
    one, two = "https://x.invalid/a.zip", "https://x.invalid/m.json"
    params = project(tmp_path, web(remote(one), remote(two)))
    with pytest.raises(ConfigError, match=r"files\.reviews\.member: names the file inside"):
        download(run(params), "own")
    params = project(tmp_path, web(remote(two), remote(two.replace("x.", "y."))))
    with pytest.raises(ConfigError, match=r"m\.json is named twice"):
        download(run(params), "own")


def test_full_disk_is_said_and_leaves_no_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "mirror" / "own").mkdir(parents=True)
    for name in ("r.json", "m.json"):
        (tmp_path / "mirror" / "own" / name).write_bytes(b"x" * 1_000_000)
    origin = web(remote("https://x.invalid/r.json"), remote("https://x.invalid/m.json"))
    params = project(tmp_path, origin, mirror="mirror")
    parts = tmp_path / ".cache" / "raw" / "own" / ".parts"
    parts.mkdir(parents=True)
    (parts / "r.json").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="no space left"):
        download(run(params), "own")
    assert not (parts.parent / "r.json").exists()
    (parts / "r.json").unlink()
    download(run(params), "own")


def test_unknown_data_set_suggests_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean own"):
        download(run(project(tmp_path, DEMO)), "owm")


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_killed_generation_leaves_no_manifest_and_runs_again(tmp_path: Path, kill: int) -> None:
    params = project(tmp_path, DEMO | {"users": 3000, "items": 1200})
    command = [sys.executable, "-m", "stages.cli", "download", "own", "--params", str(params)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    started = tmp_path / ".cache" / "raw" / "own" / ".unfinished"
    deadline = time.monotonic() + 20
    while not started.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(kill)
    _, errors = process.communicate()
    assert process.returncode == (130 if kill == signal.SIGINT else -kill), errors
    assert not RAW.path(tmp_path / "artifacts", dataset="own").exists()
    project(tmp_path, DEMO)
    download(run(params), "own")
    assert located(params)
    assert not started.exists()


def test_official_locations_say_where_they_were_read() -> None:
    params = load(Path("params.yaml"))
    for name, block in params.datasets.items():
        origin = block.source.origin
        if origin.kind == "web":
            assert "Not tried" in origin.read_from, name
            assert origin.terms and all(f.sha256 is None for f in origin.files.values()), name


def test_json_output_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(run(project(tmp_path, DEMO), json=True), "own")
    content = json.loads(capsys.readouterr().out)
    assert content["raw_files"] == 2 and content["next"] == "spectran preprocess own"
