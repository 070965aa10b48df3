"""`spectran verify` on artifacts that somebody damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer

from pipeline import artifacts, codecs
from pipeline.values import Catalog
from stages.run import Run
from stages.verify import verify

from .conftest import Clone

pytestmark = pytest.mark.slow

TEXT = {"dataset": "demo", "encoder": "hash"}
IDS = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id", "seed": 0}


@pytest.fixture
def root(finished: tuple[Clone, str], tmp_path: Path) -> Path:
    """Artifacts that may be damaged; no lock file, so that only reading finds it."""
    shutil.copytree(finished[0].path / "artifacts", tmp_path / "artifacts")
    for name in ("params.yaml", "revisions.yaml"):
        shutil.copy(finished[0].path / name, tmp_path / name)
    for path in (tmp_path / "artifacts").rglob("*"):
        path.chmod(0o755)
    return tmp_path / "artifacts"


def problems(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    run = Run(name="verify", params_path=root.parent / "params.yaml", json=True)
    with pytest.raises(typer.Exit) as stopped:
        verify(run)
    assert stopped.value.exit_code == 2
    return list(json.loads(capsys.readouterr().out)["problems"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """Change one bit at the end of the first column's values."""
    column = pq.read_metadata(path).row_group(0).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[begin + column.total_compressed_size - 1] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip])
@pytest.mark.parametrize(
    "artifact", [artifacts.ITEMS, artifacts.SEQUENCES, artifacts.RANKS, artifacts.CURVES]
)
def test_a_truncated_or_altered_table_is_named(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    artifact: artifacts.Table,
    harm: Callable[[Path], None],
) -> None:
    path = artifact.path(root, **IDS)
    harm(path)
    found = problems(root, capsys)
    assert len(found) == 1
    assert found[0].startswith(str(path)) and "Run: spectran" in found[0]


def test_truncated_tensors_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(artifacts.SEMANTIC.path(root, **TEXT))
    truncate(artifacts.MODEL.path(root, **IDS))
    found = problems(root, capsys)
    assert len(found) == 2 and all("is truncated" in line for line in found)


def test_nan_and_a_lost_row_and_other_items_are_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, header = artifacts.SEMANTIC.load(root, **TEXT)
    path = artifacts.SEMANTIC.path(root, **TEXT)

    def write(values: np.ndarray, items: str) -> None:
        from safetensors.numpy import save

        words = artifacts.SEMANTIC.metadata(items, header["params"])
        path.write_bytes(codecs.seal(save({"values": values}, {codecs.KEY: words})))

    values, items = arrays["values"], header["items"]
    for harmed, owner, said in (
        (values[:-1], items, "rows but there are"),
        (np.where(values == values.max(), np.nan, values).astype("float32"), items, "NaN"),
        (values.astype("float64"), items, "as float64, expected float32"),
        (values + 1, items, "row 0 is padding"),
        (values, "0" * 64, "was made from other items"),
    ):
        write(np.ascontiguousarray(harmed), owner)
        found = problems(root, capsys)
        assert len(found) == 1 and said in found[0], found


def test_a_lost_user_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = artifacts.RANKS.path(root, **IDS)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    found = problems(root, capsys)
    assert len(found) == 1 and "targets are held out" in found[0]


def test_other_items_make_everything_below_unusable(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, header = artifacts.ITEMS.load(root, dataset="demo")
    title = table["title"].to_pylist()
    title[0] = "another title"
    place = table.schema.get_field_index("title")
    Catalog.of(table.set_column(place, "title", [title])).save(root, "demo", header["params"])
    found = problems(root, capsys)
    assert any("semantic" in line and "was made from other items" in line for line in found)
    assert not any("items.parquet" in line for line in found)


def test_what_reading_cannot_see_differs_from_the_lock_file(clone: Clone) -> None:
    artifacts_root = clone.path / "artifacts"
    path = artifacts.MODEL.path(artifacts_root, **IDS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x01  # still a sound file, with another last weight
    path.unlink()
    path.write_bytes(content)
    done = clone.run("spectran", "verify", check=False)
    assert done.returncode == 2
    lines = [line for line in done.stdout.splitlines() if "dvc.lock recorded" in line]
    assert len(lines) == 1 and "models/demo/none/sasrec/id" in lines[0]
