"""What re-runs when something changes: the real `dvc repro`, judged by the lock file's sections.

The tests share one clone and run in their order: each starts where the last one left it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import ALL, BASELINES, CELLS, METRICS, RESULTS, WATCHING, Clone, changed, ran

pytestmark = pytest.mark.slow


def test_every_stage_runs_from_its_own_code(finished: tuple[Clone, str]) -> None:
    clone, output = finished
    assert ran(output) == ALL == set(clone.lock())
    code = "import pipeline, stages; print(pipeline.__file__, stages.__file__, sep='\\n')"
    places = clone.run(sys.executable, "-c", code).stdout.split("\n")[:2]
    assert [Path(p).parents[1] for p in places] == [clone.path, clone.path]
    assert "\x1b" not in output and "\r" not in output, "no colours and no bars in a pipe"


def test_afterwards_git_sees_only_the_lock_file(finished: tuple[Clone, str]) -> None:
    assert finished[0].git("status", "--porcelain").split() == ["??", "dvc.lock"]


def test_everything_made_is_sound_and_nothing_unfinished_is_left(clone: Clone) -> None:
    words = clone.run("spectran", "verify").stdout
    assert "0 problems" in words
    assert clone.run("spectran", "clean", "--stale").stdout == "nothing to delete\n"
    kept = clone.run("spectran", "clean", "--kept-seeds", "--dry-run").stdout
    assert f"would delete {len(CELLS | BASELINES)} paths" in kept
    assert not list((clone.path / "artifacts" / ".tmp").glob("*"))
    listed = clone.run("spectran", "ls").stdout
    assert listed.count("1 of 1 seeds") == len(CELLS | BASELINES)


def test_a_second_repro_does_nothing(clone: Clone) -> None:
    before = clone.lock()
    assert clone.repro() == set()
    assert clone.lock() == before


def test_a_training_parameter_re_runs_training_only_and_an_interruption_loses_nothing(
    clone: Clone,
) -> None:
    before = clone.lock()
    clone.params(lambda p: p["train"].update(learning_rate=2e-3))
    started = interrupted(clone)
    assert started == CELLS
    rest = clone.repro()
    assert len(rest & CELLS) == 1, "the cell that had ended before the interruption is kept"
    assert rest - CELLS == RESULTS
    assert changed(before, clone.lock()) == CELLS | RESULTS


def interrupted(clone: Clone) -> set[str]:
    """Start `dvc repro`, press Ctrl-C once the second training cell runs; return what started."""
    log = clone.path.parent / "interrupted.log"
    with log.open("w") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=clone.path, env=clone.env, stdout=handle, stderr=handle, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(ran(log.read_text())) < 2 and process.poll() is None:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) != 0
    return ran(log.read_text())


def test_an_edited_method_re_runs_only_its_cells(clone: Clone) -> None:
    before = clone.lock()
    file = clone.path / "pipeline" / "methods" / "spectran.py"
    file.write_text(file.read_text() + "\n# The same numbers, from other bytes.\n")
    cell = "train@demo-hash-sasrec-spectran"
    rest = {"collapse@demo", "report", WATCHING}
    assert clone.repro() == {cell} | rest, "equal ranks are not evaluated again"
    assert changed(before, clone.lock()) == {cell} | rest


def test_shared_training_code_and_an_added_cutoff_retrain_nothing(clone: Clone) -> None:
    before = clone.lock()
    file = clone.path / "pipeline" / "training" / "fit.py"
    file.write_text(file.read_text() + "\n# Its meaning is a number in revisions.yaml.\n")
    clone.params(lambda p: p["evaluate"]["ks"].append(3))
    assert clone.repro() == METRICS
    assert changed(before, clone.lock()) == METRICS


def test_a_changed_analysis_trains_and_decomposes_nothing(clone: Clone) -> None:
    before = clone.lock()
    file = clone.path / "pipeline" / "spectral" / "collapse.py"
    file.write_text(file.read_text().replace("TOP = 10", "TOP = 5"))
    assert clone.repro() == {"collapse@demo", "report"}
    assert changed(before, clone.lock()) == {"collapse@demo", "report"}


def test_a_variant_watches_every_method_and_trains_only_when_its_own_changes(clone: Clone) -> None:
    def add(params: dict[str, Any]) -> None:
        params["methods"]["id_wide"] = {"of": "id", "train": {"width": 24}}
        params["grid"]["protocol_plain"] = {"backbone": ["sasrec"], "method": ["id_wide"]}

    cell, log = "protocol_plain@demo-sasrec-id_wide", "logs/train/demo-none-sasrec-id_wide.jsonl"
    clone.params(add)
    assert clone.repro() == {cell} | RESULTS
    assert '"epoch"' in (clone.path / log).read_text()
    page = (clone.path / "artifacts/report/results.md").read_text()
    assert "| id\\_wide | id | train.width = 24 |" in page
    file = clone.path / "pipeline" / "methods" / "spectran.py"
    file.write_text(file.read_text() + "\n# Other bytes of another method.\n")
    assert clone.repro() == {
        cell,
        "train@demo-hash-sasrec-spectran",
        "collapse@demo",
        "report",
        WATCHING,
    }
    assert [json.loads(line)["event"] for line in (clone.path / log).read_text().splitlines()] == [
        "reuse"
    ]


def test_a_team_pulls_and_has_nothing_to_run(clone: Clone, tmp_path: Path) -> None:
    store = clone.path.parent / "store"
    clone.dvc("remote", "add", "--quiet", "--default", "store", str(store))
    clone.commit()
    clone.dvc("push", "--run-cache", "--quiet")
    mate = fresh(clone, tmp_path / "mate")
    mate.dvc("pull", "--run-cache", "--quiet")
    assert mate.repro() == set()
    assert mate.git("status", "--porcelain") == ""
    assert mate.bytes() == clone.bytes()
    pushed = b"".join(p.read_bytes() for p in store.rglob("*") if p.is_file())
    for raw in (clone.path / ".cache" / "raw" / "demo").glob("[!.]*"):
        assert raw.read_bytes() not in pushed, "raw data stay out of the remote"


def test_a_team_pulls_after_a_method_left_the_grid(clone: Clone, tmp_path: Path) -> None:
    def remove(params: dict[str, Any]) -> None:
        params["grid"]["text"]["method"].remove("spectran")

    clone.params(remove)
    refused = clone.run("spectran", "evaluate", "demo", check=False)
    assert refused.returncode == 2 and "spectran clean --stale" in refused.stderr
    clone.run("spectran", "clean", "--stale", "--yes")
    assert not (
        clone.path / "artifacts" / "ranks" / "demo" / "hash" / "sasrec" / "spectran"
    ).exists()
    assert clone.repro() == RESULTS
    clone.commit()
    clone.dvc("push", "--run-cache", "--quiet")
    mate = fresh(clone, tmp_path / "mate")
    mate.dvc("pull", "--run-cache", "--quiet")
    assert mate.repro() == set()
    assert mate.git("status", "--porcelain") == ""
    assert mate.bytes() == clone.bytes()

    # Back to the grid it was in: pulled, or answered by the run cache; nothing is computed.
    mate.params(lambda p: p["grid"]["text"]["method"].append("spectran"))
    output = mate.dvc("repro", "--pull").stdout
    assert ran(output) == set()
    assert output.count("is cached - skipping run") >= len(RESULTS), output
    assert any((mate.path / "artifacts" / "ranks" / "demo" / "hash" / "sasrec").glob("spectran/*"))


def fresh(clone: Clone, place: Path) -> Clone:
    """Return what a colleague gets from git alone."""
    subprocess.run(["git", "clone", "--quiet", str(clone.path), str(place)], check=True)
    return Clone.at(place)
