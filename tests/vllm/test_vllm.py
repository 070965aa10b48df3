"""The vLLM engine beside the transformers library, on tiny models (make test-vllm)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from pipeline.config import Vllm
from pipeline.encoders import open_encoder
from pipeline.encoders.vllm import VllmEncoder
from pipeline.errors import ConfigError

from ..conftest import ITEMS
from ..tiny_models import DECODERS, POSITIONS, WIDTH, build

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        "vllm" not in metadata.packages_distributions(),
        reason="vLLM has an environment of its own: make test-vllm",
    ),
]

MAX_TOKENS = 24
WORDS = ("red", "wooden", "train", "castle", "building", "set", "300", "blocks", "&", "figures") * 4
LENGTHS = (1, 9, 2, 40, 5, 17, 3, 30, 12, 6, 25, 4, 19, 8)
DRAWS = np.random.default_rng(0)
TEXTS = [" ".join(DRAWS.permutation(WORDS)[:length]) for length in LENGTHS]
"""Of one to many tokens, in no order of length; the longest are cut."""


@pytest.fixture(scope="module", autouse=True)
def small_cache() -> Iterator[None]:
    """On a CPU vLLM would take its share of the whole machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {kind: build(kind, place / kind) for kind in DECODERS}


def block(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "engine": "vllm",
        "transform": None,
        "template": "{title}",
        "width": WIDTH,
        "model": str(model),
        "revision": None,
        "weights_sha256": None,
        "normalize": False,
        "max_tokens": MAX_TOKENS,
        "dtype": "float32",
        "batch_size": 4,
        "batch_tokens": 64,
        "pooling": "last",
        "tensor_parallel": 1,
        "memory_share": 0.2,
        "trust_remote_code": False,
        **changes,
    }


def encode(model: Path, texts: list[str] = TEXTS, **changes: Any) -> np.ndarray:
    engine = open_encoder(Vllm.model_validate(block(model, **changes)), Path(), "cpu")
    assert isinstance(engine, VllmEncoder)
    try:
        return engine.encode(engine.prepare(texts).inputs)
    finally:
        engine.close()


def alone(model: Path, texts: list[str], pooling: str) -> np.ndarray:
    """Pool the states of one text at a time, by the transformers library."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    states = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        if pooling == "eos":
            ids = [*ids[: MAX_TOKENS - 1], tokenizer.eos_token_id]
        with torch.no_grad():
            found = states(torch.tensor([ids[:MAX_TOKENS]])).last_hidden_state[0]
        rows.append(found.mean(0) if pooling == "mean" else found[-1])
    return torch.stack(rows).numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize("pooling", ["last", "mean", "eos"])
@pytest.mark.parametrize("kind", DECODERS)
def test_rows_are_those_of_transformers(models: dict[str, Path], kind: str, pooling: str) -> None:
    found = encode(models[kind], pooling=pooling)
    expected = alone(models[kind], TEXTS, pooling)
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > 0.99999
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-4
    )
    for shift in range(1, len(TEXTS)):  # another order would be seen
        assert cosines(np.roll(found, shift, axis=0), expected).max() < 0.9999


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_normalize_gives_rows_of_norm_1(models: dict[str, Path], pooling: str) -> None:
    found = encode(models["llama"], pooling=pooling, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert cosines(found, alone(models["llama"], TEXTS, pooling)).min() > 0.99999


def test_bfloat16_gives_float32_rows_near_the_full_ones(models: dict[str, Path]) -> None:
    found = encode(models["qwen3"], dtype="bfloat16")
    assert found.dtype == np.float32
    assert cosines(found, alone(models["qwen3"], TEXTS, "last")).min() > 0.99


def test_a_text_as_long_as_the_model_reads_is_taken(models: dict[str, Path]) -> None:
    found = encode(models["qwen2"], ["train " * 300], max_tokens=POSITIONS, pooling="eos")
    assert found.shape == (1, WIDTH)


def test_head_size_that_no_kernel_takes_is_refused(tmp_path: Path) -> None:
    model = build("llama", tmp_path / "m", head_dim=16, num_attention_heads=4)
    with pytest.raises(ConfigError, match=r"vLLM does not run it.*head_(dim|size).*transformers"):
        encode(model)


def test_architecture_that_is_unknown_is_refused(tmp_path: Path) -> None:
    model = build("llama", tmp_path / "m")
    settings = model / "config.json"
    settings.write_text(settings.read_text().replace("LlamaForCausalLM", "NoSuchModel"))
    with pytest.raises(ConfigError, match=r"vLLM does not run it.*NoSuchModel"):
        encode(model)


SCRIPT = """
import socket, sys
from pathlib import Path
from pipeline.config import Vllm
from pipeline.encoders import open_encoder

real = socket.socket.connect

def connect(self, address):
    assert isinstance(address, str) or address[0] in ("127.0.0.1", "::1"), address
    return real(self, address)

if __name__ == "__main__":
    socket.socket.connect = connect
    engine = open_encoder(Vllm.model_validate_json(sys.argv[1]), Path(), "cpu")
    rows = engine.encode(engine.prepare(["red train"]).inputs)
    from vllm.usage.usage_lib import is_usage_stats_enabled
    assert rows.shape == (1, engine.width)
    assert not is_usage_stats_enabled()
    print("rows", *rows.shape)
"""


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python as a user does who has set nothing."""
    unset = {"HF_HUB_OFFLINE", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment["PYTHONPATH"] = str(Path.cwd())
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=cwd,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_nothing_is_shown_sent_or_asked(models: dict[str, Path]) -> None:
    spec = Vllm.model_validate(block(models["mistral"])).model_dump_json()
    done = process("-c", SCRIPT, spec)
    assert done.stdout == f"rows 1 {WIDTH}\n"
    assert "INFO" not in done.stderr


def test_the_stage_encodes_and_a_second_run_loads_no_engine(
    models: dict[str, Path], tiny_root: Path
) -> None:
    params = yaml.safe_load((tiny_root / "params.yaml").read_text())
    params["encoders"]["tiny"] = block(models["qwen3"], pooling="mean")
    (tiny_root / "params.yaml").write_text(yaml.safe_dump(params))
    told = []
    for _ in range(2):
        done = process("-m", "stages.cli", "encode", "demo", "tiny", "--json", cwd=tiny_root)
        told.append(json.loads(done.stdout))
    assert [one["encoded"] for one in told] == [ITEMS, 0]
    rows = load_file(tiny_root / "artifacts" / "semantic" / "demo" / "tiny.safetensors")["values"]
    titles = [f"title {n}" for n in range(ITEMS)]
    assert cosines(rows[1:], alone(models["qwen3"], titles, "mean")).min() > 0.99999
