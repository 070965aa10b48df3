"""How `spectran train` speaks: scores, what comes next, JSON, pipes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.values import Catalog
from tests.stages.train.commands import (
    CELL,
    TREE,
    gridded,
    replaced,
    train,
)


def reached(root: Path, cell: tuple[str, ...], seeds: tuple[int, ...], k: int) -> dict[str, float]:
    """NDCG and HR over users and seeds, from the counts in the files."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for row in pq.read_table(root / "ranks" / "/".join(cell) / f"{seed}.parquet").to_pylist():
            rank = 1 + row["greater"] + row["equal"] / 2
            gain = 1 / math.log2(rank + 1) if rank <= k else 0.0
            found.setdefault(f"{row['split']}/ndcg@{k}", []).append(gain)
            found.setdefault(f"{row['split']}/hr@{k}", []).append(float(rank <= k))
    return {name: sum(values) / len(values) for name, values in found.items()}


def shown(values: dict[str, float], k: int) -> str:
    """As a person reads them."""
    short = {name: f"{value:.4f}".removeprefix("0") for name, value in values.items()}
    return "; ".join(
        f"{split} NDCG@{k} {short[f'{split}/ndcg@{k}']}, HR@{k} {short[f'{split}/hr@{k}']}"
        for split in ("valid", "test")
    )


def test_a_trial_is_told_its_scores_and_those_of_reused_seeds(project: Path) -> None:
    out = ("--set", "evaluate.ks=[2,5,8]", "--out", "scratch/one")
    done = train(*CELL, *out)
    wanted = reached(project / "scratch/one", CELL, (0, 1), 5)
    assert len(set(wanted.values())) > 2 and 0 < wanted["test/hr@5"] < 1
    assert done.stdout.splitlines()[-2] == f"train: {shown(wanted, 5)} (2 seeds)"
    again = train(*CELL, *out)
    assert "train reuse" in again.stdout
    assert again.stdout.splitlines()[-2] == done.stdout.splitlines()[-2]
    one = train(*CELL, *out, "--set", "train.seeds=[1]")
    alone = reached(project / "scratch/one", CELL, (1,), 5)
    assert f"train: {shown(alone, 5)} (1 seed)" in one.stdout
    assert json.loads(train(*CELL, *out, "--json").stdout)["scores"] == pytest.approx(wanted)
    assert train(*CELL, *out, "--quiet").output == ""


def test_an_untrained_method_is_told_its_scores_at_the_cut_off_of_the_report(project: Path) -> None:
    cell = ("demo", "none", "none", "popularity")
    done = train(*cell)
    assert done.stdout.splitlines()[-2] == (
        f"train: {shown(reached(project / 'artifacts', cell, (0,), 20), 20)}"
    )


def test_a_split_without_users_is_said(project: Path) -> None:
    catalog = Catalog.load(project / "artifacts", "demo")
    replaced(project, catalog, test_at=np.full(4, -1), valid_at=np.full(4, 2))
    done = train("demo", "none", "none", "popularity")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-2].endswith("; test has no users")


def test_dry_run_says_what_it_would_do_and_writes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = train(*CELL, "--dry-run", "--device", "cpu")
    assert done.exit_code == 0 and "device cpu" in done.stdout
    assert "writes artifacts/ranks/demo/none/sasrec/id/1.parquet" in done.stdout
    plan = json.loads(train(*CELL, "--dry-run", "--json", "--device", "cpu").stdout)
    assert plan["device"] == "cpu" and len(plan["writes"]) == 6 and plan["memory_bytes"] > 0
    assert all(entry["exists"] for entry in plan["reads"])
    assert sorted(project.rglob("*")) == before


def test_the_end_names_the_next_missing_cell_and_then_evaluate(project: Path) -> None:
    gridded(project, baseline=["popularity", "transition"], plain=["id"])

    def following(*cell: str) -> str:
        return train("demo", "none", *cell).stdout.splitlines()[-1].split(" Next: ")[1]

    assert following("none", "transition") == "spectran train demo none none popularity"
    assert following("none", "popularity") == "spectran train demo none sasrec id"
    assert following("sasrec", "id") == "spectran evaluate demo"
    Path("artifacts/ranks/demo/none/sasrec/id/1.parquet").unlink()
    assert following("none", "popularity") == "spectran train demo none sasrec id"


def test_the_end_of_a_cell_outside_the_grid_says_where_it_belongs(project: Path) -> None:
    gridded(project, baseline=["popularity"])
    said = train("demo", "none", "none", "transition").stdout
    assert "Next: put demo/none/none/transition into a group of `grid` in params.yaml" in said
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["grid"]["dataset"] = ["toys"]
    Path("params.yaml").write_text(yaml.safe_dump(content))
    said = train("demo", "none", "none", "popularity").stdout
    assert "Next: add demo to grid.dataset in params.yaml, and run: dvc repro" in said


def test_a_mistake_in_the_grid_does_not_fail_what_was_trained(project: Path) -> None:
    gridded(project, baseline=["popularity", "popularity"])
    done = train("demo", "none", "none", "popularity")
    assert done.exit_code == 0 and done.stdout.splitlines()[-1].endswith("Next: spectran check")


def test_json_is_one_object_and_quiet_is_silent(project: Path) -> None:
    answer = json.loads(train(*CELL, "--json").stdout)
    assert (
        answer["seeds"] == [0, 1] and answer["next"] == "spectran train demo none none popularity"
    )
    assert answer["bytes"] == sum(Path(p).stat().st_size for p in answer["written"])
    quiet = train(*CELL, "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_a_pipe_gets_no_bar_and_no_colour(project: Path, variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli", "train", "demo", "none", "none", "popularity"],
        env=os.environ | {"PYTHONPATH": str(TREE)} | variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
