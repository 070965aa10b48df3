"""What `spectran train` writes, and when it trains again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open

from tests.stages.train.commands import CELL, SMALL, made, train, write


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
