"""What `spectran train` refuses, and what it says to do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline import artifacts
from pipeline.values import Catalog
from tests.stages.train.commands import (
    CELL,
    made,
    refused,
    replaced,
)


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
        ("demo none sasrec id --device cuda:\N{SUPERSCRIPT TWO}", "Allowed: auto, cpu, cuda:N"),
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
    log = (project / "logs/out/train/demo-none-sasrec-id.jsonl").read_text()
    assert '"event": "diverged"' in log


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


def test_a_device_with_too_little_memory_is_told_before_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1000, 2000))
    said = refused(*CELL, "--device", "cuda:0")
    assert re.search(r"needs about .+ of memory on cuda:0, 1\.0 kB is free", said)
