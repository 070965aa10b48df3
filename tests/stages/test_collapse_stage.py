"""`spectran collapse` as a user runs it: on trained cells, before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline import artifacts
from pipeline.experiment.prepared import Experiment
from pipeline.params import load
from pipeline.spectral.collapse import summarise
from stages.cli import build
from tests.conftest import TinyInputs

APP = build()
METHODS = ("morec", "alphafuse", "spectran", "llminit", "rlmrec")
PARTS = {
    "id": {"table"},
    "morec": {"semantic"},
    "alphafuse": {"semantic"},
    "spectran": {"semantic"},
    "llminit": {"table"},
    "rlmrec": {"table", "semantic"},
}


@pytest.fixture
def project(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small grid of trained cells and one that is not trained."""
    monkeypatch.chdir(tiny_root)
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    content = yaml.safe_load(Path("params.yaml").read_text())
    grid: dict[str, Any] = content["grid"]
    grid["encoder"] = ["hash"]
    grid["text"] |= {"encoder": ["hash"], "method": list(METHODS)}
    grid["baseline_text"] |= {"encoder": ["hash"]}
    content["datasets"]["demo"]["train"] = {
        "width": 8, "max_epochs": 2, "patience": 2, "seeds": [0, 1], "batch_size": 8
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tiny_root


def run(*words: str) -> Result:
    return CliRunner().invoke(APP, list(words))


def trained() -> None:
    for cell in (("none", "sasrec", "id"), *(("hash", "sasrec", name) for name in METHODS)):
        assert run("train", "demo", *cell).exit_code == 0


def rows() -> list[dict[str, Any]]:
    table, _ = artifacts.COLLAPSE.load(Path("artifacts"), dataset="demo")
    return list(table.to_pylist())


def test_every_trained_seed_is_measured_before_and_after(project: Path) -> None:
    trained()
    done = run("collapse", "demo")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].endswith("Next: spectran report")
    cell = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
    _, ranks = artifacts.RANKS.load(Path("artifacts"), **cell, seed=0)
    for artifact in (artifacts.COLLAPSE, artifacts.SIZES):
        _, header = artifact.load(Path("artifacts"), dataset="demo")
        assert header["params"]["made"]["demo/none/sasrec/id"] | {"seed": 0} == ranks["params"]
    found = {(r["method"], r["part"], r["seed"], r["state"]): r for r in rows()}
    assert len(found) == len(rows())
    assert set(found) == {
        (method, part, seed, state)
        for method, parts in PARTS.items()
        for part in parts
        for seed in (0, 1)
        for state in ("initial", "trained")
    }
    for seed in (0, 1):
        cell = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
        arrays, _ = artifacts.MODEL.load(Path("artifacts"), **cell, seed=seed)
        weight = arrays["adapters.item.weight"][1:]
        row = found["id", "table", seed, "trained"]
        assert row["cumulative"] == summarise(weight).cumulative
        assert (row["items"], row["width"]) == weight.shape


def test_the_saved_parameters_are_counted(project: Path) -> None:
    """Where every trained parameter is saved, the file holds as many numbers."""
    trained()
    assert run("collapse", "demo").exit_code == 0
    table, _ = artifacts.SIZES.load(Path("artifacts"), dataset="demo")
    found = {row["method"]: row for row in table.to_pylist()}
    assert list(found) == ["id", *METHODS]
    for method, row in found.items():
        cell = {name: row[name] for name in ("encoder", "backbone", "method")}
        arrays, _ = artifacts.MODEL.load(Path("artifacts"), dataset="demo", **cell, seed=0)
        backbone = sum(a.size for n, a in arrays.items() if n.startswith("backbones."))
        assert row["backbone_parameters"] == backbone, method
        whole = sum(a.size for a in arrays.values())
        assert row["method_parameters"] == whole - backbone, method


def test_the_start_is_that_of_training(project: Path) -> None:
    """What a seed starts from is seen by training it for one step of no length."""
    settings = ("--set", "train.learning_rate=1e-30", "--set", "datasets.demo.train.max_epochs=1")
    trained()
    assert run("collapse", "demo").exit_code == 0
    found = {(r["method"], r["seed"]): r for r in rows() if r["state"] == "initial"}
    assert run("train", "demo", "none", "sasrec", "id", *settings, "--out", "still").exit_code == 0
    cell = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
    for seed in (0, 1):
        arrays, _ = artifacts.MODEL.load(Path("still"), **cell, seed=seed)
        start = summarise(arrays["adapters.item.weight"][1:])
        assert np.allclose(found["id", seed]["cumulative"], start.cumulative, atol=1e-7)
    first, second = (found["id", seed]["cumulative"] for seed in (0, 1))
    assert first != second


def test_the_text_part_is_measured_before_id_vectors_join(project: Path) -> None:
    trained()
    params = load(Path("params.yaml"))
    cell = {"dataset": "demo", "encoder": "hash", "backbone": "sasrec", "method": "alphafuse"}
    work = Experiment.prepare(params, Path("artifacts"), 2, cell)
    initial, after = work.item_vectors(0)
    assert (initial.state, after.state) == ("initial", "trained")
    assert np.array_equal(initial.rows, after.rows), "AlphaFuse's text columns are frozen"
    assert np.allclose(np.cov(initial.rows.T), np.eye(8), atol=1e-4)


def test_text_in_the_loss_is_measured_beside_the_item_vectors(project: Path) -> None:
    """Of the saved tensors, by hand; before training, of those that the seed draws."""
    trained()
    assert run("collapse", "demo").exit_code == 0
    text = TinyInputs().semantic.values[1:].astype(np.float64)
    text *= 40 / np.linalg.norm(text, axis=1).mean()
    cell = {"dataset": "demo", "encoder": "hash", "backbone": "sasrec", "method": "rlmrec"}
    found = {(r["part"], r["seed"], r["state"]): r for r in rows() if r["method"] == "rlmrec"}
    for seed in (0, 1):
        arrays, _ = artifacts.MODEL.load(Path("artifacts"), **cell, seed=seed)
        start = "objectives.alignment.pair.projector."
        weights, biases = ([arrays[f"{start}{n}.{k}"] for n in (0, 2)] for k in ("weight", "bias"))
        inner = text @ weights[0].T + biases[0]
        projected = np.where(inner > 0, inner, 0.01 * inner) @ weights[1].T + biases[1]
        wanted = {"semantic": projected, "table": arrays["adapters.item.weight"][1:]}
        for part, values in wanted.items():
            row = found[part, seed, "trained"]
            assert (row["items"], row["width"], row["view"]) == (*values.shape, "item")
            x = values - values.mean(0)
            energy = np.linalg.svd(x, compute_uv=False) ** 2
            assert np.allclose(row["cumulative"], np.cumsum(energy / energy.sum()), atol=1e-5)
            assert row["cumulative"] != found[part, seed, "initial"]["cumulative"]


def test_a_model_without_the_terms_of_its_loss_is_refused(project: Path) -> None:
    """As versions before saved it: the same cell and settings, the item table alone."""
    trained()
    cell = {"dataset": "demo", "encoder": "hash", "backbone": "sasrec", "method": "rlmrec"}
    arrays, header = artifacts.MODEL.load(Path("artifacts"), **cell, seed=0)
    kept = {n: a for n, a in arrays.items() if not n.startswith("objectives.")}
    assert len(kept) == len(arrays) - 4
    artifacts.MODEL.save(
        Path("artifacts"), kept, items=header["items"], params=header["params"], **cell, seed=0
    )
    done = run("collapse", "demo")
    assert done.exit_code == 2 and "holds other tensors than the method has now" in done.stderr
    assert "Run: spectran train demo hash sasrec rlmrec" in done.stderr
    assert not Path("artifacts/collapse").exists()


def test_a_second_run_gives_the_same_bytes(project: Path) -> None:
    trained()
    for folder in ("one", "two"):
        assert run("collapse", "demo", "--out", folder).exit_code == 0
    for name in ("collapse", "sizes"):
        first, second = (Path(f, name, "demo.parquet").read_bytes() for f in ("one", "two"))
        assert first == second, name


def test_an_untrained_cell_names_its_command(project: Path) -> None:
    done = run("collapse", "demo")
    assert done.exit_code == 2
    assert "Run: spectran train demo none sasrec id" in done.stderr


def test_a_model_of_other_settings_is_refused(project: Path) -> None:
    trained()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("null_share: 0.5", "null_share: 0.25"))
    done = run("collapse", "demo")
    assert done.exit_code == 2
    assert "with other settings or inputs, method.null_share = 0.5, now 0.25." in done.stderr
    assert "Run: spectran train demo hash sasrec alphafuse" in done.stderr


def test_a_setting_that_came_later_is_taken_as_it_was_then(project: Path) -> None:
    """A model from before `embed_scale` was trained with what 1 means now, and with no other."""
    trained()
    cell = {"dataset": "demo", "encoder": "hash", "backbone": "sasrec", "method": "spectran"}
    for seed in (0, 1):
        arrays, header = artifacts.MODEL.load(Path("artifacts"), **cell, seed=seed)
        assert header["params"]["method"].pop("embed_scale") == 1.0
        artifacts.MODEL.save(
            Path("artifacts"), arrays, items=header["items"], params=header["params"],
            **cell, seed=seed,
        )  # fmt: skip
    assert run("collapse", "demo").exit_code == 0
    text = Path("params.yaml").read_text()
    assert "embed_scale: 1.0" in text
    Path("params.yaml").write_text(text.replace("embed_scale: 1.0", "embed_scale: 2.0"))
    done = run("collapse", "demo")
    assert done.exit_code == 2 and "method.embed_scale = 1.0, now 2.0." in done.stderr


def test_models_outside_the_grid_are_refused(project: Path) -> None:
    trained()
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["grid"]["text"]["method"].remove("morec")
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    done = run("collapse", "demo")
    assert done.exit_code == 2 and "models/demo/hash/sasrec/morec" in done.stderr
    assert "spectran clean --stale" in done.stderr


def test_dry_run_writes_nothing(project: Path) -> None:
    trained()
    done = run("collapse", "demo", "--dry-run")
    assert done.exit_code == 0 and "reads  artifacts/models/demo/none/sasrec/id/0" in done.stdout
    assert "reads  artifacts/spectrum/demo/hash/centred.safetensors" in done.stdout
    assert not Path("artifacts/collapse").exists()
