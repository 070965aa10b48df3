"""`spectran ls` and `spectran clean` on a small tree: what the grid names, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import ConfigError
from stages.clean import clean
from stages.cli import build
from stages.ls import ls
from stages.run import Run
from tests.conftest import Terminal

build()


def made(tree: Path, *paths: str) -> list[Path]:
    for path in paths:
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 10)
    return [tree / path for path in paths]


def test_ls_counts_finished_seeds_and_names_forgotten_cells(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(
        tree,
        "artifacts/ranks/demo/none/sasrec/id/1.parquet",
        "artifacts/ranks/demo/minilm/sasrec/old/0.parquet",
        "artifacts/semantic/demo/minilm.safetensors",
    )
    ls(Run(name="ls", params_path=tree / "params.yaml"))
    lines = {
        w[0]: " ".join(w[1:]) for w in map(str.split, capsys.readouterr().out.splitlines()) if w
    }
    assert lines["demo/none/sasrec/id"] == "1 of 2 seeds (missing 0)"
    assert lines["demo/minilm/sasrec/spectran"] == "0 of 2 seeds"
    assert lines["demo/minilm/sasrec/old"] == "not in the grid. Run: spectran clean --stale"
    assert lines["minilm"].endswith("in grid, embedded demo")
    ls(Run(name="ls", params_path=tree / "params.yaml", json=True))
    content = json.loads(capsys.readouterr().out)
    assert {"cell": "demo/none/sasrec/id", "grid": True, "seeds": [0, 1], "finished": [1]} in (
        content["cells"]
    )


def test_clean_deletes_what_the_grid_does_not_name_and_nothing_else(tree: Path) -> None:
    stale = made(
        tree,
        "artifacts/ranks/demo/minilm/sasrec/old/0.parquet",
        "artifacts/ranks/demo/old/sasrec/spectran/0.parquet",
        "artifacts/ranks/demo/none/sasrec/id/7.parquet",
        "artifacts/curves/demo/none/none/popularity/0.parquet",
        "artifacts/models/toys/none/sasrec/id/0.safetensors",
        "artifacts/metrics/toys.parquet",
        "artifacts/spectrum/demo/old/unit.safetensors",
        "artifacts/data/toys/items.parquet",
        ".cache/train/aa/done.json",
        f"artifacts/{files.TEMPORARY}/999999999-dead.parquet",
        f"artifacts/metrics/{files.TEMPORARY}/999999999-dead.parquet",
    )
    kept = made(
        tree,
        "artifacts/ranks/demo/none/sasrec/id/0.parquet",
        "artifacts/ranks/demo/none/none/popularity/0.parquet",
        "artifacts/metrics/demo.parquet",
        "artifacts/spectrum/demo/minilm/unit.safetensors",
        "artifacts/semantic/toys/old.safetensors",
        "artifacts/raw/toys.json",
        "artifacts/data/demo/items.parquet",
        ".cache/train/bb/state.safetensors",
        ".cache/rows/cc/row",
        f"artifacts/{files.TEMPORARY}/1-alive.parquet",
        f"artifacts/metrics/{files.TEMPORARY}/1-alive.parquet",
        f"artifacts/ranks/{files.TEMPORARY}/1-alive.parquet",
        f"artifacts/models/demo/{files.TEMPORARY}/1-alive.safetensors",
    )
    clean(Run(name="clean", params_path=tree / "params.yaml"), stale=True, dry_run=True)
    assert all(path.exists() for path in [*stale, *kept])
    clean(Run(name="clean", params_path=tree / "params.yaml"), stale=True, yes=True)
    assert [str(path) for path in stale if path.exists()] == []
    assert [str(path) for path in kept if not path.exists()] == []
    assert not (tree / "artifacts/ranks/demo/old").exists(), "no empty folders stay"


def test_clean_does_not_delete_unasked(tree: Path) -> None:
    made(tree, "artifacts/metrics/toys.parquet")
    with pytest.raises(ConfigError, match="--yes"):
        clean(Run(name="clean", params_path=tree / "params.yaml"), stale=True)
    assert (tree / "artifacts/metrics/toys.parquet").exists()


@pytest.mark.parametrize("quiet", [False, True])
def test_clean_shows_on_stderr_what_it_asks_about(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    (path,) = made(tree, "artifacts/metrics/toys.parquet")
    for answer in ("n", "y"):
        monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
        clean(Run(name="clean", params_path=tree / "params.yaml", quiet=quiet), stale=True)
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert lines[0] == f"{path}  10 B  not in the grid" and "Delete these 1 paths" in lines[1]
        assert str(path) not in said.out
        assert path.exists() == (answer == "n")
