"""Every benchmark tells how it is used, from wherever it is started, and times what it says."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline import config
from pipeline.training.fit import fit
from tests.composed import method

SCRIPTS = sorted(
    path for path in Path("benchmarks").glob("*.py") if '__name__ == "__main__"' in path.read_text()
)


def test_there_are_benchmarks() -> None:
    assert {"training_rectools", "training_text", "training_seeds"} <= {s.stem for s in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_explains_itself(script: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(script.absolute()), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = script.read_text()[3:].split("\n")[0]
    assert first in " ".join(done.stdout.split())


def test_costs_are_told_of_every_method(tiny_root: Path) -> None:
    script = Path("benchmarks/efficiency.py").absolute()
    words = "--encoder hash --methods id spectran --device cpu --epochs 1 --passes 1 --csv out.csv"
    small = "--set datasets.demo.train={width: 8, batch_size: 8}"
    command = [sys.executable, str(script), *words.split(), *small.split(" ", 1)]
    done = subprocess.run(
        [*command, "--params", "params.yaml"], cwd=tiny_root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "demo, hash, sasrec, 20 test users, width 8, cpu" in done.stdout
    with (tiny_root / "out.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["id", "spectran"]
    for name, row in rows.items():
        assert all(float(row[name]) > 0 for name in ("epoch_s", "steps_s", "rank_s"))
        assert f"| `{name}` | {int(row['parameters']):,} |" in done.stdout
    # 24 items and padding, 8 wide.
    assert int(rows["id"]["method_parameters"]) == 25 * 8
    assert rows["id"]["backbone_parameters"] == rows["spectran"]["backbone_parameters"]


def test_every_call_trains_one_more_epoch(
    params: config.Params, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the first epochs are trained anew in every round, and rounds do not alternate."""
    monkeypatch.syspath_prepend("benchmarks")
    from clock import Clock, one_more_epoch  # type: ignore[import-not-found]

    made, memory, clock, trained = method(params, inputs), one_more_epoch(), Clock(), []

    def log(event: str, **numbers: Any) -> None:
        clock.log(event, **numbers)
        if event == "epoch":
            trained.append(numbers["epoch"])

    for number in (1, 2, 3):
        train = params.train.model_copy(update={"max_epochs": number, "patience": number + 1})
        fit(made, inputs.sequences, train, 0, checkpoint=memory, log=log, advance=clock.advance)
    assert trained == [1, 2, 3]
    assert len(clock.whole) == len(clock.steps) == 3


def test_encoding_is_measured_from_the_smallest_with_a_cache_of_its_own(tmp_path: Path) -> None:
    """Rows of an earlier round would leave nothing to encode."""
    words = "benchmarks/encode.py memory --titles 30 10"
    environment = {**os.environ, "SPECTRAN_CACHE": str(tmp_path / "shared")}
    environment.pop("SPECTRAN_DATA", None)
    done = subprocess.run(
        [sys.executable, *words.split()], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert [run["titles"] for run in json.loads(done.stdout)["runs"]] == [10, 30]
    assert not (tmp_path / "shared").exists()


def test_a_folder_with_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    for name in ("interactions.parquet", "items.parquet"):
        pl.DataFrame({"item_id": ["a", "b"]}).write_parquet(tmp_path / name)
    words = f"benchmarks/preprocess.py --rows 3 --folder {tmp_path}"
    done = subprocess.run([sys.executable, *words.split()], capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds 2 rows, not 3" in done.stderr
