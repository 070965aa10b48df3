"""Settings and folders that cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from tests.tiny_models import BLOCKS, POSITIONS, WIDTH
from tests.unit.transformers_engine.engines import (
    TEXTS,
    Folder,
    assert_close,
    engine,
    naive,
    rows,
)

pytest.importorskip("transformers", reason="needs the extra `encode`")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"width": 128}, r"width 64, params say 128. Set `width: 64`"),
        ({"max_tokens": 4096}, rf"at most {POSITIONS} tokens, params say max_tokens: 4096"),
        ({"max_tokens": 1}, r"max_tokens: 1 leaves no room"),
        ({"layer": BLOCKS}, rf"has {BLOCKS} blocks.*Set layer: 0 to {BLOCKS - 1}, or -1"),
        ({"layer": 1, "norm": "pre"}, r"norm: pre .* but layer is 1. Set layer: -1"),
        ({"weights_sha256": "0" * 64}, r"model\.safetensors has sha256"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_model_are_refused(
    folder: Folder, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        rows(engine(folder("llama"), **changes))


def test_state_or_pooling_that_a_model_lacks_is_refused(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"no final normalisation.*BertModel.*Set norm: post"):
        rows(engine(folder("bert"), norm="pre"))
    with pytest.raises(ConfigError, match=r"no eos_token. Set pooling: last"):
        engine(folder("bert"), pooling="eos").prepare(TEXTS)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("config.json", r"config\.json is missing"),
        ("model.safetensors", r"model\.safetensors is missing"),
        ("tokenizer.json", r"the tokenizer \(tokenizer\.json\) is missing"),
    ],
)
def test_folder_without_a_file_is_refused(copy: Path, name: str, problem: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=problem + r".*Copy the whole model"):
        engine(copy).prepare(TEXTS)


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pickled weights only.*convert them"):
        engine(copy).identity()


def test_damaged_weights_are_refused(copy: Path) -> None:
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=r"cannot be loaded:.*Looked in"):
        rows(engine(copy))


def test_absent_weights_are_refused_instead_of_drawn(copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 weights are missing, first layers\.1\.mlp\.up_proj"):
        rows(engine(copy))


def test_an_adapter_named_as_the_model_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "org/model"}')
    with pytest.raises(ConfigError, match=r"is a LoRA adapter.*under `adapters`"):
        engine(copy).identity()


def test_models_with_two_halves_are_refused(copy: Path) -> None:
    from transformers import T5Config

    T5Config(d_model=WIDTH).save_pretrained(copy)
    with pytest.raises(ConfigError, match=r"an encoder and a decoder.*Use the engine sbert"):
        rows(engine(copy))


def test_code_that_a_model_brings_is_run_only_when_asked(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    settings = json.loads((copy / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (copy / "config.json").write_text(json.dumps(settings | {"model_type": "own", "auto_map": own}))
    mark = copy / "ran"
    (copy / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaModel\n"
        f"Path({str(mark)!r}).write_text('')\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaModel):\n    config_class = OwnConfig\n"
    )
    with pytest.raises(ConfigError, match=r"cannot be loaded.*custom code.*set trust_remote_code"):
        rows(engine(copy))
    assert not mark.exists()
    (copy / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"})
    )
    assert_close(rows(engine(copy, trust_remote_code=True)), naive_of_llama(copy))
    assert mark.exists()


def naive_of_llama(copy: Path) -> np.ndarray:
    """The same weights read as the Llama they are."""
    settings = json.loads((copy / "config.json").read_text())
    del settings["auto_map"]
    (copy / "config.json").write_text(json.dumps(settings | {"model_type": "llama"}))
    return naive(copy, -1, "mean")


def test_a_tokenizer_of_another_model_is_refused(folder: Folder) -> None:
    found = engine(folder("llama"))
    known = found.files.settings.vocab_size
    with pytest.raises(ConfigError, match=f"gives the token {known}, the model knows {known}"):
        found.encode([[1, known]])


def test_a_padding_token_that_the_model_does_not_know_is_not_used(folder: Folder) -> None:
    found = engine(folder("qwen2"))
    expected = rows(found)
    other = engine(folder("qwen2"))
    other.files.tokenizer.add_special_tokens({"pad_token": "<a new one>"})
    assert other.files.tokenizer.pad_token_id >= other.files.settings.vocab_size
    np.testing.assert_array_equal(rows(other), expected)
