"""`spectran tune` as a user runs it: its trials, its file, what it refuses, what a kill costs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline.experiment.prepared import Experiment
from pipeline.params import load, read_revisions
from pipeline.tuning.journal import Journal, opened
from pipeline.values import Sequences
from stages.cli import build

APP = build()
TREE = Path(__file__).resolve().parents[2]
SMALL = {"width": 8, "max_epochs": 3, "patience": 3, "seeds": [0], "batch_size": 8}
CELL = ("demo", "none", "sasrec", "id")
TUNED = "tuned/demo/none/sasrec/id.json"
LISTS = {
    "trials": 5,
    "random_trials": 3,
    "seed": 0,
    "train_seed": 0,
    "space": {"train.weight_decay": [0.0, 0.01], "train.dropout": [0.0, 0.2, 0.4]},
    "methods": {"spectran": {"std": [0.02, 0.1]}},
    "backbones": {"bert4rec": {"rho": [0.2, 0.4, 0.6]}},
}
CLOZE = ("demo", "none", "bert4rec", "id")
RHO_ONLY = LISTS | {"space": {}}


@pytest.fixture
def project(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs and small settings, as working directory."""
    monkeypatch.chdir(tiny_root)
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    monkeypatch.setenv("SPECTRAN_SAVE_EVERY_S", "0")
    write(tiny_root, SMALL, LISTS)
    return tiny_root


def write(root: Path, train: dict[str, Any], tune: dict[str, Any]) -> None:
    """Set the training values of `demo`, and what is searched."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["datasets"]["demo"]["train"] = train
    content["tune"] = tune
    (root / "params.yaml").write_text(yaml.safe_dump(content))


def tune(*words: str) -> Result:
    return CliRunner().invoke(APP, ["tune", *words])


def answer(*words: str) -> dict[str, Any]:
    """Return what --json prints."""
    done = tune(*words, "--json")
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(*words: str) -> str:
    """Return the message of a command that a user's mistake stops."""
    done = tune(*words)
    assert done.exit_code == 2, f"{done.output}{done.exception!r}"
    assert "Traceback" not in done.output
    return done.stderr


def configurations(trials: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(trial["configuration"], sort_keys=True) for trial in trials]


def logged(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def without_clock(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in found["trials"]]


# ------------------------------------------------------------------------- what it does


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


class Untouchable:
    """Stands for the test split: any use of it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test split was used: {name}")

    def __ge__(self, other: object) -> Any:
        raise AssertionError("the test split was used")

    def __getitem__(self, key: object) -> Any:
        raise AssertionError("the test split was used")


def test_test_users_are_never_ranked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sequences.load

    def guarded(*words: Any) -> Sequences:
        found = whole(*words)
        object.__setattr__(found, "test_at", Untouchable())
        return found

    monkeypatch.setattr(Sequences, "load", guarded)
    assert len(answer(*CELL)["trials"]) == 5
    done = CliRunner().invoke(APP, ["train", *CELL])
    assert isinstance(done.exception, AssertionError), "training ranks them, and is caught"


def test_test_targets_cannot_change_the_choice(project: Path) -> None:
    from pipeline.values import Catalog

    before = without_clock(answer(*CELL))
    catalog = Catalog.load(project / "artifacts", "demo")
    data = Sequences.load(project / "artifacts", "demo", catalog)
    items = data.items.copy()
    items[data.offsets[:-1] + data.test_at] = 1
    changed = dataclasses.replace(data, items=items)
    changed.save(project / "artifacts", "demo", {})
    assert without_clock(answer(*CELL)) == before


# ------------------------------------------------------------------------- what a kill costs


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


# ------------------------------------------------------------------------- how it speaks


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


# ------------------------------------------------------------------------- writing


def test_the_choice_is_written_into_the_block_and_nothing_else_changes(project: Path) -> None:
    text = TREE.joinpath("params.yaml").read_text()
    small = "{width: 8, max_epochs: 3, patience: 3, seeds: [0], batch_size: 8}"
    text = text.replace("{width: 32, max_epochs: 12, patience: 3, seeds: [0, 1]}", small)
    text = re.sub(r"  id: \{.*\}\n", "  id: {} # the base\n", text)
    assert small in text and "# the base" in text
    Path("params.yaml").write_text(text)
    found = answer(*CELL, "--write")
    chosen = found["best"]["configuration"]
    changed = Path("params.yaml").read_text()
    old, new = text.splitlines(keepends=True), changed.splitlines(keepends=True)
    lines = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    assert len(lines) == 1 and lines[0][0] == "  id: {} # the base\n"
    assert re.fullmatch(r"  id: \{train: \{.*\}\} # the base\n", lines[0][1])
    train = yaml.safe_load(changed)["methods"]["id"]["train"]
    assert {f"train.{key}": value for key, value in train.items()} == chosen
    assert found["written"] == [f"artifacts/{TUNED}", "params.yaml"]
    assert found["next"] == "spectran train demo none sasrec id"
    again = tune(*CELL, "--write")
    assert Path("params.yaml").read_text() == changed, "the same search, the same choice"
    assert "tune trial " not in again.stdout


def test_a_variant_is_written_and_its_file_is_not(project: Path) -> None:
    words = ("demo", "hash", "sasrec", "spectran_softmax")
    before = yaml.safe_load(Path("params.yaml").read_text())["methods"]
    chosen = answer(*words, "--write")["best"]["configuration"]
    after = yaml.safe_load(Path("params.yaml").read_text())["methods"]
    assert after.pop("spectran_softmax") == before.pop("spectran_softmax") | {
        "std": chosen["std"],
        "train": {k: chosen[f"train.{k}"] for k in ("weight_decay", "dropout")},
    }
    assert after == before


def test_a_backbones_key_is_never_written(project: Path) -> None:
    write(project, SMALL, RHO_ONLY | {"space": {"train.dropout": [0.0, 0.2]}, "trials": 6})
    found = answer(*CLOZE)
    best, chosen = found["best"]["number"], found["best"]["configuration"]
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["backbones"]["bert4rec"]["rho"] = 0.6 if chosen["backbone.rho"] == 0.2 else 0.2
    before = yaml.safe_dump(content)
    Path("params.yaml").write_text(before)
    assert answer(*CLOZE)["next"] is None
    for said in (refused(*CLOZE, "--write"), tune(*CLOZE).stdout):
        assert f"backbones.bert4rec: the best trial has rho: {chosen['backbone.rho']} (the" in said
        assert "or write the value into backbones.bert4rec by hand" in said
    assert Path("params.yaml").read_text() == before

    content["backbones"]["bert4rec"]["rho"] = chosen["backbone.rho"]  # by hand, as it says
    Path("params.yaml").write_text(yaml.safe_dump(content))
    done = answer(*CLOZE, "--write")
    assert done["best"]["number"] == best and done["next"] == "spectran train demo none bert4rec id"
    content["methods"]["id"]["train"] = {"dropout": chosen["train.dropout"]}
    assert yaml.safe_load(Path("params.yaml").read_text()) == content


def test_values_changed_since_the_search_began_are_said(project: Path) -> None:
    first = answer(*CELL)["trials"]
    write(project, SMALL | {"dropout": 0.4}, LISTS)
    done = tune(*CELL)
    assert "began from other values" in done.stdout and "tune trial " not in done.stdout
    anew = answer(*CELL, "--force")["trials"]
    assert anew[0]["configuration"]["train.dropout"] == 0.4
    assert first[0]["configuration"]["train.dropout"] == 0.1


# ------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("demo none sasrec idd", "Did you mean id?"),
        ("demo none none popularity", "popularity is not trained: there is nothing to search"),
        ("demo none sasrec morec", "reads item text"),
        ("demo none sasrec id --trials 3", "--trials without --out: .*Add --out scratch/NAME"),
        ("demo none sasrec id --trials 0 --out s", "trials"),
        ("demo none sasrec id --write --out s", "--write with --out"),
        ("demo none sasrec id --set tune.trials=0 --out s", "tune.trials: .*greater than 0"),
        ("demo none sasrec id --set tune.trails=9 --out s", "Did you mean trials?"),
        (
            "demo none sasrec id --set 'tune.space={train.dropuot: [0.1]}' --out s",
            "tune.space: train.dropuot: unknown key. Did you mean train.dropout?",
        ),
        ("demo none sasrec id --set 'tune.space={train.dropout: [2]}' --out s", "less than 1"),
        ("demo none sasrec id --set 'tune.space={train.dropout: []}' --out s", "at least 1 item"),
        ("demo none sasrec id --set tune.space={} --out s", "nothing may change for id"),
        (
            "demo none bert4rec id --set 'tune.backbones={bert4rec: {roh: [0.2]}}' --out s",
            "tune.backbones.bert4rec: roh: unknown key. Did you mean rho?",
        ),
        (
            "demo none bert4rec id --set 'tune.backbones={bert4rec: {heads: [3]}}' "
            "--set tune.space={} --out s",
            "does not divide.*this is trial 1: backbone.heads = 3. Take one of these",
        ),
        (
            "demo none sasrec id --set 'tune.space={train.width: [9]}' "
            "--set backbones.sasrec.heads=2 --out s",
            "does not divide.*this is trial 1: train.width = 9. Take one of these",
        ),
    ],
)
def test_a_mistake_is_named_with_what_to_do(project: Path, words: str, said: str) -> None:
    assert re.search(said, refused(*shlex.split(words)), re.DOTALL)
    assert not (project / "artifacts" / "tuned").exists() and not (project / "s/tuned").exists()


def test_check_tells_what_is_wrong_with_the_lists(project: Path) -> None:
    wrong = {
        "space": {"train.droput": [0.1]},
        "methods": {"spectran": {"order": [0]}},
        "backbones": {"bert4rec": {"rho": [2]}},
    }
    write(project, SMALL, LISTS | wrong)
    done = CliRunner().invoke(APP, ["check"])
    assert done.exit_code == 2
    assert re.search(r"tune\.space: train\.droput: .*mean train\.dropout\?", done.stdout)
    assert "tune.methods.spectran: order: " in done.stdout
    assert "tune.backbones.bert4rec: rho: " in done.stdout


def test_without_optuna_it_says_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = refused(*CELL)
    assert "Optuna is not installed. Run: pip install -e '.[tune]'" in said
    assert len(said.splitlines()) == 1


# ------------------------------------------------------------------------- what is left over


def clean(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(APP, ["clean", "--searches", *words, "--json"])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_finished_searches_are_deleted_when_asked_and_others_go_on(project: Path) -> None:
    assert clean("--dry-run")["found"] == []
    wanted = answer(*CELL)
    under_way = Path(".cache/tune/trials/unfinished")
    under_way.mkdir()
    (under_way / "state.safetensors").write_bytes(b"x")
    other = Path(".cache/tune/searches/other")
    other.mkdir()
    (other / "journal.log").write_bytes(b"")
    written = (project / "artifacts" / TUNED).read_bytes()
    found = clean("--dry-run")
    assert len(found["found"]) == 5 + 1 and found["deleted"] is False
    assert not {str(under_way), str(other)} & set(found["found"])
    assert clean("--yes")["deleted"] is True
    assert list(Path(".cache/tune/trials").iterdir()) == [under_way]
    assert list(Path(".cache/tune/searches").iterdir()) == [other]
    assert (project / "artifacts" / TUNED).read_bytes() == written
    assert without_clock(answer(*CELL)) == without_clock(wanted), "found again, trained again"


def test_a_journal_with_more_trials_than_its_result_stays(project: Path) -> None:
    assert tune(*CELL).exit_code == 0
    path = project / "artifacts" / TUNED
    content = json.loads(path.read_text())
    content["trials"] = content["trials"][:3]  # as before a longer search that was killed
    path.write_text(json.dumps(content))
    assert not any("searches" in found for found in clean("--dry-run")["found"])


def test_a_journal_in_use_stays(project: Path) -> None:
    assert tune(*CELL).exit_code == 0
    (folder,) = Path(".cache/tune/searches").iterdir()
    with opened(folder, fresh=False):
        assert str(folder) not in clean("--dry-run")["found"]
    assert str(folder) in clean("--dry-run")["found"]


def test_clean_asks_what_to_delete(project: Path) -> None:
    done = CliRunner().invoke(APP, ["clean"])
    said = "clean --stale   (or: spectran clean --searches, spectran clean --kept-seeds)"
    assert done.exit_code == 2 and said in done.stderr
