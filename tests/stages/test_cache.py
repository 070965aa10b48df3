"""`spectran cache ls|verify|prune` on a cache that the encode stage or the test filled."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from pipeline.encoders.rows import RowCache, digest
from pipeline.errors import ConfigError
from stages.cache import ls, prune, verify
from stages.encode import encode
from stages.run import Run

OLD = {"engine": "sbert", "model": {"name": "org/old", "revision": "b" * 40}, "revision": 1}
TREE = Path(__file__).resolve().parents[2]


@pytest.fixture
def base(tiny_root: Path) -> Path:
    """A project whose `hash` rows are in the cache (24 items), beside five rows of a model that
    no block names; its only blocks are `hash` and a control of it."""
    edit(tiny_root, lambda blocks: None)
    encode(Run("encode", tiny_root / "params.yaml", quiet=True), "demo", "hash")
    with RowCache(tiny_root / ".cache", OLD, 4) as cache:
        texts = digest([f"old {n}" for n in range(5)])
        cache.append(texts, np.ones((5, 4), np.float32), np.zeros(5, np.uint32))
    return tiny_root


def edit(
    base: Path, change: Callable[[dict[str, Any]], None], encoders: list[str] | None = None
) -> None:
    """Keep the blocks `hash` and `hash_permuted` alone, and change them; set grid.encoder."""
    path = base / "params.yaml"
    content = yaml.safe_load(path.read_text())
    plain = content["encoders"]["hash"] | {"transform": None}
    control = plain | {"transform": {"kind": "permute", "seed": 0}}
    content["encoders"] = {"hash": plain, "hash_permuted": control}
    change(content["encoders"])
    if encoders:
        content["grid"]["encoder"] = encoders
    path.write_text(yaml.safe_dump(content))


def run(base: Path, **options: Any) -> Run:
    return Run("cache", base / "params.yaml", **options)


def shown(capsys: pytest.CaptureFixture[str], command: Callable[..., None], *words: Any,
          **options: Any) -> dict[str, Any]:  # fmt: skip
    capsys.readouterr()
    command(*words, **options)
    return dict(json.loads(capsys.readouterr().out))


def hub_model(revision: str | None) -> dict[str, Any]:
    shipped = yaml.safe_load((TREE / "params.yaml").read_text())["encoders"]["minilm"]
    return {**shipped, "model": "no-such-org/none", "revision": revision}


def folders(base: Path) -> dict[str, Path]:
    """The two folders of rows, by engine."""
    found = {}
    for path in (base / ".cache" / "rows").glob("*/meaning.json"):
        found[json.loads(path.read_text())["meaning"]["engine"]] = path.parent
    return found


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def spoil(base: Path, engine: str) -> None:
    with (folders(base)[engine] / "0000.bin").open("r+b") as handle:
        handle.write(b"\x01\x02")


# ---------------------------------------------------------------- ls


def test_ls_names_rows_size_use_and_blocks(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.utime(folders(base)["sbert"] / "used", (86_400, 86_400))
    rows = shown(capsys, ls, run(base, json=True))["rows"]
    old, made = sorted(rows, key=lambda row: row["rows"])
    assert (made["engine"], made["width"], made["rows"]) == ("hash", 64, 24)
    assert made["blocks"] == ["hash", "hash_permuted"]
    assert (old["model"]["name"], old["rows"], old["blocks"]) == ("org/old", 5, [])
    assert old["used"] == "1970-01-02T00:00:00+00:00"
    assert old["bytes"] == size_of(folders(base)["sbert"])
    ls(run(base))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    (line,) = [line for line in lines if "org/old" in line]
    assert line.startswith(old["key"][:12]) and "sbert org/old bbbbbbbb" in line
    assert "width 4, 5 rows, " in line and line.endswith("last used 1970-01-02, for: no block")
    assert any(line.endswith("for: hash, hash_permuted") for line in lines)
    assert lines[-1].startswith(f"{base / '.cache'}: 2 models")


def test_ls_of_no_cache_is_no_error(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ls(run(tiny_root))
    assert capsys.readouterr().out.splitlines()[-1] == f"{tiny_root / '.cache'}: 0 models, 0 B"
    assert not (tiny_root / ".cache").exists()


def test_ls_asks_nothing_of_the_network_and_says_what_it_cannot_tell(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def change(blocks: dict[str, Any]) -> None:
        blocks["open"] = hub_model(None)
        blocks["absent"] = hub_model(None) | {"model": "./absent"}

    edit(base, change, encoders=["hash", "open"])
    content = shown(capsys, ls, run(base, json=True))
    assert set(content["untold"]) == {"open", "absent"}
    assert "no such folder" in content["untold"]["absent"]
    by_engine = {row["engine"]: row["blocks"] for row in content["rows"]}
    assert by_engine == {"hash": ["hash", "hash_permuted"], "sbert": None}
    ls(run(base))
    *_, told, counted, _ = capsys.readouterr().out.splitlines()
    assert told.startswith("encoders.open: its rows cannot be told: encoder model")
    assert counted == (
        "1 encoders outside grid.encoder: their rows cannot be told. "
        "To list them: spectran cache ls --json   (untold)"
    )
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("command", [ls, verify])
def test_another_format_is_warned_of_and_the_rest_is_done(
    base: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., None]
) -> None:
    other = base / ".cache" / "rows" / "other"
    other.mkdir()
    (other / "meaning.json").write_text('{"format": 9}')
    capsys.readouterr()
    command(run(base))
    said = capsys.readouterr()
    assert "other/meaning.json: format 9, this version reads 2." in said.err
    assert "24 rows" in said.out or "29 rows, 0 problems" in said.out


# ---------------------------------------------------------------- verify


def test_verify_reads_every_row(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = shown(capsys, verify, run(base, json=True))
    assert (content["rows"], content["problems"]) == (29, [])


def test_verify_exits_2_names_the_shard_and_says_what_to_do(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(base, "hash")
    with pytest.raises(typer.Exit) as stopped:
        verify(run(base))
    assert stopped.value.exit_code == 2
    said = capsys.readouterr().out
    path = folders(base)["hash"] / "0000.bin"
    assert f"{path}: 1 of 24 rows are not what was written" in said
    assert "Run: spectran cache prune --damaged" in said
    prune(run(base), damaged=True)
    assert shown(capsys, verify, run(base, json=True))["rows"] == 28


def test_rows_that_were_pruned_are_encoded_again(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(base, "hash")
    path = base / "artifacts" / "semantic" / "demo" / "hash.safetensors"
    before = path.read_bytes()
    prune(run(base), damaged=True)
    again = Run("encode", base / "params.yaml", json=True)
    assert shown(capsys, encode, again, "demo", "hash")["encoded"] == 1
    assert path.read_bytes() == before


def test_a_damaged_description_is_told_and_encode_writes_it_again(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = folders(base)["hash"] / "meaning.json"
    before = described.read_bytes()
    described.write_text("{")
    with pytest.raises(typer.Exit):
        verify(run(base))
    said = capsys.readouterr()
    assert "its rows cannot be told" in said.out and "1 problems" in said.out
    assert "prune" not in said.out, "it takes nothing away where the rows cannot be told"
    assert "meaning.json cannot be read. `spectran encode` with the encoder of these" in said.err
    again = Run("encode", base / "params.yaml", json=True)
    assert shown(capsys, encode, again, "demo", "hash")["encoded"] == 0
    assert described.read_bytes() == before
    assert shown(capsys, verify, run(base, json=True))["problems"] == []


# ---------------------------------------------------------------- prune


def test_prune_says_what_it_can_take_away(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"--damaged.*--older-than DAYS.*--unused.*--dry-run"):
        prune(run(base))


def test_prune_of_sound_rows_frees_nothing(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune(run(base), damaged=True)
    assert capsys.readouterr().out.splitlines()[-1] == "freed 0 B, 0 rows"
    assert shown(capsys, verify, run(base, json=True))["rows"] == 29


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_by_age_takes_what_was_not_used_since(
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    dry_run: bool,
) -> None:
    paths, now = folders(base), 1_000_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    os.utime(paths["sbert"] / "used", (now - 91 * 86_400,) * 2)
    os.utime(paths["hash"] / "used", (now - 89 * 86_400,) * 2)
    expected = size_of(paths["sbert"])
    words = {"older_than": 90.0, "dry_run": dry_run}
    content = shown(capsys, prune, run(base, json=True), **words)
    assert (content["rows"], content["bytes"], content["dry_run"]) == (5, expected, dry_run)
    assert [one["key"] for one in content["freed"]] == [paths["sbert"].name]
    assert content["freed"][0]["reason"] == "last used 2001-06-10"
    assert paths["sbert"].exists() is dry_run
    assert paths["hash"].exists()


def test_prune_of_unused_models_keeps_those_of_params(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = folders(base)
    prune(run(base), unused=True)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("freed ") and said[-1].endswith(", 5 rows")
    assert "org/old" in said[-2] and "no block of `encoders` means it" in said[-2]
    assert not paths["sbert"].exists() and paths["hash"].exists()


def test_prune_of_unused_models_refuses_when_a_block_cannot_be_told(base: Path) -> None:
    edit(base, lambda blocks: blocks.update(absent=hub_model(None) | {"model": "./absent"}))
    with pytest.raises(ConfigError, match=r"(?s)blocks cannot be told.*absent: .*no such f"):
        prune(run(base), unused=True)
    assert len(folders(base)) == 2


def test_prune_of_unused_models_keeps_those_of_hub_models_that_are_not_here(base: Path) -> None:
    edit(base, lambda blocks: blocks.update(old=hub_model(None) | {"model": "org/old"}))
    prune(run(base), unused=True)
    assert len(folders(base)) == 2
    edit(base, lambda blocks: blocks.update(other=hub_model(None) | {"model": "org/other"}))
    prune(run(base), unused=True)
    assert list(folders(base)) == ["hash"]


def test_prune_leaves_other_formats_alone(base: Path) -> None:
    described = folders(base)["sbert"] / "meaning.json"
    described.write_text('{"format": 1}')
    before = sorted(described.parent.iterdir())
    prune(run(base), damaged=True, unused=True, older_than=0.0)
    assert sorted(described.parent.iterdir()) == before
    assert not [path for path in described.parent.parent.iterdir() if path != described.parent]


def test_prune_says_what_a_running_process_keeps(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RowCache(base / ".cache", OLD, 4) as cache:
        cache.append(digest(["x"]), np.ones((1, 4), np.float32), np.zeros(1, np.uint32))
        content = shown(capsys, prune, run(base, json=True), unused=True)
    assert (content["busy"], content["rows"]) == (1, 0)
    assert len(folders(base)) == 2


def test_the_program_runs_them_on_the_folder_that_the_variable_names(base: Path) -> None:
    def program(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stages.cli", "cache", *words]
        command += ["--params", str(base / "params.yaml")]
        env = os.environ | {"SPECTRAN_CACHE": str(base / "moved")}
        return subprocess.run(command, cwd=TREE, env=env, text=True, capture_output=True)

    (base / ".cache").rename(base / "moved")
    assert "2 models" in program("ls").stdout
    assert program("verify", "--json").returncode == 0
    assert program("prune").returncode == 2
    assert json.loads(program("prune", "--older-than", "0", "--json").stdout)["rows"] == 29
    done = program("prune", "--damaged", "--quiet")
    assert (done.returncode, done.stdout) == (0, "freed 0 B, 0 rows\n")
