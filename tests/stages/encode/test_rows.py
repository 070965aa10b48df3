"""`spectran encode` as a user runs it: what it writes, says and refuses."""

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
import pytest
import yaml
from safetensors.numpy import load_file

from pipeline import artifacts
from pipeline.encoders.hash import HashEncoder
from pipeline.errors import ConfigError, DataError, ResourceError
from pipeline.values import Catalog, SemanticEmbeddings
from stages.encode import encode
from stages.run import Run
from tests.stages.encode.catalogue import CELL, TITLES, project, run, said, save


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
