"""`spectran train` as a user runs it: what it writes, what it refuses, and what a kill costs."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from safetensors import safe_open
from typer.testing import CliRunner

from pipeline import artifacts
from pipeline.errors import ConfigError
from pipeline.values import Catalog, Sequences
from stages.cli import build
from stages.train import _compatible

APP = build()
TREE = Path(__file__).resolve().parents[2]
SMALL = {"width": 8, "max_epochs": 3, "patience": 3, "seeds": [0, 1], "batch_size": 8}
CELL = ("demo", "none", "sasrec", "id")


@pytest.fixture
def project(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs and small settings, as working directory."""
    monkeypatch.chdir(tiny_root)
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    monkeypatch.setenv("SPECTRAN_SAVE_EVERY_S", "0")
    write(tiny_root, **SMALL)
    return tiny_root


def write(root: Path, **train: Any) -> None:
    """Set the training values of `demo`."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["datasets"]["demo"]["train"] = train
    (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def train(*words: str) -> Result:
    return CliRunner().invoke(APP, ["train", *words])


def refused(*words: str) -> str:
    """Return the message of a command that a user's mistake stops."""
    done = train(*words)
    assert done.exit_code == 2, f"{done.output}{done.exception!r}"
    assert isinstance(done.exception, SystemExit | click.exceptions.Exit)
    assert "Traceback" not in done.output
    return done.stderr


def made(root: Path) -> dict[str, bytes]:
    """Return what training wrote under final names."""
    kinds = ("models", "curves", "ranks")
    files = [p for kind in kinds for p in (root / kind).rglob("*") if p.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# ------------------------------------------------------------------------- what it writes


def test_every_seed_leaves_a_model_curves_and_ranks(project: Path) -> None:
    done = train(*CELL)
    assert done.exit_code == 0, done.output
    cell = "demo/none/sasrec/id"
    assert set(made(project / "artifacts")) == {
        f"{kind}/{cell}/{seed}.{suffix}"
        for kind, suffix in (("models", "safetensors"), ("curves", "parquet"), ("ranks", "parquet"))
        for seed in (0, 1)
    }
    curves = pq.read_table(f"artifacts/curves/{cell}/0.parquet").to_pydict()
    assert sorted(set(curves["epoch"])) == [1, 2, 3]
    assert {"train/loss", "valid/ndcg@20", "std_id"} <= set(curves["name"])
    ranks = pq.read_table(f"artifacts/ranks/{cell}/0.parquet").to_pydict()
    assert ranks["split"] == ["valid"] * 20 + ["test"] * 20
    assert set(ranks["candidates"]) == {24}
    log = Path("logs/train/demo-none-sasrec-id.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["event"] for e in events] == (["epoch"] * 3 + ["done"]) * 2
    assert {"train/loss", "valid/ndcg@20", "std_id", "seconds"} <= set(events[0])
    ended = events[3]
    assert (ended["epochs"], ended["rank_users"]) == (3, 40) and ended["rank_seconds"] > 0
    assert train(*CELL).exit_code == 0
    again = [json.loads(line) for line in log.read_text().splitlines()]
    kept = set(ended) - {"event", "elapsed_s"}
    assert [e["event"] for e in again] == ["reuse"] * 2
    assert {n: again[0][n] for n in kept} == {n: ended[n] for n in kept}


@pytest.mark.parametrize("method", ["llminit", "morec", "alphafuse", "spectran"])
def test_methods_with_text_train(project: Path, method: str) -> None:
    write(project, **SMALL | {"seeds": [0], "max_epochs": 1})
    assert train("demo", "hash", "sasrec", method).exit_code == 0
    assert len(made(project / "artifacts")) == 3


def test_masked_items_and_the_full_softmax_train(project: Path) -> None:
    """Another kind of targets and a loss without negatives, both by settings alone."""
    loss = {"name": "softmax", "similarity": "dot", "temperature": 1.0}
    write(project, **SMALL | {"seeds": [0], "max_epochs": 1, "loss": loss})
    done = train("demo", "none", "bert4rec", "id")
    assert done.exit_code == 0, done.output
    assert len(made(project / "artifacts")) == 3
    model = project / "artifacts" / "models/demo/none/bert4rec/id/0.safetensors"
    with safe_open(model, "np") as file:
        assert file.get_slice("backbones.item.positions").get_shape() == [11, 8]


@pytest.mark.parametrize("words", [("none", "popularity"), ("hash", "text_neighbour")])
def test_untrained_methods_leave_ranks_only(project: Path, words: tuple[str, str]) -> None:
    encoder, method = words
    assert train("demo", encoder, "none", method).exit_code == 0
    assert list(made(project / "artifacts")) == [f"ranks/demo/{encoder}/none/{method}/0.parquet"]


def test_a_second_run_trains_nothing_and_force_trains_again(project: Path) -> None:
    assert train(*CELL).exit_code == 0
    wanted = made(project / "artifacts")
    again = train(*CELL)
    assert again.stdout.count("train reuse seed=") == 2 and "train epoch" not in again.stdout
    forced = train(*CELL, "--force")
    assert forced.stdout.count("train epoch") == 6 and made(project / "artifacts") == wanted


def test_an_added_seed_trains_only_itself(project: Path) -> None:
    assert train(*CELL).exit_code == 0
    write(project, **SMALL | {"seeds": [0, 1, 2]})
    done = train(*CELL)
    assert done.stdout.count("train reuse") == 2 and done.stdout.count("train done seed=2") == 1


def test_trying_something_touches_no_tracked_result_and_no_tracked_log(project: Path) -> None:
    assert train(*CELL).exit_code == 0
    tracked, log = made(project / "artifacts"), Path("logs/train/demo-none-sasrec-id.jsonl")
    said = log.read_bytes()
    changes = ("--set", "datasets.demo.train.seeds=[5]", "--set", "train.learning_rate=1e-2")
    assert train(*CELL, *changes, "--out", "scratch/a").exit_code == 0
    assert made(project / "artifacts") == tracked and log.read_bytes() == said
    assert {Path(name).stem for name in made(project / "scratch/a")} == {"5"}
    assert Path("logs/out/train/demo-none-sasrec-id.jsonl").exists()


def test_a_change_of_train_wins_over_the_data_set(project: Path) -> None:
    changes = ("--set", "train.seeds=[7]", "--set", "train.max_epochs=1")
    done = train(*CELL, *changes, "--out", "scratch/a")
    assert done.stdout.count("train epoch seed=7") == 1 and "seed=0" not in done.stdout
    assert {Path(name).stem for name in made(project / "scratch/a")} == {"7"}


def test_a_value_that_the_method_outranks_is_said(project: Path) -> None:
    write(project, **SMALL | {"seeds": [0], "max_epochs": 1, "dropout": 0.6})
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["methods"]["id"]["train"] = {"dropout": 0.3}
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    done = train(*CELL, "--dry-run")
    said = "datasets.demo.train.dropout is outranked by methods.id.train (0.3)"
    assert done.exit_code == 0 and said in done.stderr
    assert "outranked" not in train("demo", "hash", "sasrec", "morec", "--dry-run").stderr
    change = ("--set", "datasets.demo.train.dropout=0.65", "--out", "scratch/a")
    done = train(*CELL, *change)
    assert done.exit_code == 0 and "outranked" not in done.stderr
    ranks = pq.read_schema("scratch/a/ranks/demo/none/sasrec/id/0.parquet")
    header = json.loads(ranks.metadata[b"spectran"])
    assert header["params"]["train"]["dropout"] == 0.65


# ------------------------------------------------------------------------- how it speaks


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


def gridded(root: Path, **groups: Any) -> None:
    """Let the grid hold these groups only."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    for name, group in content["grid"].items():
        if isinstance(group, dict):
            group["method"] = groups.pop(name, [])
    assert not groups
    (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


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


# ------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dmeo none sasrec id", "Did you mean demo?"),
        ("demo hsah sasrec morec", "Did you mean hash?"),
        ("demo none sasrek id", "Did you mean sasrec?"),
        ("demo hash sasrec spectrann", "Did you mean spectran?"),
        ("demo hash sasrec id", "reads no text.*Run: spectran train demo none sasrec id"),
        ("demo none sasrec morec", "reads item text.*Run: spectran train demo .+ sasrec morec"),
        ("demo none none id", "is trained.*Run: spectran train demo none sasrec id"),
        ("demo none sasrec popularity", "Run: spectran train demo none none popularity"),
        ("demo hash sasrec popularity", "no text.*not trained.*train demo none none popularity"),
        ("demo none sasrec id --set train.width=8", "Add --out scratch/NAME"),
        ("demo none sasrec id --set train.widht=8 --out s", "Did you mean width?"),
        ("demo none sasrec id --set train.width --out s", "expected KEY=VALUE"),
        ("demo none sasrec id --set methods.spectran.ordr=2 --out s", "Did you mean order?"),
        ("demo none sasrec id --set datasets.demo.train.seeds=[0,0] --out s", "named twice"),
        ("demo none sasrec id --set datasets.demo.train.seeds=[] --out s", "at least 1 item"),
        ("demo none sasrec id --set train.learning_rate=fast --out s", "valid number"),
        ("demo none sasrec id --device gpu", "Allowed: auto, cpu, cuda:N"),
        ("demo none sasrec id --device cuda:99", "CUDA devices. Use --device cpu"),
        ("demo none sasrec id --threads 0", "threads"),
        ("demo none sasrec id --processes 0", "processes"),
        ("demo none sasrec id --processes 2 --seeds-together", "--seeds-together and.+ exclude"),
        ("demo none sasrec id --processes 2 --one-by-one", "--one-by-one and --processes exclude"),
        ("demo none sasrec id --out params.yaml", "A folder is expected"),
        (
            "demo none sasrec id --set backbones.sasrec.heads=3 --out s",
            r"does not divide the width 8 \(datasets\.demo\.train\.width\)",
        ),
        ("demo none sasrec id --set backbones.sasrec.history=0 --out s", "greater than 0"),
        ("demo hash sasrec llminit --set datasets.demo.train.width=16 --out s", "11 components"),
        ("demo hash sasrec alphafuse --set datasets.demo.train.width=16 --out s", "11 components"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(project: Path, words: str, said: str) -> None:
    # Every view keeps 11 components, so that a width of 16 is too much.
    if "components" in said:
        shorten(project, 11)
    assert re.search(said, refused(*words.split()), re.DOTALL | re.IGNORECASE)
    assert not made(project / "artifacts") and not made(project / "s")


def shorten(root: Path, components: int) -> None:
    """Cut the centred spectrum of `hash` to some components."""
    cell = {"dataset": "demo", "encoder": "hash", "view": "centred"}
    catalog = Catalog.load(root / "artifacts", "demo")
    arrays, _ = artifacts.SPECTRUM.load(root / "artifacts", **cell)
    cut = {n: a[..., :components] if n in "usv" else a for n, a in arrays.items()}
    whole = {name: np.ascontiguousarray(array) for name, array in cut.items()}
    artifacts.SPECTRUM.save(root / "artifacts", whole, items=catalog.fingerprint, params={}, **cell)


@pytest.mark.parametrize(
    ("words", "absent", "command"),
    [
        ("demo none sasrec id", "data/demo/items.parquet", "spectran preprocess demo"),
        ("demo none sasrec id", "data/demo/sequences.parquet", "spectran preprocess demo"),
        ("demo hash sasrec morec", "semantic/demo/hash.safetensors", "spectran encode demo hash"),
        (
            "demo hash sasrec spectran",
            "spectrum/demo/hash/unit.safetensors",
            "spectran spectrum demo hash",
        ),
    ],
)
def test_a_missing_input_names_its_command(
    project: Path, words: str, absent: str, command: str
) -> None:
    (project / "artifacts" / absent).unlink()
    said = refused(*words.split())
    assert f"artifacts/{absent} is missing" in said and f"Run: {command}" in said


def test_text_of_other_items_is_refused(project: Path) -> None:
    artifacts.SEMANTIC.save(
        project / "artifacts",
        {"values": np.zeros((25, 4), np.float32)},
        items="b" * 64,
        params={},
        dataset="demo",
        encoder="hash",
    )
    said = refused("demo", "hash", "sasrec", "morec")
    assert "made from other items" in said and "spectran encode demo hash" in said


def replaced(root: Path, catalog: Catalog, **changes: Any) -> None:
    """Write sequences of `demo` with other values."""
    held = np.full(4, -1)
    values = {
        "items": np.ones(12, np.int64),
        "offsets": np.arange(5) * 3,
        "train_end": np.full(4, 2),
        "valid_at": held,
        "test_at": np.full(4, 2),
        **changes,
    }
    users = pa.array([f"u{n}" for n in range(4)])
    data = Sequences(
        raw_users=users,
        times=None,
        num_items=len(catalog),
        fingerprint=catalog.fingerprint,
        **values,
    )
    data.save(root / "artifacts", "demo", {})


def test_without_validation_users_nothing_is_trained(project: Path) -> None:
    replaced(project, Catalog.load(project / "artifacts", "demo"))
    said = refused(*CELL)
    assert "train: demo: the validation split is empty" in said and "at least one user" in said
    assert "Use data with more users, or another datasets.demo.preprocess.split" in said


def test_without_training_events_nothing_is_trained(project: Path) -> None:
    catalog = Catalog.load(project / "artifacts", "demo")
    replaced(project, catalog, train_end=np.ones(4, int), valid_at=np.ones(4, int))
    said = refused(*CELL)
    assert "train: demo: no user has two training events, and at least one must" in said
    assert "Lower datasets.demo.preprocess.core, or use another datasets.demo.prep" in said


def test_a_catalogue_of_one_item_is_refused(project: Path) -> None:
    table = Catalog.load(project / "artifacts", "demo").table.slice(0, 1)
    catalog = Catalog.of(table)
    catalog.save(project / "artifacts", "demo", {})
    replaced(project, catalog, valid_at=np.full(4, 2), test_at=np.full(4, -1))
    assert "demo: the catalogue has one item, and ranking needs at least two" in refused(*CELL)


def test_divergence_names_the_learning_rate(project: Path) -> None:
    said = refused(*CELL, "--set", "train.learning_rate=1e30", "--out", "s")
    assert "lower train.learning_rate" in said.lower() and not made(project / "s")


@pytest.mark.parametrize("content", ["encode: 1\n", "encode: 1\ntrain: new\n"])
def test_a_revision_that_is_no_number_is_named(project: Path, content: str) -> None:
    (project / "revisions.yaml").write_text(content)
    assert re.search("revisions.yaml: train: found .*a whole number", refused(*CELL))


def test_a_full_disk_names_the_log(project: Path) -> None:
    log = project / "logs/train/demo-none-sasrec-id.jsonl"
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    said = refused(*CELL)
    assert f"{log.relative_to(project)}: No space left on device. Free some space" in said


def test_a_wrong_interval_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRAN_SAVE_EVERY_S", "often")
    assert "SPECTRAN_SAVE_EVERY_S: often is no number" in refused(*CELL)


# ------------------------------------------------------------------------- seeds together


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


def test_seeds_together_write_what_they_write_one_by_one(project: Path) -> None:
    assert train(*CELL).exit_code == 0
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
    """Sums differ in the last bit, so each way finds its own work only."""
    assert train(*CELL, "--seeds-together", "--out", "both").exit_code == 0
    assert "train reuse" not in train(*CELL).stdout


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


# ------------------------------------------------------------------------- seeds side by side


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
from stages.train import _Alone

path = Path(sys.argv[1])
cell = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
print(torch.get_num_threads())
store = SeedStore(Path("c"))
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
    assert process.stdout is not None
    begun = set()
    while len(begun) < 2:
        found = re.search(r"seed=(\d) .* epoch=3 ", process.stdout.readline())
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


# ------------------------------------------------------------------------- what is kept


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
