"""Vectors made elsewhere: three formats joined to a catalogue, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from pipeline.config import Params, Vectors
from pipeline.encoders.vectors import Joined, Matched, join
from pipeline.errors import ConfigError, DataError, SpectranError
from pipeline.experiment.prepared import Experiment
from pipeline.strict import build

WIDTH = 3
IDS = ["c", "x", "a", "b"]
"""Of the supplied rows; x is no item."""
ROWS = np.array([[3, 30, 300], [9, 90, 900], [1, 10, 100], [2, 20, 200]], np.float32)
ITEMS = ["a", "b", "m", "c"]
"""Of the catalogue; m has no vector."""
EXPECTED = np.array(
    [[1, 10, 100], [2, 20, 200], [2, 20, 200], [3, 30, 300]],  # m: the mean of a, b and c
    np.float32,
)


def npy(folder: Path, rows: np.ndarray = ROWS, ids: list[str] = IDS) -> dict[str, Any]:
    np.save(folder / "own.npy", rows)
    (folder / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    return {"path": "own.npy", "ids": "ids.txt", "name": None}


def safetensors(folder: Path, rows: np.ndarray = ROWS, ids: list[str] = IDS) -> dict[str, Any]:
    other = np.arange(5, dtype=np.float32)  # lies before the vectors in the file
    save_file({"text": rows, "a_bias": other}, folder / "own.safetensors")
    (folder / "ids.txt").write_text("".join(f"{name}\n" for name in ids))
    return {"path": "own.safetensors", "ids": "ids.txt", "name": "text"}


def parquet(folder: Path, rows: np.ndarray = ROWS, ids: list[str] = IDS) -> dict[str, Any]:
    table = pa.table({"asin": ids, "vector": list(rows)})
    pq.write_table(table, folder / "own.parquet", row_group_size=3)
    return {"path": "own.parquet", "ids": "asin", "name": "vector"}


Make = Callable[..., dict[str, Any]]
FORMATS: list[Make] = [npy, safetensors, parquet]
formats = pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)


def spec(**changes: Any) -> Vectors:
    values = {
        "engine": "vectors",
        "transform": None,
        "width": WIDTH,
        "path": "own.npy",
        "sha256": None,
        "name": None,
        "ids": "ids.txt",
        "min_matched": 0.5,
    }
    return build(Vectors, values | changes, "params.yaml: encoders.own")


def joined(base: Path, items: Any = tuple(ITEMS), **changes: Any) -> Joined:
    return join(spec(**changes), base, items, base / "scratch")


def rows(found: Joined, chunk_bytes: int = 32 << 20) -> np.ndarray:
    return np.concatenate(list(found.rows(chunk_bytes)))


def refused(base: Path, kind: type[SpectranError], match: str, **changes: Any) -> None:
    with pytest.raises(kind, match=match):
        joined(base, **changes)


# ---------------------------------------------------------------- joining


@formats
def test_rows_come_in_the_order_of_the_items(tmp_path: Path, make: Make) -> None:
    found = joined(tmp_path, **make(tmp_path))
    values = rows(found)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, EXPECTED)


@formats
def test_what_matched_is_told(tmp_path: Path, make: Make) -> None:
    found = joined(tmp_path, **make(tmp_path))
    assert found.matched == Matched(items=4, matched=3, missing=("m",), unused=1)
    assert list(found.missing()) == ["m"]


@formats
def test_a_random_catalogue_agrees_with_a_dictionary(tmp_path: Path, make: Make) -> None:
    draw = np.random.default_rng(0)
    ids = [f"i{n}" for n in draw.permutation(300)]
    values = draw.normal(size=(300, WIDTH)).astype(np.float32)
    changes = make(tmp_path, values, ids)
    items = [f"i{n}" for n in draw.permutation(400)[:250]]
    table = dict(zip(ids, values, strict=True))
    mean = np.mean([table[i].astype(np.float64) for i in items if i in table], axis=0)
    found = joined(tmp_path, items, **changes)
    for chunk_bytes in (1, 10 * WIDTH * 4, 1 << 20):  # one row, ten rows, all rows
        made = rows(found, chunk_bytes)
        for item, row in zip(items, made, strict=True):
            np.testing.assert_allclose(row, table.get(item, mean), rtol=1e-6, atol=1e-7)
    assert list(found.missing()) == [item for item in items if item not in table]
    assert found.matched.missing == tuple(list(found.missing())[:5])
    assert [len(chunk) for chunk in found.rows(100 * WIDTH * 4)] == [100, 100, 50]


def test_a_column_of_the_catalogue_joins_like_a_list(tmp_path: Path) -> None:
    column = pa.chunked_array([ITEMS[:1], ITEMS[1:]])
    np.testing.assert_array_equal(rows(joined(tmp_path, column, **npy(tmp_path))), EXPECTED)


def test_the_laid_out_file_leaves_nothing_behind(tmp_path: Path) -> None:
    found = joined(tmp_path, **parquet(tmp_path))
    assert rows(found).shape == (4, 3)
    assert not list((tmp_path / "scratch").iterdir())


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_npy_of_any_float_is_read(tmp_path: Path, dtype: str) -> None:
    found = joined(tmp_path, **npy(tmp_path, ROWS.astype(dtype)))
    np.testing.assert_array_equal(rows(found), EXPECTED)


def test_npy_in_columns_is_read(tmp_path: Path) -> None:
    found = joined(tmp_path, **npy(tmp_path, np.asfortranarray(ROWS)))
    np.testing.assert_array_equal(rows(found), EXPECTED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors_of_any_float_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    changes = safetensors(tmp_path)
    stored = torch.from_numpy(ROWS + 0.3).to(dtype)
    save_torch(
        {"text": stored, "a": torch.zeros(3, dtype=torch.bfloat16)}, tmp_path / changes["path"]
    )
    made = rows(joined(tmp_path, ["a", "b", "c"], **changes))
    np.testing.assert_array_equal(made, stored.float().numpy()[[2, 3, 0]])


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float16()),
        pa.list_(pa.float32(), WIDTH),
    ],
    ids=str,
)
def test_parquet_lists_of_any_float_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    values = [row.astype(np.float16).tolist() for row in ROWS]
    column = pa.array(values, pa.list_(pa.float32())).cast(kind)
    pq.write_table(pa.table({"asin": IDS, "vector": column}), tmp_path / "own.parquet")
    found = joined(tmp_path, path="own.parquet", ids="asin", name="vector")
    np.testing.assert_array_equal(rows(found), EXPECTED)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([3, 9, 1, 2]),
        pa.array([3, 9, 1, 2], pa.uint16()),
        pa.array(["3", "9", "1", "2"], pa.large_string()),
        pa.array(["3", "9", "1", "2"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_ids_may_be_numbers_or_text(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"asin": column, "vector": list(ROWS)}), tmp_path / "own.parquet")
    changes = {"path": "own.parquet", "ids": "asin", "name": "vector"}
    made = rows(joined(tmp_path, ["1", "2", "m", "3"], **changes))
    np.testing.assert_array_equal(made, EXPECTED)


def test_ids_may_end_with_carriage_returns_and_begin_with_a_mark(tmp_path: Path) -> None:
    changes = npy(tmp_path)
    (tmp_path / "ids.txt").write_bytes("\ufeffc\r\nx\r\na\r\nb".encode())
    np.testing.assert_array_equal(rows(joined(tmp_path, **changes)), EXPECTED)


def test_paths_may_begin_with_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npy(tmp_path)
    monkeypatch.setenv("OWN", str(tmp_path))
    found = joined(Path("elsewhere"), path="$OWN/own.npy", ids="$OWN/ids.txt")
    np.testing.assert_array_equal(rows(found), EXPECTED)


# ---------------------------------------------------------------- identity


@formats
def test_identity_is_the_contents_of_the_files(tmp_path: Path, make: Make) -> None:
    changes = make(tmp_path)
    found = joined(tmp_path, **changes).identity
    content = (tmp_path / changes["path"]).read_bytes()
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["name"] == changes["name"]
    assert str(tmp_path) not in json.dumps(found)
    if make is not parquet:
        listed = (tmp_path / "ids.txt").read_bytes()
        assert found["ids"] == hashlib.sha256(listed).hexdigest()
    assert joined(tmp_path, **changes, sha256=found["sha256"]).identity == found


def test_other_contents_than_the_checksum_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, DataError, "has sha256 .*, params say 0000", **npy(tmp_path), sha256="0" * 64)


# ---------------------------------------------------------------- refusals


@formats
def test_too_few_matches_are_refused_with_ids_of_both_sides(tmp_path: Path, make: Make) -> None:
    said = r"3 of 4 items .*75\.0%.*asks for 80\.0%.*without: 'm'\. .*file: 'c', 'x', 'a', 'b'"
    refused(tmp_path, DataError, said, **make(tmp_path), min_matched=0.8)


@formats
def test_exactly_enough_matches_will_do(tmp_path: Path, make: Make) -> None:
    assert joined(tmp_path, **make(tmp_path), min_matched=0.75).matched.matched == 3


@formats
def test_no_match_at_all_is_refused(tmp_path: Path, make: Make) -> None:
    changes = make(tmp_path, ROWS, ["w", "x", "y", "z"])
    refused(tmp_path, DataError, r"0 of 4 items .*\(0\.0%\)", **changes, min_matched=0.001)


@formats
def test_repeated_ids_are_refused(tmp_path: Path, make: Make) -> None:
    changes = make(tmp_path, ROWS, ["a", "b", "a", "b"])
    refused(tmp_path, DataError, "2 ids stand there more than once; first: 'a', 'b'", **changes)


@formats
def test_other_width_is_refused(tmp_path: Path, make: Make) -> None:
    with pytest.raises((ConfigError, DataError), match=r"width 3, params say 4|width 3 .*say 4"):
        joined(tmp_path, **make(tmp_path), width=4)


@formats
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_by_id(
    tmp_path: Path, make: Make, value: float
) -> None:
    bad = ROWS.copy()
    bad[[0, 3], 1] = value
    said = "vectors of 2 items hold NaN, infinity.*first ids: 'c', 'b'"
    refused(tmp_path, DataError, said, **make(tmp_path, bad))


@formats
def test_rows_of_no_item_may_hold_anything(tmp_path: Path, make: Make) -> None:
    bad = ROWS.copy()
    bad[1] = np.nan
    np.testing.assert_array_equal(rows(joined(tmp_path, **make(tmp_path, bad))), EXPECTED)


def test_values_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    large = ROWS.astype(np.float64)
    large[2, 0] = 1e300
    for make in FORMATS:
        refused(
            tmp_path, DataError, "too large for float32; first ids: 'a'", **make(tmp_path, large)
        )


@pytest.mark.parametrize("make", [npy, safetensors], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (IDS[:3], "3 ids for 4 rows in .*one id per line"),
        (["item_id", *IDS], "5 ids for 4 rows.*A line with a heading"),
    ],
)
def test_other_number_of_ids_is_refused(
    tmp_path: Path, make: Make, ids: list[str], said: str
) -> None:
    refused(tmp_path, DataError, said, **make(tmp_path, ROWS, ids))


def test_blank_line_among_the_ids_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, DataError, "line 2 is blank", **npy(tmp_path, ROWS, ["a", " ", "b", "c"]))


def test_ids_in_another_encoding_are_refused(tmp_path: Path) -> None:
    changes = npy(tmp_path)
    (tmp_path / "ids.txt").write_bytes("caf\u00e9\n".encode("latin-1"))
    refused(tmp_path, DataError, r"ids\.txt: not a text file in UTF-8", **changes)


@pytest.mark.parametrize("key", ["path", "ids"])
def test_missing_file_is_named(tmp_path: Path, key: str) -> None:
    changes = npy(tmp_path)
    (tmp_path / changes[key]).unlink()
    refused(tmp_path, DataError, rf"no such file \(`{key}` of the encoder", **changes)


@formats
@pytest.mark.parametrize("damage", ["empty", "short", "other"])
def test_damaged_file_is_refused(tmp_path: Path, make: Make, damage: str) -> None:
    changes = make(tmp_path)
    file = tmp_path / changes["path"]
    content = file.read_bytes()
    file.write_bytes({"empty": b"", "short": content[:-9], "other": b"<html>"}[damage])
    refused(tmp_path, DataError, rf"{file.name}: not a whole .*Write it again", **changes)


def test_file_that_becomes_shorter_is_refused(tmp_path: Path) -> None:
    found = joined(tmp_path, **npy(tmp_path))
    os.truncate(tmp_path / "own.npy", 140)
    with pytest.raises(DataError, match=r"own\.npy: became shorter"):
        rows(found)


def test_damaged_pages_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(1000)]
    changes = parquet(tmp_path, draw.normal(size=(1000, WIDTH)).astype(np.float32), ids)
    file = tmp_path / "own.parquet"
    content = bytearray(file.read_bytes())
    meta = pq.read_metadata(file).row_group(1).column(1)
    start = meta.dictionary_page_offset or meta.data_page_offset
    content[start : start + meta.total_compressed_size] = b"\xff" * meta.total_compressed_size
    file.write_bytes(content)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        joined(tmp_path, ids, **changes)


class Spy:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("pickled", ["objects", "bare"])
def test_pickled_file_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: str
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = npy(tmp_path)
    array = np.array([Spy()], dtype=object)
    if pickled == "objects":
        np.save(tmp_path / "own.npy", array, allow_pickle=True)
    else:
        array.dump(tmp_path / "own.npy")
    refused(tmp_path, DataError, r"holds Python objects \(pickle\).*np\.save", **changes)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    "array",
    [ROWS[0], ROWS[None], ROWS.astype(np.int64), ROWS.astype(np.complex64), np.array(["a"])],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_what_is_no_matrix_of_floats_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    changes = npy(tmp_path, array)
    refused(tmp_path, DataError, r"expected a matrix \[rows, width\] of floats", **changes)


def test_tensor_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    changes = safetensors(tmp_path, ROWS.astype(np.int32))
    refused(tmp_path, DataError, r"tensor 'text' is I32 \[4, 3\], expected", **changes)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    changes = safetensors(tmp_path) | {"name": "txet"}
    refused(tmp_path, DataError, "no tensor 'txet'.*Did you mean text.*a_bias, text", **changes)


@pytest.mark.parametrize(("key", "name"), [("ids", "asni"), ("name", "vectro")])
def test_missing_column_is_named(tmp_path: Path, key: str, name: str) -> None:
    changes = parquet(tmp_path) | {key: name}
    said = rf"no column '{name}' \(`{key}`\)\. Did you mean \w+\? Known: asin, vector"
    refused(tmp_path, DataError, said, **changes)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["text"] * 4, "holds string, expected lists of float"),
        ([[1, 2, 3]] * 4, "holds list<.*int64>, expected lists of float"),
        ([[1.0, 2.0, 3.0], [1.0], None, [1.0, 2.0, 3.0]], "id 'a' has no vector in column"),
        ([[1.0, 2.0], [1.0], [1.0], [1.0]], "id 'c' has a vector of width 2"),
        ([[1.0, 2.0, None]] * 4, "vectors of 3 items hold NaN.*nulls"),
    ],
)
def test_column_that_holds_no_vectors_is_refused(
    tmp_path: Path, column: list[Any], said: str
) -> None:
    pq.write_table(pa.table({"asin": IDS, "vector": column}), tmp_path / "own.parquet")
    refused(tmp_path, DataError, said, path="own.parquet", ids="asin", name="vector")


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1.0, 2.0, 3.0, 4.0], r"`ids`\) holds double, expected text or whole numbers"),
        (["a", None, "b", None], "no id in 2 rows; first: row 2"),
    ],
)
def test_column_that_holds_no_ids_is_refused(tmp_path: Path, ids: list[Any], said: str) -> None:
    pq.write_table(pa.table({"asin": ids, "vector": list(ROWS)}), tmp_path / "own.parquet")
    refused(tmp_path, DataError, said, path="own.parquet", ids="asin", name="vector")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "own.pkl"}, "path"),
        ({"name": "text"}, "write null for .npy"),
        ({"path": "own.parquet"}, "name belongs to"),
        ({"min_matched": 0}, "min_matched"),
    ],
    ids=str,
)
def test_block_that_cannot_work_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        spec(**changes)


# ---------------------------------------------------------------- use


def test_a_method_that_reads_no_text_takes_no_vectors(params: Params, tmp_path: Path) -> None:
    own = params.model_copy(update={"encoders": {**params.encoders, "own": spec()}})
    cell = {"dataset": "demo", "encoder": "own", "backbone": "sasrec", "method": "id"}
    with pytest.raises(ConfigError, match="id reads no text, so its encoder is `none`, found own"):
        Experiment.prepare(own, tmp_path, 1, cell)


def test_the_readmes_block_parses() -> None:
    text = Path("README.md").read_text(encoding="utf-8")
    (block,) = [part for part in text.split("```")[1::2] if "engine: vectors" in part]
    (values,) = yaml.safe_load(block.removeprefix("yaml")).values()
    assert build(Vectors, values, "README.md").path.endswith(".parquet")
