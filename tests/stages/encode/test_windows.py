"""Encoding in windows and by several workers, and what is told about the vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from pipeline import artifacts
from pipeline.encoders.hash import HashEncoder
from pipeline.errors import ArtifactError
from stages.encode import encode
from stages.run import Run
from tests.stages.encode.catalogue import CELL, MANY, project, run, said


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.text.WINDOW", 16)


def test_windows_change_no_row_and_repeat_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small_windows: None
) -> None:
    base = project(tmp_path, MANY)
    values = load_file(run(base, json=True))["values"]
    found = said(capsys)
    assert found["encoded"] == found["diagnostics"]["texts"]["distinct"] == len(set(MANY))
    np.testing.assert_array_equal(values[1:], HashEncoder(64, 0).encode(MANY))


def test_an_altered_text_column_is_refused_by_its_fingerprint(tmp_path: Path) -> None:
    base = project(tmp_path)
    path = artifacts.ITEMS.path(base / "artifacts", dataset="demo")
    table = pq.read_table(path)
    titles = pa.array(["other", *table["title"].to_pylist()[1:]])
    pq.write_table(table.set_column(2, "title", titles), path)
    with pytest.raises(ArtifactError, match=r"items\.parquet was altered after writing"):
        run(base)


@pytest.mark.slow
def test_workers_give_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.setattr(HashEncoder, "batch_size", 8)
    expected = run(project(tmp_path / "a", MANY)).read_bytes()
    base = project(tmp_path / "b", MANY)
    monkeypatch.setattr("pipeline.data.text.WINDOW", 16)
    capsys.readouterr()
    found = encode(Run("encode", base / "params.yaml", json=True), "demo", "hash", 2)
    assert found is None and said(capsys)["encoded"] == len(set(MANY))
    path = artifacts.SEMANTIC.path(base / "artifacts", **CELL)
    assert path.read_bytes() == expected
    assert not list((base / "artifacts" / ".tmp").iterdir())


# ---------------------------------------------------------------- what the vectors look like


def test_diagnostics_are_those_of_a_naive_computation(tmp_path: Path, small_windows: None) -> None:
    base = project(tmp_path, [*MANY, ""])
    path = run(base)
    found = json.loads(path.with_suffix(".json").read_text())
    texts = [*MANY, "unknown item"]
    rows = HashEncoder(64, 0).encode(texts).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    unit = rows / norms[:, None]
    cosines = unit @ unit.T
    pairs = cosines[~np.eye(len(texts), dtype=bool)]
    assert found["rows"]["norm"]["mean"] == pytest.approx(norms.mean(), abs=1e-5)
    assert found["rows"]["norm"]["max"] == pytest.approx(norms.max(), abs=1e-5)
    assert found["rows"]["mean_cosine"] == pytest.approx(pairs.mean(), abs=1e-5)
    lengths = [len(text.split()) for text in texts]
    assert found["texts"]["tokens"] == {
        "min": min(lengths),
        "median": int(np.sort(lengths)[(len(lengths) - 1) // 2]),
        "p95": int(np.sort(lengths)[int(np.ceil(0.95 * len(lengths))) - 1]),
        "max": max(lengths),
        "mean": round(float(np.mean(lengths)), 2),
    }
    assert found["texts"]["blank"] == 1 and found["texts"]["cut"] == 0
    raw = {f"i{n:06d}": n for n in range(len(texts))}
    np.fill_diagonal(cosines, -np.inf)
    for shown in found["neighbours"]:
        item = raw[shown["raw_item"]]
        assert shown["text"] == texts[item]
        best = np.sort(cosines[item])[::-1][:3]
        assert [n["cosine"] for n in shown["nearest"]] == pytest.approx(best, abs=1e-5)
        assert all(raw[n["raw_item"]] != item for n in shown["nearest"])


def test_diagnostics_know_the_lengths_of_cached_texts(tmp_path: Path) -> None:
    base = project(tmp_path, MANY)
    first = run(base).with_suffix(".json").read_bytes()
    assert run(base).with_suffix(".json").read_bytes() == first
