"""The user's own vectors, joined by raw id."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.errors import DataError
from tests.stages.encode.catalogue import project, run, with_vectors


def test_own_vectors_are_joined_by_raw_id_and_missing_items_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = project(tmp_path)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    with_vectors(base, ["i000005", "i000000", "none", "i000002", "i000001"], rows)
    path = run(base, "own")
    values = load_file(path)["values"]
    mean = rows[[0, 1, 3, 4]].mean(axis=0)
    np.testing.assert_allclose(values[1:], [rows[1], rows[4], rows[3], mean, mean, rows[0]])
    out = capsys.readouterr()
    assert "66.7% of the items matched, 1 rows unused" in out.out
    assert "2 of 6 items have no vector" in out.err
    listed = base / ".cache" / "rejected" / "demo-own-missing.txt"
    assert listed.read_text().split() == ["i000003", "i000004"]
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["vectors"] == {"matched": 4, "missing": 2, "unused": 1}


def test_own_vectors_that_meet_too_few_items_leave_no_file(tmp_path: Path) -> None:
    base = project(tmp_path)
    with_vectors(base, ["i000005"], np.ones((1, 3), np.float32))
    with pytest.raises(DataError, match=r"1 of 6 items have a vector.*min_matched asks for 50"):
        run(base, "own")
    assert not list((base / "artifacts").rglob("own.*"))


@pytest.mark.parametrize("kind", ["permute", "same_spectrum", "anisotropic"])
def test_a_control_of_one_item_is_a_mistake(tmp_path: Path, kind: str) -> None:
    base = project(tmp_path, ["red train"])
    more = {"mean_cosine": 0.8} if kind == "anisotropic" else {"seed": 0}
    with_vectors(base, ["i000000"], np.ones((1, 3), np.float32), transform={"kind": kind, **more})
    with pytest.raises(DataError, match=r"1 of 1 items have a vector .* Leave out this encoder"):
        run(base, "own")
