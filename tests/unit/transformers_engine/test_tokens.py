"""Where texts are cut, which tokens stand around them, and texts without any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from tests.tiny_models import DECODERS, KINDS
from tests.unit.transformers_engine.engines import (
    Folder,
    engine,
    library,
    rows,
)

pytest.importorskip("transformers", reason="needs the extra `encode`")


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
