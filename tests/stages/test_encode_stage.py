"""`spectran encode` as a user runs it, on a catalogue made by the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from pipeline import artifacts
from pipeline.encoders.hash import HashEncoder
from pipeline.errors import ArtifactError, ConfigError, DataError, ResourceError
from pipeline.values import Catalog, SemanticEmbeddings
from stages.encode import encode
from stages.run import Run

TITLES = ["red train", "blue kite", "red train", "green castle set", "", "doll"]
CELL = {"dataset": "demo", "encoder": "hash"}


def project(base: Path, titles: Sequence[str] = TITLES) -> Path:
    """A folder with params.yaml and the catalogue `demo`."""
    base.mkdir(exist_ok=True)
    for name in ("params.yaml", "revisions.yaml"):
        (base / name).write_text(Path(name).read_text())
    save(base, titles)
    return base


def save(base: Path, titles: Sequence[str]) -> Catalog:
    blank = [""] * len(titles)
    columns: dict[str, Any] = {
        "item": pa.array(range(1, len(titles) + 1), pa.uint32()),
        "raw_item": [f"i{n:06d}" for n in range(len(titles))],
        "title": list(titles),
        "brand": blank,
        "categories": blank,
        "description": blank,
    }
    catalog = Catalog.of(pa.table(columns))
    catalog.save(base / "artifacts", "demo", {})
    return catalog


def run(base: Path, encoder: str = "hash", **options: Any) -> Path:
    """Run the stage; return the file."""
    encode(Run("encode", base / "params.yaml", **options), "demo", encoder)
    root = options.get("out") or base / "artifacts"
    return artifacts.SEMANTIC.path(root, dataset="demo", encoder=encoder)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def test_rows_belong_to_the_items_and_row_zero_is_zero(tmp_path: Path) -> None:
    base = project(tmp_path)
    values = load_file(run(base))["values"]
    assert values.shape == (7, 64)
    assert not values[0].any()
    expected = HashEncoder(64, 0).encode(["red train", "blue kite", "red train"])
    np.testing.assert_array_equal(values[1:4], expected)
    catalog = Catalog.load(base / "artifacts", "demo")
    SemanticEmbeddings.load(base / "artifacts", "demo", "hash", catalog)


def test_second_run_encodes_nothing_and_writes_equal_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = project(tmp_path)
    first = run(base, json=True).read_bytes()
    assert said(capsys)["encoded"] == 5
    assert run(base, json=True).read_bytes() == first
    assert said(capsys)["encoded"] == 0


def test_bytes_do_not_depend_on_the_folder_or_the_cache(tmp_path: Path) -> None:
    first = run(project(tmp_path / "a")).read_bytes()
    base = project(tmp_path / "b")
    run(base)
    assert run(base, force=True).read_bytes() == first


def test_new_items_cost_their_own_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = project(tmp_path)
    run(base)
    save(base, [*TITLES, "new 1", "new 2", "doll"])
    run(base, json=True)
    assert said(capsys)["encoded"] == 2


def test_a_new_revision_encodes_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = project(tmp_path)
    run(base)
    revisions = yaml.safe_load((base / "revisions.yaml").read_text())
    (base / "revisions.yaml").write_text(yaml.safe_dump({**revisions, "encode": 99}))
    run(base, json=True)
    assert said(capsys)["encoded"] == 5


def test_last_line_names_the_file_and_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(project(tmp_path))
    last = capsys.readouterr().out.splitlines()[-1]
    stats = path.with_suffix(".json")
    assert last.startswith(f"wrote {path}, {stats}: 6 items x 64, 5 texts encoded")
    assert last.endswith("Next: spectran spectrum demo hash")


def test_items_without_text_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(project(tmp_path))
    assert "1 of 6 items have no text for '{title}'" in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = project(tmp_path)
    before = sorted(base.rglob("*"))
    run(base, dry_run=True)
    assert sorted(base.rglob("*")) == before
    assert "writes" in capsys.readouterr().out


def test_out_and_set_write_elsewhere(tmp_path: Path) -> None:
    base = project(tmp_path)
    changes = {"encoders.hash.width": 16}
    path = run(base, out=tmp_path / "scratch", changes=changes)
    assert load_file(path)["values"].shape == (7, 16)
    assert not (base / "artifacts" / "semantic").exists()


def test_not_a_number_names_the_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: HashEncoder, texts: Sequence[str]) -> np.ndarray:
        rows = np.ones((len(texts), self.width), np.float32)
        rows[[t == "doll" for t in texts], 3] = np.nan
        return rows

    base = project(tmp_path)
    monkeypatch.setattr(HashEncoder, "encode", broken)
    with pytest.raises(DataError, match=r"NaN or infinity.*item 6 \(raw id 'i000005', text 'doll'"):
        run(base)
    assert not [file for file in (base / "artifacts").rglob("*") if file.suffix == ".safetensors"]


def test_unknown_encoder_and_data_set_are_named(tmp_path: Path) -> None:
    base = project(tmp_path)
    with pytest.raises(ConfigError, match=r"encoders\.minlm: no such block\. Did you mean minilm"):
        run(base, "minlm")
    with pytest.raises(ConfigError, match=r"datasets\.tois: no such block\. Did you mean toys"):
        encode(Run("encode", base / "params.yaml"), "tois", "hash")


def test_missing_catalogue_names_the_command(tmp_path: Path) -> None:
    base = project(tmp_path)
    artifacts.ITEMS.path(base / "artifacts", dataset="demo").unlink()
    with pytest.raises(Exception, match=r"items\.parquet is missing\. Run: spectran preprocess"):
        run(base)


def test_full_disk_is_said_and_the_same_command_then_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(project(tmp_path / "a")).read_bytes()
    base = project(tmp_path / "b")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(ResourceError, match="no space left for encoded rows"):
            run(base)
    assert run(base).read_bytes() == expected


SLOW = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from pipeline.encoders.hash import HashEncoder
    from stages.encode import encode
    from stages.run import Run
    real = HashEncoder.encode
    def slow(self, texts):
        print("batch", flush=True)
        time.sleep(0.02)
        return real(self, texts)
    HashEncoder.encode = slow
    HashEncoder.batch_size = 16
    encode(Run("encode", Path(sys.argv[1]) / "params.yaml", quiet=True), "demo", "hash")
    print("done", flush=True)
    """
)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_anywhere_then_resumed_gives_equal_bytes(tmp_path: Path, stop: int) -> None:
    titles = [f"title {n} {'x' * (n % 23)}" for n in range(640)]
    expected = run(project(tmp_path / "a", titles)).read_bytes()
    base = project(tmp_path / "b", titles)
    batches = 0
    for batch in (1, 15):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, str(base)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        for _ in range(batch):
            assert process.stdout.readline() == b"batch\n"
            batches += 1
        time.sleep(0.005 * batch)
        process.send_signal(stop)
        batches += process.stdout.read().count(b"batch")
        assert process.wait() != 0
        assert not artifacts.SEMANTIC.path(base / "artifacts", **CELL).exists()
    finished = subprocess.run(
        [sys.executable, "-c", SLOW, str(base)], capture_output=True, check=True
    )
    batches += finished.stdout.count(b"batch")
    assert artifacts.SEMANTIC.path(base / "artifacts", **CELL).read_bytes() == expected
    assert 40 <= batches <= 42  # 40 in all; each stop repeats at most the one in flight


def test_no_polars_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['polars'] = None\n"
        "from pathlib import Path; from stages.encode import encode; from stages.run import Run\n"
        "encode(Run('encode', Path(sys.argv[1]) / 'params.yaml'), 'demo', 'hash')"
    )
    base = project(tmp_path)
    subprocess.run([sys.executable, "-c", code, str(base)], check=True, capture_output=True)


def test_a_control_is_made_of_cached_rows_and_leaves_the_plain_file_alone(tmp_path: Path) -> None:
    base = project(tmp_path / "p")
    file = base / "params.yaml"
    content = yaml.safe_load(file.read_text())
    permuted = content["encoders"]["hash"] | {"transform": {"kind": "permute", "seed": 3}}
    content["encoders"]["hash_permuted"] = permuted
    file.write_text(yaml.safe_dump(content))
    plain = run(base)
    assert b"transform" not in plain.read_bytes()
    changed = run(base, "hash_permuted")
    log = (base / "logs" / "encode" / "demo-hash_permuted.jsonl").read_text().splitlines()
    events = {line["event"]: line for line in map(json.loads, log)}
    assert events["rows"]["encoded"] == 0
    assert "speed" not in events
    before, after = (load_file(path)["values"] for path in (plain, changed))
    assert not after[0].any()
    assert sorted(map(tuple, after)) == sorted(map(tuple, before))
    assert not np.array_equal(before, after)


# ---------------------------------------------------------------- windows and workers

MANY = [f"{'long ' * (n % 7)}title {n % 60}" for n in range(100)]


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


# ---------------------------------------------------------------- own vectors


def with_vectors(base: Path, ids: Sequence[str], rows: np.ndarray, **changes: Any) -> None:
    """Put a file of vectors beside params.yaml, and a block `own` that names it."""
    np.save(base / "own.npy", rows)
    (base / "own.txt").write_text("\n".join(ids) + "\n")
    content = yaml.safe_load((base / "params.yaml").read_text())
    block = {"engine": "vectors", "path": "own.npy", "ids": "own.txt", "name": None}
    more = {"sha256": None, "width": rows.shape[1], "min_matched": 0.5, "transform": None}
    content["encoders"]["own"] = block | more | changes
    (base / "params.yaml").write_text(yaml.safe_dump(content))


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


# ---------------------------------------------------------------- engines, as a user runs them


def test_an_engine_that_fails_midway_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = project(tmp_path, MANY)
    monkeypatch.setattr(HashEncoder, "batch_size", 8)
    plain, calls = HashEncoder.encode, [0]

    def failing(self: HashEncoder, inputs: Sequence[str]) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 4:
            raise ResourceError("the server answers 503. Run the same command again.")
        return plain(self, inputs)

    monkeypatch.setattr(HashEncoder, "encode", failing)
    with pytest.raises(ResourceError, match="503"):
        run(base)
    capsys.readouterr()
    run(base, json=True)
    assert said(capsys)["encoded"] == len(set(MANY)) - 3 * 8


def test_a_decoder_is_encoded_and_its_second_run_loads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the extra `encode`")
    from pipeline.encoders.transformers import TransformersEncoder
    from tests.tiny_models import WIDTH, build

    base = project(tmp_path, MANY[:20])
    build("qwen3", base / "tiny")
    content = yaml.safe_load((base / "params.yaml").read_text())
    block = content["encoders"]["llm2vec_llama3_8b"] | {
        "model": "tiny",
        "width": WIDTH,
        "adapters": [],
        "max_tokens": 6,
        "dtype": "float32",
    }
    content["encoders"]["tiny"] = block
    (base / "params.yaml").write_text(yaml.safe_dump(content))
    values = load_file(run(base, "tiny", json=True))["values"]
    found = said(capsys)
    assert values.shape == (21, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(values[1:], axis=1), 1, atol=1e-5)
    assert found["diagnostics"]["texts"]["cut"] > 0
    assert found["diagnostics"]["texts"]["tokens"]["max"] == 6

    def refuse(*_: Any) -> None:
        raise AssertionError("all rows are cached")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformersEncoder, "encode", refuse)
        patch.setattr(TransformersEncoder, "prepare", refuse)
        assert (load_file(run(base, "tiny", json=True))["values"] == values).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("text_embedding_3_small", {"workers": 2}, "requests_per_minute for itself"),
        ("own", {"workers": 2}, "made elsewhere are not encoded"),
        ("qwen3_8b", {"device": "cpu"}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_options_that_an_engine_does_not_heed_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    base = project(tmp_path)
    with_vectors(base, ["i000000"], np.ones((1, 3), np.float32))
    workers = options.pop("workers", 0)
    with pytest.raises(ConfigError, match=message):
        encode(Run("encode", base / "params.yaml", **options), "demo", name, workers)


def test_more_workers_than_ray_has_room_for_are_refused() -> None:
    from pipeline.encoders.distributed import _check

    _check(2, 0, {"CPU": 2.0})
    _check(8, 1, {"CPU": 16.0, "GPU": 8.0})
    with pytest.raises(ResourceError, match=r"--workers 3: .* 2\.5 CPUs, it has 2\. Set .* to 2"):
        _check(3, 0, {"CPU": 2.0})
    with pytest.raises(ResourceError, match=r"--workers 8: .* 16 GPUs, it has 8\. Set .* to 4"):
        _check(8, 2, {"CPU": 64.0, "GPU": 8.0})


def test_the_work_list_of_a_killed_run_is_cleared(tmp_path: Path) -> None:
    base = project(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    listed = base / "artifacts" / ".tmp" / f"{gone.pid}-batches"
    listed.mkdir(parents=True)
    (listed / "00000000.parquet").write_bytes(b"torn")
    run(base)
    assert not listed.exists()
