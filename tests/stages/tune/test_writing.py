"""`--write` changes the block of the choice and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.stages.tune.commands import (
    CELL,
    CLOZE,
    LISTS,
    RHO_ONLY,
    SMALL,
    TREE,
    TUNED,
    answer,
    refused,
    tune,
    write,
)


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
    said = " ".join((again.stdout + again.stderr).split())
    assert f"wrote artifacts/{TUNED}; params.yaml holds the choice already" in said


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
