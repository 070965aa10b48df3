"""Streamed safetensors: what is written is what the library would write, and reads back."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import artifacts, tensorfile
from pipeline.artifacts import SEMANTIC, SPECTRUM
from pipeline.errors import ArtifactError

ITEMS = "a" * 64
CELL = {"dataset": "toys", "encoder": "hash"}
VALUES = np.vstack([np.zeros((1, 3)), np.arange(21).reshape(7, 3)]).astype(np.float32)
PARTS = {
    "mean": np.array([1, 2, 3], np.float32),
    "s": np.array([5, 4], np.float32),
    "u": np.arange(14, dtype=np.float32).reshape(7, 2),
    "v": np.arange(6, dtype=np.float32).reshape(3, 2),
}


def save(root: Path, values: np.ndarray = VALUES) -> Path:
    return SEMANTIC.save(root, {"values": values}, items=ITEMS, params={"x": 1}, **CELL)


def stream(root: Path) -> Path:
    shapes = {name: part.shape for name, part in PARTS.items()}
    cell = {**CELL, "view": "unit"}
    with tensorfile.write(
        SPECTRUM, root, shapes, items=ITEMS, params={"note": "caf\u00e9"}, **cell
    ) as writer:
        for start in (4, 0):
            writer.put("u", PARTS["u"][start : start + 4], start)
        for name in ("v", "s", "mean"):
            writer.put(name, PARTS[name])
    return SPECTRUM.path(root, **cell)


def test_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    streamed = stream(tmp_path / "a").read_bytes()
    whole = SPECTRUM.save(
        tmp_path / "b", PARTS, items=ITEMS, params={"note": "caf\u00e9"}, **CELL, view="unit"
    )
    assert streamed == whole.read_bytes()


def test_the_library_opens_what_was_streamed(tmp_path: Path) -> None:
    loaded = load_file(stream(tmp_path))
    assert set(loaded) == set(PARTS)
    for name, part in PARTS.items():
        np.testing.assert_array_equal(loaded[name], part)


@pytest.mark.parametrize("step", [1, 3, 8, 100])
def test_chunks_give_all_rows_in_order(tmp_path: Path, step: int) -> None:
    save(tmp_path)
    rows = tensorfile.open_rows(SEMANTIC, tmp_path, "values", items=ITEMS, **CELL)
    parts = [(first, part.copy()) for first, part in rows.chunks(step, start=1)]
    assert [first for first, _ in parts] == list(range(1, 8, step))
    np.testing.assert_array_equal(np.vstack([part for _, part in parts]), VALUES[1:])


def test_embeddings_of_other_items_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"made from other items.*Run: spectran encode toys hash"
    ):
        tensorfile.open_rows(SEMANTIC, tmp_path, "values", items="b" * 64, **CELL)


@pytest.mark.parametrize("cut", [1, 40, 80])
def test_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ArtifactError, match=r"truncated or damaged.*Run: spectran encode"):
        tensorfile.open_rows(SEMANTIC, tmp_path, "values", **CELL)


def test_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is missing\. Run: spectran encode toys hash"):
        tensorfile.open_rows(SEMANTIC, tmp_path, "values", **CELL)


def test_other_dtype_is_refused(tmp_path: Path) -> None:
    plain = artifacts.Tensors("semantic", SEMANTIC.template, SEMANTIC.command)
    plain.save(tmp_path, {"values": VALUES.astype(np.float64)}, items=ITEMS, params={}, **CELL)
    with pytest.raises(ArtifactError, match="`values` as F64"):
        tensorfile.open_rows(SEMANTIC, tmp_path, "values", **CELL)


def test_file_that_shrinks_while_read_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    rows = tensorfile.open_rows(SEMANTIC, tmp_path, "values", **CELL)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match="became shorter"):
        list(rows.chunks(100))


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match="`values` would hold NaN"),
        tensorfile.write(
            SEMANTIC, tmp_path, {"values": (1, 2)}, items=ITEMS, params={}, **CELL
        ) as writer,
    ):
        writer.put("values", np.array([[1, np.nan]], np.float32))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_rows_left_out_are_a_bug(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="values: 1 rows written"),
        tensorfile.write(
            SEMANTIC, tmp_path, {"values": (2, 2)}, items=ITEMS, params={}, **CELL
        ) as writer,
    ):
        writer.put("values", np.zeros((1, 2), np.float32))


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Write and read 160 MB; the peak grows by less than a third of it."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from pipeline import tensorfile
        from pipeline.artifacts import SEMANTIC
        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(l for l in lines if l.startswith("VmHWM")).split()[1])
        root, cell = Path(sys.argv[1]), {"dataset": "d", "encoder": "e"}
        before = peak()
        with tensorfile.write(
            SEMANTIC, root, {"values": (40_000, 1000)}, items="a", params={}, **cell
        ) as writer:
            for start in range(0, 40_000, 1000):
                writer.put("values", np.ones((1000, 1000), np.float32), start)
        rows = tensorfile.open_rows(SEMANTIC, root, "values", **cell)
        total = sum(float(part.sum()) for _, part in rows.chunks(1000))
        print(total, peak() - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True, text=True
    )
    total, grown_kb = done.stdout.split()
    assert float(total) == 40e6
    assert int(grown_kb) < 50_000


def test_altered_values_are_refused_when_streamed_and_when_loaded(tmp_path: Path) -> None:
    path = save(tmp_path)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # one bit of the last value: still finite, still the right shape
    path.write_bytes(content)
    rows = tensorfile.open_rows(SEMANTIC, tmp_path, "values", **CELL)
    for start in (0, 1):
        with pytest.raises(ArtifactError, match=r"was altered after writing.*Run: spectran encode"):
            list(rows.chunks(2, start))
    with pytest.raises(ArtifactError, match="was altered after writing"):
        SEMANTIC.load(tmp_path, **CELL)
