"""`spectran spectrum` as a user runs it, on embeddings made by the test."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import artifacts
from pipeline.errors import ArtifactError, ConfigError, DataError, ResourceError
from pipeline.values import Catalog, Spectrum
from stages.run import Run
from stages.spectrum import spectrum

CELL = {"dataset": "demo", "encoder": "hash"}
NUM_ITEMS, WIDTH = 40, 6


def catalog_of(num_items: int, suffix: str = "") -> Catalog:
    blank = [""] * num_items
    columns: dict[str, Any] = {
        "item": pa.array(range(1, num_items + 1), pa.uint32()),
        "raw_item": [f"i{n:06d}" for n in range(num_items)],
        "title": [f"title {n}{suffix}" for n in range(num_items)],
        "brand": blank,
        "categories": blank,
        "description": blank,
    }
    return Catalog.of(pa.table(columns))


def project(base: Path, values: np.ndarray | None = None) -> Path:
    """A folder with params.yaml, a catalogue, and embeddings of it."""
    base.mkdir(exist_ok=True)
    for name in ("params.yaml", "revisions.yaml"):
        (base / name).write_text(Path(name).read_text())
    if values is None:
        values = np.random.default_rng(0).standard_normal((NUM_ITEMS, WIDTH)) + 1
    catalog = catalog_of(len(values))
    catalog.save(base / "artifacts", "demo", {})
    rows = np.vstack([np.zeros((1, values.shape[1])), values]).astype(np.float32)
    artifacts.SEMANTIC.save(
        base / "artifacts", {"values": rows}, items=catalog.fingerprint, params={}, **CELL
    )
    return base


def run(base: Path, **options: Any) -> dict[str, bytes]:
    """Run the stage; return the bytes of every file it left."""
    spectrum(Run("spectrum", base / "params.yaml", **options), "demo", "hash")
    return files(options.get("out") or base / "artifacts")


def files(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in root.glob("spectrum/demo/hash/*") if p.is_file()}


def test_views_statistics_and_plot_are_written(tmp_path: Path) -> None:
    found = run(project(tmp_path))
    assert set(found) == {"unit.safetensors", "centred.safetensors", "stats.json", "spectrum.svg"}
    assert found["spectrum.svg"].startswith(b"<?xml")


def test_loaded_views_rebuild_the_embeddings(tmp_path: Path) -> None:
    base = project(tmp_path)
    run(base)
    root, catalog = base / "artifacts", Catalog.load(base / "artifacts", "demo")
    values = artifacts.SEMANTIC.load(root, **CELL)[0]["values"][1:]
    centred = Spectrum.load(root, "demo", "hash", "centred", catalog)
    rebuilt = centred.u * centred.s @ centred.v.T + centred.mean
    np.testing.assert_allclose(rebuilt, values, atol=1e-5)
    unit = Spectrum.load(root, "demo", "hash", "unit", catalog)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.u * unit.s @ unit.v.T, values / norms, atol=1e-5)
    assert not unit.mean.any()


def test_statistics_are_those_of_the_views(tmp_path: Path) -> None:
    base = project(tmp_path)
    run(base)
    stats = artifacts.load_json(artifacts.SPECTRUM_STATS, base / "artifacts", **CELL)
    catalog = Catalog.load(base / "artifacts", "demo")
    values = artifacts.SEMANTIC.load(base / "artifacts", **CELL)[0]["values"][1:].astype(float)
    for view in ("unit", "centred"):
        found = stats["views"][view]
        rows = values - values.mean(axis=0) if view == "centred" else values
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = (rows @ rows.T)[~np.eye(NUM_ITEMS, dtype=bool)]
        assert found["mean_cosine"] == pytest.approx(cosines.mean(), abs=1e-6)
        s = Spectrum.load(base / "artifacts", "demo", "hash", view, catalog).s
        np.testing.assert_allclose(found["singular_values"], s, rtol=1e-6)
        assert found["cumulative_energy"][-1] == pytest.approx(1)
        assert 1 < found["effective_rank"] <= found["components"] == WIDTH


def test_second_run_and_other_process_write_equal_bytes(tmp_path: Path) -> None:
    base = project(tmp_path)
    first = run(base)
    assert run(base) == first
    code = "from stages.cli import main; main()"
    command = [sys.executable, "-c", code, "spectrum", "demo", "hash", "--params"]
    subprocess.run([*command, str(base / "params.yaml")], check=True, capture_output=True)
    assert files(base / "artifacts") == first


def test_last_line_names_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project(tmp_path))
    last = capsys.readouterr().out.splitlines()[-1]
    assert "unit 6 components, centred 6 components" in last
    assert last.endswith("Next: spectran train demo hash sasrec spectran")


def test_views_no_longer_wanted_are_removed(tmp_path: Path) -> None:
    base = project(tmp_path)
    run(base)
    text = (base / "params.yaml").read_text()
    assert "views: [unit, centred]" in text
    (base / "params.yaml").write_text(text.replace("views: [unit, centred]", "views: [unit]"))
    assert set(run(base)) == {"unit.safetensors", "stats.json", "spectrum.svg"}


def test_zero_vectors_are_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).standard_normal((20, 4))
    values[[2, 9]] = 0
    run(project(tmp_path, values))
    assert "2 items have a vector of zeros" in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    base = project(tmp_path)
    spectrum(Run("spectrum", base / "params.yaml", dry_run=True), "demo", "hash")
    assert not (base / "artifacts" / "spectrum").exists()


# ---------------------------------------------------------------- refusals


def test_embeddings_of_other_items_are_refused(tmp_path: Path) -> None:
    base = project(tmp_path)
    catalog_of(NUM_ITEMS, " changed").save(base / "artifacts", "demo", {})
    with pytest.raises(
        ArtifactError, match=r"made from other items.*Run: spectran encode demo hash"
    ):
        run(base)


def test_missing_embeddings_name_the_command(tmp_path: Path) -> None:
    base = project(tmp_path)
    artifacts.SEMANTIC.path(base / "artifacts", **CELL).unlink()
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran encode demo hash"):
        run(base)


def test_truncated_embeddings_are_refused(tmp_path: Path) -> None:
    base = project(tmp_path)
    path = artifacts.SEMANTIC.path(base / "artifacts", **CELL)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"truncated or damaged.*Run: spectran encode"):
        run(base)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    base = project(tmp_path)
    path = artifacts.SEMANTIC.path(base / "artifacts", **CELL)
    path.write_bytes(path.read_bytes()[:-4] + np.float32("inf").tobytes())
    with pytest.raises(ArtifactError, match=r"NaN or infinity in row 40.*Run: spectran encode"):
        run(base)


def test_equal_embeddings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    base = project(tmp_path, np.ones((30, 4)))
    with pytest.raises(DataError, match="all the same"):
        run(base)
    assert not (base / "artifacts" / "spectrum").exists()


def test_unknown_encoder_is_named(tmp_path: Path) -> None:
    base = project(tmp_path)
    with pytest.raises(ConfigError, match=r"encoders\.hsah: no such block\. Did you mean hash"):
        spectrum(Run("spectrum", base / "params.yaml"), "demo", "hsah")


def test_too_little_memory_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 1000

    base = project(tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: Little)
    with pytest.raises(ResourceError, match=r"needs about .* of memory"):
        run(base)


def test_stopped_before_any_file_is_named_leaves_whole_files_and_then_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, and every folder with a new name in it, is synced: each call is a border."""
    whole, fsync = run(project(tmp_path / "whole")), os.fsync
    borders = 0
    while True:
        base, left = project(tmp_path / str(borders)), borders

        def stopping(descriptor: int) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            fsync(descriptor)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, "fsync", stopping)
            run(base)
            break
        assert files(base / "artifacts").items() <= whole.items()
        assert run(base) == whole
        borders += 1
    assert borders == 2 * len(list((tmp_path / "whole").glob("artifacts/spectrum/demo/hash/*")))
