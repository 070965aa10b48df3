"""What is not trained again, and what a kill costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiment.prepared import Experiment
from pipeline.tuning.journal import Journal
from tests.stages.tune.commands import (
    CELL,
    LISTS,
    SMALL,
    TREE,
    TUNED,
    answer,
    logged,
    tune,
    without_clock,
    write,
)


def test_a_second_run_trains_nothing_and_force_trains_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answer(*CELL)
    kept = (project / "artifacts" / TUNED).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "fit_seed", None)
        assert answer(*CELL)["trials"] == whole["trials"]
    forced = tune(*CELL, "--force")
    assert forced.stdout.count("tune epoch") == 15 and "tune reuse" not in forced.stdout
    assert (project / "artifacts" / TUNED).read_bytes() == kept


def test_a_longer_search_goes_on_where_a_shorter_one_ended(project: Path) -> None:
    short = answer(*CELL, "--trials", "2", "--out", "s")
    assert len(short["trials"]) == 2 and not (project / "artifacts" / TUNED).exists()
    long = tune(*CELL, "--trials", "4", "--out", "s")
    assert long.stdout.count("tune reuse") == 2 and long.stdout.count("tune trial ") == 2
    again = answer(*CELL, "--trials", "2", "--out", "s")
    assert again["trials"] == short["trials"], "a shorter one looks at its own trials only"
    assert again["next"] is None


def test_other_lists_reuse_trials_that_were_trained(project: Path) -> None:
    whole = answer(*CELL)["trials"]
    space = LISTS["space"] | {"train.dropout": [0.0, 0.2, 0.4, 0.5]}
    write(project, SMALL, LISTS | {"space": space, "trials": 12, "random_trials": 12})
    done = tune(*CELL)
    assert "tune reuse" not in done.stdout, "another search"
    assert done.stdout.count("tune trial ") == 10
    assert done.stdout.count(" epoch=1 ") == 10 - len(whole)


@pytest.mark.parametrize("where", ["before", "between", "after"])
def test_a_search_stopped_between_trials_goes_on_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("SPECTRAN_CACHE", str(project / "whole"))
    whole = answer(*CELL)
    monkeypatch.setenv("SPECTRAN_CACHE", str(project / "cut"))
    calls = []

    def stopped(owner: type, name: str, *, after: bool) -> None:
        function = getattr(owner, name)

        def counted(*words: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == 4 and not after:
                raise KeyboardInterrupt
            found = function(*words, **named)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(owner, name, counted)

    if where == "before":
        stopped(Experiment, "fit_seed", after=False)
    else:  # the trial's own record is written, its line in the journal is not, or is
        stopped(Journal, "add", after=where == "after")
    assert tune(*CELL).exit_code == 130
    assert tune(*CELL).stdout.count(" epoch=1 ") == (2 if where == "before" else 1)
    assert without_clock(answer(*CELL)) == without_clock(whole)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_killed_in_the_middle_of_a_trial_equals_an_uninterrupted_one(
    project: Path, how: signal.Signals
) -> None:
    write(project, SMALL | {"max_epochs": 12, "patience": 12}, LISTS)
    whole = answer(*CELL, "--out", "whole")
    env = os.environ | {"PYTHONPATH": str(TREE), "SPECTRAN_CACHE": str(project / "other")}
    words = [sys.executable, "-m", "stages.cli", "tune", *CELL, "--out", "cut"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "trial=3" in line and "epoch=3 " in line:
            break
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert not (project / "cut" / TUNED).exists()

    done = subprocess.run([*words, "--json"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert without_clock(json.loads(done.stdout)) == without_clock(whole)
    events = logged("logs/out/tune/demo-none-sasrec-id.jsonl")
    assert [e["number"] for e in events if e["event"] == "reuse"] == [0, 1, 2]
    assert [e["trial"] for e in events if e["event"] == "resume"] == [3]
    assert not [e for e in events if e["event"] == "epoch" and e["trial"] < 3]
    assert not [e for e in events if e.get("trial") == 3 and e.get("epoch") == 1]
    assert (project / "cut" / TUNED).read_bytes() == (project / "whole" / TUNED).read_bytes()
