"""The encoders of params.yaml: every block opens, and its width is the model's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.config import Params, Sbert, Transformers, Vllm
from pipeline.encoders import open_encoder
from pipeline.params import load

WIDTHS = {
    "sentence-transformers/all-MiniLM-L6-v2": 384,
    "BAAI/bge-large-en-v1.5": 1024,
    "intfloat/e5-large-v2": 1024,
    "meta-llama/Meta-Llama-3-8B": 4096,
    "meta-llama/Llama-3.1-8B": 4096,
    "meta-llama/Meta-Llama-3-8B-Instruct": 4096,
    "mistralai/Mistral-7B-v0.3": 4096,
    "Qwen/Qwen2.5-7B": 3584,
    "Qwen/Qwen3-8B": 4096,
    "Qwen/Qwen3-Embedding-0.6B": 1024,
    "Qwen/Qwen3-Embedding-4B": 2560,
    "Qwen/Qwen3-Embedding-8B": 4096,
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
}
"""As the models' cards and configs state them."""


def test_every_model_has_one_preset_of_its_width(params: Params) -> None:
    found = [
        (encoder.model, encoder.width)
        for encoder in params.encoders.values()
        if hasattr(encoder, "model") and not encoder.model.startswith("package:")
    ]
    assert sorted(found) == sorted(WIDTHS.items())


def test_every_block_opens_without_loading_anything(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for encoder in params.encoders.values():
        if find_spec(f"pipeline.encoders.{encoder.engine}") is None:
            continue
        assert open_encoder(encoder, Path(), "cpu").width == encoder.width


def test_presets_are_no_part_of_the_grid(params: Params) -> None:
    assert params.grid.encoder == ["minilm"]


def test_models_are_read_as_their_cards_say(params: Params) -> None:
    encoders = params.encoders
    assert encoders["e5_large_v2"].template.startswith("query: ")
    decoder = encoders["llama3_8b"]
    assert isinstance(decoder, Vllm) and decoder.pooling == "mean"
    for size in ("0_6b", "4b", "8b"):
        found = encoders[f"qwen3_embedding_{size}"]
        # Its tokenizer ends every text with <|endoftext|>, while its eos_token is <|im_end|>.
        assert isinstance(found, Vllm) and found.pooling == "last"
    both = encoders["llm2vec_llama3_8b"]
    assert isinstance(both, Transformers) and both.bidirectional and len(both.adapters) == 2
    assert both.model == "meta-llama/Meta-Llama-3-8B-Instruct"


def test_the_hub_form_of_the_carried_model_is_the_same_weights(params: Params) -> None:
    carried, hub = params.encoders["minilm"], params.encoders["all_minilm_l6_v2"]
    assert isinstance(carried, Sbert) and isinstance(hub, Sbert)
    assert hub.weights_sha256 == carried.weights_sha256 is not None
    changed = {"model", "revision"}
    assert hub.model_dump(exclude=changed) == carried.model_dump(exclude=changed)


def test_the_commented_line_runs_a_decoder_without_vllm(tmp_path: Path) -> None:
    text = Path("params.yaml").read_text()
    assert text.count("  # llama3_8b_slow: ") == 1
    changed = tmp_path / "params.yaml"
    changed.write_text(text.replace("  # llama3_8b_slow: ", "  llama3_8b_slow: "))
    params = load(changed)
    slow, fast = params.encoders["llama3_8b_slow"], params.encoders["llama3_8b"]
    assert isinstance(slow, Transformers) and isinstance(fast, Vllm)
    assert (slow.model, slow.pooling, slow.width) == (fast.model, fast.pooling, fast.width)
