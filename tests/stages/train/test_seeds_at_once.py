"""Seeds together in one batched pass, and side by side in processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from stages.train import _compatible
from tests.stages.train.commands import CELL, SMALL, TREE, made, refused, train, write


def curves(root: Path) -> dict[int, tuple[list[Any], list[float]]]:
    """Return what the curves of every seed tell, and their values."""
    found = {}
    for seed in (0, 1):
        table = pq.read_table(root / f"curves/demo/none/sasrec/id/{seed}.parquet").to_pydict()
        values = table.pop("value")
        found[seed] = (list(table.values()), values)
    return found


def assert_close(found: Path, wanted: Path) -> None:
    """The same files and curves, but for rounding."""
    assert set(made(found)) == set(made(wanted))
    expected = curves(wanted)
    for seed, (points, values) in curves(found).items():
        assert points == expected[seed][0]
        assert values == pytest.approx(expected[seed][1], rel=1e-4, abs=1e-6)


def test_seeds_together_write_what_they_write_one_by_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(*CELL).exit_code == 0
    monkeypatch.setenv("SPECTRAN_CACHE", "other")
    done = train(*CELL, "--seeds-together", "--out", "both")
    assert done.exit_code == 0, done.output
    epochs = [line for line in done.stdout.splitlines() if "train epoch" in line]
    assert [re.findall(r"(?:seed| epoch)=(\d)", line) for line in epochs] == [
        [str(seed), str(epoch)] for epoch in (1, 2, 3) for seed in (0, 1)
    ]
    assert_close(project / "both", project / "artifacts")
    again = train(*CELL, "--seeds-together", "--out", "both").stdout
    assert again.count("train reuse") == 2 and "train epoch" not in again


def test_what_seeds_gave_together_is_no_result_of_one_by_one(project: Path) -> None:
    """Sums differ in the last bit, and one by one is what the others are compared to."""
    assert train(*CELL, "--seeds-together", "--out", "both").exit_code == 0
    assert "train reuse" not in train(*CELL).stdout


def test_a_seed_added_to_one_that_trained_alone_trains_only_itself(project: Path) -> None:
    write(project, **SMALL | {"seeds": [0]})
    assert train(*CELL).exit_code == 0
    alone = made(project / "artifacts")
    write(project, **SMALL)
    done = train(*CELL, "--seeds-together")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("train reuse seed=0") == 1
    assert set(re.findall(r"train epoch seed=(\d)", done.stdout)) == {"1"}
    both = made(project / "artifacts")
    assert both.items() > alone.items() and len(both) == 2 * len(alone)
    anew = train(*CELL, "--seeds-together", "--force").stdout
    assert "train reuse" not in anew and set(re.findall(r"epoch seed=(\d)", anew)) == {"0", "1"}


def test_seeds_killed_together_go_on(project: Path) -> None:
    write(project, **SMALL | {"max_epochs": 8, "patience": 8})
    assert train(*CELL, "--seeds-together", "--out", "whole").exit_code == 0
    env = os.environ | {"PYTHONPATH": str(TREE), "SPECTRAN_CACHE": str(project / "other")}
    words = [sys.executable, "-m", "stages.cli", "train", *CELL, "--seeds-together", "--out", "cut"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "seed=0" in line and "epoch=3 " in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not made(project / "cut")
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train resume seed=0" in done.stdout and "train resume seed=1" in done.stdout
    assert " epoch=1 " not in done.stdout, "finished epochs are kept"
    assert_close(project / "cut", project / "whole")


def test_divergence_of_seeds_together_is_a_mistake_too(project: Path) -> None:
    words = ("--set", "train.learning_rate=1e30", "--out", "s", "--seeds-together")
    assert "lower train.learning_rate" in refused(*CELL, *words).lower()


def test_untrained_methods_have_nothing_to_train_together(project: Path) -> None:
    assert train("demo", "none", "none", "popularity", "--seeds-together").exit_code == 0


def test_seeds_that_cannot_be_batched_train_one_by_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the method says so, and the log does."""
    from pipeline.objectives.ranking import InfoNCE

    assert train(*CELL).exit_code == 0
    monkeypatch.setattr(InfoNCE, "stackable", False)
    done = train(*CELL, "--seeds-together", "--out", "asked")
    assert done.exit_code == 0, done.output
    assert "train one by one reason=id on sasrec cannot be batched over seeds" in done.stdout
    assert done.stdout.count("train reuse") == 2


# ------------------------------------------------------------------------- side by side


@pytest.mark.parametrize(("encoder", "method"), [("none", "id"), ("hash", "whitenrec")])
def test_seeds_side_by_side_write_the_same_bytes(project: Path, encoder: str, method: str) -> None:
    cell = ("demo", encoder, "sasrec", method)
    words = (*cell, "--threads", "1", "--out", "both", "--processes", "2")
    assert train(*cell, "--threads", "1").exit_code == 0
    done = train(*words, "--force")
    assert done.exit_code == 0, done.output
    assert made(project / "both") == made(project / "artifacts")
    log = Path(f"logs/out/train/{'-'.join(cell)}.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["event"] for e in events[:1]] == ["side by side"]
    for seed in (0, 1):
        mine = [e for e in events if e.get("seed") == seed]
        assert [e["event"] for e in mine] == ["epoch"] * 3 + ["done"]
        assert mine[-1]["rank_users"] == 40 and mine[-1]["seconds"] > 0
    assert train(*words).stdout.count("train reuse") == 2, "each way finds the other's work"


def test_as_many_processes_as_there_is_room_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*words: str) -> dict[str, int]:
        said = train(*CELL, "--device", "cpu", "--dry-run", "--json", *words)
        assert said.exit_code == 0, said.output
        return json.loads(said.stdout)

    def cores(count: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)

    long = ("--set", "train.max_epochs=10000", "--set", "train.threads=1", "--out", "s")
    cores(8)
    assert plan("--threads", "1")["processes"] == 1, "seeds of seconds"
    assert plan(*long)["processes"] == 2, "no more than seeds"
    assert plan(*long, "--threads", "5")["processes"] == 1, "no more threads than cores"
    assert plan(*long, "--processes", "1")["processes"] == 1
    assert plan(*long, "--one-by-one")["processes"] == 1
    assert plan(*long, "--seeds-together")["processes"] == 1
    one, two = (plan("--processes", n)["memory_bytes"] for n in "12")
    assert two > 2 * one, "two children, and the process that started them"
    cores(1)
    assert plan(*long)["processes"] == 1
    cores(8)
    free = psutil.virtual_memory()._replace(available=2 * one)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert plan(*long)["processes"] == 1, "memory for one"


def test_a_process_of_a_seed_keeps_to_its_threads(project: Path) -> None:
    """Whatever the environment says, which children inherit."""
    words = [sys.executable, "-c", THREADS, str(project / "params.yaml")]
    env = os.environ | {"PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "1"], done.stderr


THREADS = """
import sys
from pathlib import Path
import torch
from pipeline.params import load
from pipeline.training.store import SeedStore
from stages.seeds import _Alone

path = Path(sys.argv[1])
cell = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
print(torch.get_num_threads())
store = SeedStore(Path("c"), {})
job = _Alone(load(path), path.parent / "artifacts", 1, cell, 1, 0, Path("s"), {}, store)
job(log=lambda event, **fields: None, advance=lambda histories: None)
print(torch.get_num_threads())
"""


def test_seeds_that_diverge_side_by_side_are_a_mistake_too(project: Path) -> None:
    words = ("--set", "train.learning_rate=1e30", "--out", "s", "--processes", "2")
    done = train(*CELL, *words)
    assert done.exit_code == 2 and "lower train.learning_rate" in done.stderr.lower()
    assert done.stdout.count("train diverged seed=") == 2 and not made(project / "s")


def test_on_a_gpu_seeds_do_not_train_side_by_side() -> None:
    with pytest.raises(ConfigError, match=r"on a CPU only, found cuda:0.*add --device cpu"):
        _compatible(None, 2, "cuda:0")
    _compatible(None, 1, "cuda:0")


@pytest.mark.parametrize("how", ["SIGINT to all", "SIGKILL to the parent", "SIGKILL to a child"])
def test_seeds_stopped_side_by_side_go_on_to_the_same_bytes(
    project: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write(project, **SMALL | {"max_epochs": 120, "patience": 120})
    assert train(*CELL, "--out", "whole", "--threads", "1").exit_code == 0
    monkeypatch.setenv("SPECTRAN_CACHE", str(project / "other"))
    words = (*CELL, "--out", "cut", "--threads", "1", "--processes")
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.cli", "train", *words, "2"], start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(TREE)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    begun = set()
    while len(begun) < 2:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        found = re.search(r"seed=(\d) .* epoch=3 ", line)
        begun |= {found[1]} if found else set()
    family = psutil.Process(process.pid).children()
    seeds = [child for child in family if "spawn_main" in " ".join(child.cmdline())]
    assert len(seeds) == 2
    if how == "SIGINT to all":  # as a terminal does
        os.killpg(process.pid, signal.SIGINT)
    elif how == "SIGKILL to the parent":
        process.kill()
    else:
        seeds[0].kill()
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    if how == "SIGINT to all":
        assert process.returncode == 130
    elif how == "SIGKILL to a child":
        assert process.returncode == 2
        assert re.search(r"seeds? [01].* did not finish.*with --processes 1", said)
    assert not psutil.wait_procs(family, timeout=30)[1], "no orphans"
    wanted, cut = made(project / "whole"), made(project / "cut")
    assert all(content == wanted[name] for name, content in cut.items())

    done = train(*words, "1")
    assert done.exit_code == 0, done.output
    # A seed that began long before the other may have been done.
    assert done.stdout.count("train resume") + done.stdout.count("train reuse") == 2
    assert "train resume" in done.stdout
    assert " epoch=1 " not in done.stdout, "finished epochs are kept"
    assert made(project / "cut") == wanted
