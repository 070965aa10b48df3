"""What `spectran train` keeps: copies of seeds, and what a full disk or a kill costs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.training.progress import Progress
from pipeline.training.store import SeedStore
from tests.stages.train.commands import (
    APP,
    CELL,
    SMALL,
    TREE,
    gridded,
    made,
    refused,
    train,
    write,
)


def cleaned(*words: str) -> set[str]:
    """Run `spectran clean`; return what it deleted."""
    done = CliRunner().invoke(APP, ["clean", *words, "--yes", "--json"])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return set(json.loads(done.stdout)["found"])


def fill(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let no file below a folder reach the disk, as if that were full."""
    flush, places = os.fsync, Path("/proc/self/fd")
    if not places.exists():
        pytest.skip("needs /proc")

    def full(descriptor: int) -> None:
        if (places / str(descriptor)).readlink().is_relative_to(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)


def test_a_full_disk_of_the_store_costs_the_copies_only(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRAN_SAVE_EVERY_S", "1000")
    assert train(*CELL, "--out", "whole").exit_code == 0
    shutil.rmtree(".cache")
    fill(monkeypatch, project / ".cache")
    done = train(*CELL, "-q")
    assert done.exit_code == 0, done.output
    assert made(project / "artifacts") == made(project / "whole")
    assert [line.split(" is done")[0] for line in done.stderr.splitlines()] == [
        "warning: train: seed 0", "warning: train: seed 1"
    ]  # fmt: skip
    assert re.search(r"could be kept in \.cache/train/\w{32}: No space left on device", done.stderr)
    assert not list(Path(".cache").rglob("done.json"))


def test_a_full_disk_of_the_artifacts_is_an_error(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch, project / "artifacts")
    assert "no space left on the disk" in refused(*CELL) and not made(project / "artifacts")


@pytest.mark.parametrize("way", [("--processes", "2"), ("--seeds-together",)])
def test_seeds_that_train_at_once_need_no_store_either(project: Path, way: tuple[str, ...]) -> None:
    Path("none").write_text("a file")
    env = {"PYTHONPATH": str(TREE), "SPECTRAN_CACHE": "none", "SPECTRAN_SAVE_EVERY_S": "1000"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli", "train", *CELL, *way, "--threads", "1"],
        env=os.environ | env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train done seed=") == 2 and len(made(project / "artifacts")) == 6
    assert done.stderr.count("no copy of them could be kept in none/train/") == 2


def test_after_cleaning_an_added_seed_still_trains_only_itself(project: Path) -> None:
    gridded(project, baseline=["popularity", "transition"], plain=["id"])
    assert train(*CELL).exit_code == train("demo", "none", "none", "popularity").exit_code == 0
    kept = set(map(str, Path(".cache/train").iterdir()))
    assert train("demo", "none", "none", "transition").exit_code == 0
    left = set(map(str, Path(".cache/train").iterdir())) - kept
    # A method leaves the grid, a seed another cell; what they left goes, what others need stays.
    gridded(project, baseline=["popularity"], plain=["id"])
    assert left < cleaned("--stale") and set(map(str, Path(".cache/train").iterdir())) == kept
    write(project, **SMALL | {"seeds": [0, 1, 2]})
    done = train(*CELL)
    assert done.stdout.count("train reuse") == 2 and done.stdout.count("train done seed=2") == 1
    write(project, **SMALL | {"seeds": [0, 2]})
    found = cleaned("--stale")
    assert len(found) == 3 + 1, "the files of seed 1, and its copy"
    assert train(*CELL).stdout.count("train reuse") == 2


def stopped() -> Path:
    """Train a cell of one seed until its first state; return the folder of that."""
    before = set(Path(".cache/train").glob("*"))
    env = os.environ | {"PYTHONPATH": str(TREE)}
    words = [sys.executable, "-m", "stages.cli", "train", *CELL, "--processes", "1"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if "epoch=2 " in line)
    process.kill()
    process.communicate()
    (found,) = set(Path(".cache/train").iterdir()) - before
    assert (found / "state.safetensors").exists()
    return found


def discarded() -> set[str]:
    """Return what `clean --stale` took of that which is kept of seeds."""
    return {name for name in cleaned("--stale") if name.startswith(".cache/train/")}


def test_a_state_goes_when_no_cell_of_the_grid_can_go_on_with_it(project: Path) -> None:
    gridded(project, plain=["id"])
    long = SMALL | {"max_epochs": 10**6, "patience": 10**6, "seeds": [0]}
    write(project, **long)
    old = stopped()
    orphan = old / ".tmp" / "999999999-dead.safetensors"
    orphan.write_bytes(b"x")
    assert not discarded() and not orphan.exists(), "the grid still goes on with it"
    inputs = Path("artifacts/data/demo/items.parquet")
    content = inputs.read_bytes()
    write(project, **long | {"max_epochs": 10**7})
    inputs.unlink()
    assert not discarded(), "what its inputs are is not known now"
    inputs.write_bytes(content)
    new = stopped()
    assert discarded() == {str(old)} and not old.exists()
    write(project, **long | {"max_epochs": 10**7, "seeds": [1]})
    assert discarded() == {str(new)} and not new.exists()


def test_a_state_in_use_stays(project: Path) -> None:
    gridded(project, baseline=["popularity"])
    cell = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
    store = SeedStore(Path(".cache/train"), {"cell": cell, "seed": 0})
    store.save(Progress(epoch=1))
    assert not discarded() and store.load() is not None
    again = SeedStore(Path(".cache/train"), store.content)
    del store
    assert again.load() is not None
    assert not discarded(), "it goes on from the state of another"
    del again
    (folder,) = Path(".cache/train").iterdir()
    (folder / "of.json").unlink()
    assert not discarded(), "a version before left it: nobody knows of which seed"
    (folder / "of.json").write_text("{}")
    assert not discarded(), "nor of what tells nothing"


def test_kept_seeds_are_deleted_when_asked(project: Path) -> None:
    assert train(*CELL).exit_code == 0
    tracked = made(project / "artifacts")
    kept = set(map(str, Path(".cache/train").iterdir()))
    assert len(kept) == 2 and cleaned("--kept-seeds") == kept
    assert made(project / "artifacts") == tracked
    assert "train reuse" not in train(*CELL).stdout


def test_a_store_outside_the_project_is_cleaned_only_when_asked(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path_factory.mktemp("shared")
    monkeypatch.setenv("SPECTRAN_CACHE", str(shared))
    assert train(*CELL).exit_code == 0
    kept = set(map(str, (shared / "train").iterdir()))
    gridded(project, baseline=["popularity"])
    found = cleaned("--stale")
    assert found and not any(name.startswith(str(shared)) for name in found)
    assert set(map(str, (shared / "train").iterdir())) == kept
    assert cleaned("--kept-seeds") == kept and not any((shared / "train").iterdir())


# ------------------------------------------------------------------------- what a kill costs


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_seed_stopped_in_the_middle_goes_on_to_the_same_bytes(
    project: Path, how: signal.Signals
) -> None:
    write(project, **SMALL | {"max_epochs": 40, "patience": 40})
    whole = train(*CELL, "--out", "whole", "--threads", "1")
    assert whole.exit_code == 0
    env = os.environ | {"PYTHONPATH": str(TREE), "SPECTRAN_CACHE": str(project / "other")}
    words = [sys.executable, "-m", "stages.cli", "train", *CELL, "--out", "cut", "--threads", "1"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "seed=1" in line and "epoch=3 " in line:
            break
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    wanted = made(project / "whole")
    cut = made(project / "cut")
    assert {Path(name).stem for name in cut} == {"0"}, "the second seed has left no final file"
    assert all(content == wanted[name] for name, content in cut.items())

    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train reuse seed=0" in done.stdout and "train resume seed=1" in done.stdout
    assert "epoch=1 " not in done.stdout.replace("best_epoch", ""), "finished epochs are kept"
    assert made(project / "cut") == wanted


@pytest.mark.parametrize("name", ["state.safetensors", "done.json"])
def test_a_damaged_store_counts_as_absent(project: Path, name: str) -> None:
    assert train(*CELL).exit_code == 0
    wanted = made(project / "artifacts")
    for folder in Path(".cache/train").iterdir():
        (folder / "done.json").unlink()
        (folder / name).write_bytes(b"{")
    done = train(*CELL)
    assert done.exit_code == 0 and done.stdout.count("train epoch") == 6
    assert made(project / "artifacts") == wanted
