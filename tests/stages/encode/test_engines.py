"""Engines behind `spectran encode`, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from pipeline.encoders.hash import HashEncoder
from pipeline.errors import ConfigError, ResourceError
from stages.encode import encode
from stages.run import Run
from tests.stages.encode.catalogue import MANY, project, run, said, with_vectors


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
        ("hash", {"device": "cuda:0"}, "hash runs no model here"),
        ("text_embedding_3_small", {"device": "gpu"}, "openai runs no model here"),
        ("own", {"device": "cuda:0"}, "vectors runs no model here"),
        ("hash", {"threads": 2}, "hash does not heed it"),
        ("qwen3_8b", {"threads": 2}, "vllm does not heed it"),
        ("minilm", {"device": "cuda:1", "workers": 2}, "the GPU that Ray gives it"),
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
