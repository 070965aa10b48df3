"""Attention in both directions, and adapters against peft's own forward."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from tests.tiny_models import BLOCKS, DECODERS, build
from tests.unit.transformers_engine.engines import (
    TEXTS,
    Folder,
    adapter,
    assert_close,
    engine,
    library,
    rows,
)

pytest.importorskip("transformers", reason="needs the extra `encode`")


@pytest.mark.parametrize("kind", DECODERS)
def test_bidirectional_lets_tokens_see_later_ones(folder: Folder, kind: str) -> None:
    import torch

    ids = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 30]]
    mask = torch.ones(2, 5, dtype=torch.bool)
    with torch.inference_mode():
        for both in (False, True):
            found = engine(folder(kind), bidirectional=both)
            one, other = found._model(torch.tensor(ids), mask)
            changed = (one[:4] - other[:4]).norm(dim=1) > 1e-2
            assert changed.tolist() == [both] * 4


@pytest.mark.parametrize("kind", DECODERS)
def test_bidirectional_is_attention_without_a_causal_mask(folder: Folder, kind: str) -> None:
    """The library run eagerly with a mask of zeros given in full."""
    import torch
    from transformers import AutoModel

    found = engine(folder(kind), bidirectional=True)
    model = AutoModel.from_pretrained(folder(kind), attn_implementation="eager").eval()
    expected = []
    for ids in found.prepare(TEXTS).inputs:
        allowed = torch.zeros(1, 1, len(ids), len(ids))
        with torch.no_grad():
            out = model(torch.tensor([ids]), attention_mask=allowed)
        expected.append(out.last_hidden_state[0].mean(0).numpy())
    assert_close(rows(found), np.stack(expected))


def test_bidirectional_that_changes_nothing_is_refused(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"attend to later ones already. Set bidirectional: fal"):
        rows(engine(folder("bert"), bidirectional=True))
    with pytest.raises(ConfigError, match=r"takes no effect on the state asked for"):
        rows(engine(folder("llama"), bidirectional=True, layer=0))


def lora(path: Path, place: Path, seed: int, *, head: bool = False) -> Path:
    """Save a random adapter of a model, as trained on the bare model or on the one with a head."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoModelForCausalLM

    kind = AutoModelForCausalLM if head else AutoModel
    torch.manual_seed(seed)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(kind.from_pretrained(path), settings)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    adapted.save_pretrained(place)
    return place


@pytest.mark.parametrize("head", [False, True], ids=["bare", "with_head"])
def test_merged_adapters_give_pefts_unmerged_forward(
    folder: Folder, tmp_path: Path, head: bool
) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra `adapters`")
    import torch
    from transformers import AutoModelForCausalLM

    path = folder("llama")
    place = lora(path, tmp_path / "lora", 3, head=head)
    _, model = library(path)
    if head:
        model = AutoModelForCausalLM.from_pretrained(path)
    adapted = peft.PeftModel.from_pretrained(model, place).eval()
    found = engine(path, adapters=[adapter(place)])
    expected = []
    for ids in found.prepare(TEXTS).inputs:
        with torch.no_grad():
            out = adapted(torch.tensor([ids]), output_hidden_states=True)
        expected.append(out.hidden_states[-1][0].mean(0).numpy())
    given = rows(found)
    np.testing.assert_allclose(given, np.stack(expected), rtol=1e-4, atol=1e-4)
    assert np.abs(given - rows(engine(path))).max() > 0.1


def test_adapters_stack_on_a_decoder_that_attends_both_ways(folder: Folder, tmp_path: Path) -> None:
    """As LLM2Vec: the sum of both products is in the weights."""
    pytest.importorskip("peft", reason="needs the extra `adapters`")
    from safetensors.numpy import load_file

    path = folder("llama")
    places = [lora(path, tmp_path / str(seed), seed) for seed in (3, 4)]
    found = engine(path, adapters=[adapter(p) for p in places], bidirectional=True)
    rows(found)
    _, plain = library(path)
    expected = plain.layers[1].self_attn.q_proj.weight.detach().numpy().copy()
    for place in places:
        tensors = load_file(place / "adapter_model.safetensors")
        name = "base_model.model.layers.1.self_attn.q_proj.lora_{}.weight"
        expected += 2.0 * tensors[name.format("B")] @ tensors[name.format("A")]
    merged = found._model.model.layers[1].self_attn.q_proj.weight.numpy()
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)


def test_adapter_of_another_model_is_refused(folder: Folder, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra `adapters`")
    other = build("llama", tmp_path / "wide", hidden_size=96, num_attention_heads=3)
    with pytest.raises(ConfigError, match=r"adapter.*does not fit the model.*It was made for"):
        rows(engine(folder("llama"), adapters=[adapter(lora(other, tmp_path / "a", 1))]))
    deep = build("llama", tmp_path / "deep", num_hidden_layers=BLOCKS + 1)
    with pytest.raises(ConfigError, match=r"6 tensors do not fit the model.*It was made for"):
        rows(engine(folder("llama"), adapters=[adapter(lora(deep, tmp_path / "b", 1))]))


@pytest.mark.parametrize(
    ("settings", "weights", "problem"),
    [
        (None, "adapter_model.safetensors", r"adapter_config\.json is missing"),
        ({"peft_type": "LORA"}, "adapter_model.bin", r"pickled weights only.*convert"),
        ({"peft_type": "LORA"}, "x.txt", r"adapter_model\.safetensors is missing"),
        ({"peft_type": "IA3"}, "adapter_model.safetensors", r"of kind IA3; only LORA"),
    ],
)
def test_incomplete_adapters_are_refused(
    folder: Folder, tmp_path: Path, settings: dict[str, str] | None, weights: str, problem: str
) -> None:
    place = tmp_path / "lora"
    place.mkdir()
    (place / weights).write_bytes(b"")
    if settings is not None:
        (place / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=problem):
        engine(folder("llama"), adapters=[adapter(place)]).identity()


def test_adapters_without_peft_name_the_extra(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.encoders import lora as module

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"package peft.*pip install -e '\.\[adapters\]'"):
        module.merge(object(), [module.AdapterFolder(tmp_path)])
    assert module.merge(model := object(), []) is model
