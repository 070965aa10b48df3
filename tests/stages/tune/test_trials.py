"""Which trials `spectran tune` runs, how it judges them, what its file says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.experiment.prepared import Experiment
from pipeline.params import load, read_revisions
from tests.stages.tune.commands import (
    APP,
    CELL,
    CLOZE,
    LISTS,
    RHO_ONLY,
    SMALL,
    TUNED,
    answer,
    configurations,
    logged,
    refused,
    tune,
    without_clock,
    write,
)


@pytest.mark.parametrize("cell", [CELL, ("demo", "hash", "sasrec", "spectran")])
def test_every_method_gets_the_same_number_of_different_trials(
    project: Path, cell: tuple[str, ...]
) -> None:
    found = answer(*cell)
    trials = found["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4]
    assert len(set(configurations(trials))) == 5
    present = {"train.weight_decay": 0.0, "train.dropout": 0.1}
    own = {"std": 0.02} if cell[3] == "spectran" else {}
    assert trials[0]["configuration"] == present | own, "the present values come first"
    assert found["objective"] == "valid/ndcg@20"
    assert found["best"] == max(trials, key=lambda trial: trial["value"])
    assert {trial["best_epoch"] for trial in trials} <= {1, 2, 3}


def test_a_trial_is_judged_by_what_early_stopping_watches(project: Path) -> None:
    first = answer(*CELL)["trials"][0]
    assert CliRunner().invoke(APP, ["train", *CELL]).exit_code == 0
    curves = pq.read_table("artifacts/curves/demo/none/sasrec/id/0.parquet").to_pylist()
    watched = {c["epoch"]: c["value"] for c in curves if c["name"] == "valid/ndcg@20"}
    assert first["value"] == max(watched.values()) == watched[first["best_epoch"]]


def test_the_file_names_trials_best_and_what_they_depend_on(project: Path) -> None:
    found = answer(*CELL)
    kept = json.loads((project / "artifacts" / TUNED).read_text())
    assert kept["artifact"] == "tuned" and kept["trials"] == without_clock(found)
    assert kept["best"] == kept["trials"][found["best"]["number"]]
    depends = kept["depends"]
    assert depends["space"] == {k: list(v) for k, v in LISTS["space"].items()}
    assert "dropout" not in depends["train"] and depends["train"]["width"] == 8
    assert set(depends["inputs"]) == {"items", "sequences"} and depends["seed"] == 0
    assert found["written"] == [f"artifacts/{TUNED}"]
    assert CliRunner().invoke(APP, ["verify"]).stderr == "", "verify knows the file"


def test_trials_depend_on_no_list_of_another_backbone(project: Path) -> None:
    """A finished search must stay one when keys of another backbone get lists."""
    answer(*CELL)
    depends = json.loads((project / "artifacts" / TUNED).read_text())["depends"]
    fields = dict(zip(("dataset", "encoder", "backbone", "method"), CELL, strict=True))
    params, revision = load(Path("params.yaml")), read_revisions(project)["train"]
    identity = Experiment.prepare(params, project / "artifacts", revision, fields).identity(0)
    train = {k: v for k, v in identity["train"].items() if k not in ("weight_decay", "dropout")}
    import optuna

    assert depends == identity | {
        "train": train,
        "device": "cpu",
        "threads": 1,
        "space": LISTS["space"],
        "search_seed": 0,
        "random_trials": 3,
        "optuna": optuna.__version__,
    }
    write(project, SMALL, LISTS | {"backbones": {}})
    assert "tune trial " not in tune(*CELL).stdout


def test_a_backbones_key_is_searched_and_the_file_names_it(project: Path) -> None:
    write(project, SMALL, RHO_ONLY)
    done = tune(*CLOZE)
    assert done.exit_code == 0, done.output
    kept = json.loads((project / "artifacts" / "tuned/demo/none/bert4rec/id.json").read_text())
    found = {t["configuration"]["backbone.rho"]: t["value"] for t in kept["trials"]}
    assert next(iter(found)) == 0.4 and set(found) == {0.2, 0.4, 0.6}
    assert len(set(found.values())) == 3, "every trial trains with its own rho"
    assert kept["depends"]["space"] == {"backbone.rho": [0.2, 0.4, 0.6]}
    assert "rho" not in kept["depends"]["backbone"] and kept["depends"]["backbone"]["inner"] == 4
    best = kept["best"]["configuration"]["backbone.rho"]
    assert f"bert4rec with rho {best}, as a block of `methods`:\nid: {{}}\n" in done.stdout
    assert "configuration={'backbone.rho': 0.6}" in done.stdout

    content = yaml.safe_load(Path("params.yaml").read_text())
    content["backbones"]["bert4rec"]["rho"] = 0.6
    Path("params.yaml").write_text(yaml.safe_dump(content))
    assert CliRunner().invoke(APP, ["train", *CLOZE]).exit_code == 0
    curves = pq.read_table("artifacts/curves/demo/none/bert4rec/id/0.parquet").to_pylist()
    assert found[0.6] == max(c["value"] for c in curves if c["name"] == "valid/ndcg@20")


def test_other_values_of_a_backbones_key_are_another_search(project: Path) -> None:
    write(project, SMALL, RHO_ONLY)
    answer(*CLOZE)
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["backbones"]["bert4rec"] |= {"rho": 0.6}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    assert "tune trial " not in tune(*CLOZE).stdout, "what is searched is no part of the identity"
    content["tune"]["backbones"]["bert4rec"]["rho"] = [0.2, 0.4, 0.6, 0.8]
    Path("params.yaml").write_text(yaml.safe_dump(content))
    done = tune(*CLOZE).stdout
    assert "tune reuse" not in done and done.count(" epoch=1 ") == 1, "three of four were trained"
    content["backbones"]["bert4rec"]["last_only"] = 0.5
    Path("params.yaml").write_text(yaml.safe_dump(content))
    assert tune(*CLOZE).stdout.count(" epoch=1 ") == 4, "the rest of the block is"


def test_the_table_shows_every_trial_and_marks_the_best(project: Path) -> None:
    done = tune(*CELL)
    lines = done.stdout.splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("trial  "))
    assert lines[head].split() == [
        "trial", "valid/ndcg@20", "best", "epoch", "seconds", "train.dropout", "train.weight_decay",
    ]  # fmt: skip
    rows = lines[head + 1 : head + 6]
    assert [row.split()[0] for row in rows] == list("01234")
    assert sum(" * " in row for row in rows) == 1
    shown = yaml.safe_load("\n".join(lines[head + 8 : -1]))
    assert set(shown["id"]["train"]) == {"weight_decay", "dropout"}
    assert lines[-1].endswith("Next: spectran tune demo none sasrec id --write")
    log = logged("logs/tune/demo-none-sasrec-id.jsonl")
    assert [e["event"] for e in log] == (["epoch"] * 3 + ["trial"]) * 5


def test_a_small_grid_is_tried_whole(project: Path) -> None:
    write(project, SMALL, LISTS | {"space": {"train.dropout": [0.1, 0.3]}})
    trials = answer(*CELL)["trials"]
    assert [trial["configuration"]["train.dropout"] for trial in trials] == [0.1, 0.3]


def test_a_configuration_that_diverges_counts_and_is_not_the_best(project: Path) -> None:
    write(project, SMALL, LISTS | {"space": {"train.learning_rate": [1e-3, 1e30]}})
    found = answer(*CELL)
    assert [trial["value"] is None for trial in found["trials"]] == [False, True]
    assert found["best"]["number"] == 0
    assert re.search(r"^1 +diverged", tune(*CELL).stdout, re.MULTILINE)


def test_when_every_configuration_diverges_it_says_so(project: Path) -> None:
    write(project, SMALL | {"learning_rate": 1e30},
          LISTS | {"space": {"train.learning_rate": [1e30, 1e31]}})  # fmt: skip
    assert "none of 2 configurations could be trained" in refused(*CELL)
    assert not (project / "artifacts" / TUNED).exists()


def test_dry_run_shows_the_space_and_the_trials_and_writes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    plan = answer(*CELL, "--dry-run")
    assert plan["space"] == {
        "train.dropout": [0.0, 0.2, 0.4, 0.1], "train.weight_decay": [0.0, 0.01],
    }  # fmt: skip
    assert plan["configurations"] == 8 and plan["writes"] == [f"artifacts/{TUNED}"]
    assert [trial["configuration"] is None for trial in plan["trials"]] == [False] * 3 + [True] * 2
    text = tune(*CELL, "--dry-run").stdout
    assert "space: 8 configurations" in text and text.count("from results") == 2
    assert sorted(project.rglob("*")) == before
    done = answer(*CELL)["trials"]
    assert configurations(plan["trials"])[:3] == configurations(done)[:3]
    assert answer(*CELL, "--dry-run")["trials"] == done


def test_quiet_prints_what_was_asked_for_only(project: Path) -> None:
    done = tune(*CELL, "--quiet")
    assert done.stderr == "" and done.stdout.startswith("trial  ")
