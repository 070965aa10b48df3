"""What is asked, what is answered, and answers that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from pipeline.encoders.batches import plan
from pipeline.encoders.openai import OpenAIEncoder
from pipeline.errors import ConfigError, DataError, SpectranError
from tests.unit.openai_engine.server import (
    HASH,
    KEY,
    TEXTS,
    WIDTH,
    Answer,
    Server,
    encode,
    engine,
    good,
    refused,
    spec,
)

pytest.importorskip("openai", reason="needs the extra `openai`")


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_vectors_come_in_the_order_of_the_texts(server: Server, encoding: str) -> None:
    rows = encode(engine(server, encoding_format=encoding), TEXTS)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, HASH.encode(TEXTS))
    assert server.requests[0]["encoding_format"] == encoding


def test_a_server_that_sends_numbers_for_base64_is_understood(server: Server) -> None:
    def numbers(body: dict[str, Any]) -> Answer:
        return 200, {}, json.dumps(good(body | {"encoding_format": "float"})).encode()

    server.always = numbers
    np.testing.assert_array_equal(encode(engine(server), TEXTS), HASH.encode(TEXTS))


def test_the_request_names_model_path_and_key(server: Server) -> None:
    encode(engine(server), TEXTS)
    (request,) = server.requests
    assert request["path"] == "/v1/embeddings"
    assert request["headers"]["authorization"] == f"Bearer {KEY}"
    assert (request["model"], request["input"]) == ("words", TEXTS)
    assert "dimensions" not in request


def test_no_key_is_sent_unless_one_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/elsewhere")
    encode(engine(server, key_variable=None), TEXTS)
    assert KEY not in str(server.requests[0]["headers"])
    assert "authorization" not in server.requests[0]["headers"]


def test_the_named_key_wins_over_the_clients_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-other")
    encode(engine(server), TEXTS)
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"


def test_dimensions_are_sent(server: Server) -> None:
    encode(engine(server, dimensions=WIDTH), TEXTS)
    assert server.requests[0]["dimensions"] == WIDTH


def test_normalize_gives_rows_of_norm_one(server: Server) -> None:
    def long(body: dict[str, Any]) -> Answer:
        answer = good(body | {"encoding_format": "float"})
        for entry in answer["data"]:
            entry["embedding"] = [3e19 * x for x in entry["embedding"]]  # squares pass float32
        return 200, {}, json.dumps(answer).encode()

    server.always = long
    rows = encode(engine(server, normalize=True), TEXTS)
    np.testing.assert_allclose(rows, HASH.encode(TEXTS), rtol=1e-6)


def test_texts_are_cut_and_their_tokens_estimated() -> None:
    ready = OpenAIEncoder(spec(max_characters=8)).prepare(["a" * 9, "a" * 8, "\u6f22\u5b57", ""])
    assert list(ready.inputs) == ["a" * 8, "a" * 8, "\u6f22\u5b57", ""]
    assert ready.tokens.tolist() == [2, 2, 2, 0]  # 8, 8, 6 and 0 bytes
    assert ready.cut.tolist() == [True, False, False, False]
    assert not ready.counted


def test_half_a_character_is_replaced_and_any_other_text_arrives(server: Server) -> None:
    texts = ['a "quoted" \\ title', "half \ud83d", "whole \U0001f600 \u6f22 \x00"]
    encode(engine(server), texts)
    assert server.requests[0]["input"] == [texts[0], "half \ufffd", texts[2]]


def test_a_request_stays_below_batch_tokens(server: Server) -> None:
    made = engine(server, batch_tokens=6)
    tokens = made.prepare(["a" * 16, "b" * 12, "c" * 12, "d" * 40]).tokens
    sizes = [tokens[batch].tolist() for batch in plan(tokens, made.batch_tokens, made.batch_size)]
    assert sizes == [[10], [4], [3, 3]]


def changed(change: Callable[[dict[str, Any]], object], body: dict[str, Any]) -> Answer:
    answer = good(body)
    change(answer)
    return 200, {}, json.dumps(answer).encode()


def vector(*values: object) -> Callable[[dict[str, Any]], object]:
    """Replace the last vector, of the first text."""
    return lambda answer: answer["data"][-1].update(embedding=list(values))


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda a: a["data"].pop(), DataError, "holds 2 vectors for 3 texts"),
        (lambda a: a["data"].append(a["data"][0]), DataError, "holds 4 vectors for 3"),
        (lambda a: a["data"][0].update(index=0), DataError, "does not number its 3 vectors"),
        (lambda a: a["data"][0].pop("index"), DataError, "does not number"),
        (lambda a: a["data"][0].update(index="2"), DataError, "does not number"),
        (lambda a: a.pop("data"), DataError, "no list `data`"),
        (lambda a: a.update(data=[1, 2, 3]), DataError, "no list `data`"),
        (vector(*[0.1] * 5), ConfigError, "vectors of width 5, 8, params say 8.*Set `width`"),
        (vector(*[0.1] * 7, float("nan")), DataError, "NaN or infinity for 1 of 3.*'red wooden"),
        (vector(*[0.1] * 7, None), DataError, "NaN or infinity for 1 of 3"),
        (vector(*[0.1] * 7, 1e300), DataError, "NaN or infinity for 1 of 3"),
        (vector(*[0.1] * 7, "x"), DataError, "neither numbers nor base64"),
        (vector(*[0.1] * 7, [1]), DataError, "neither numbers nor base64"),
        (lambda a: a["data"][0].update(embedding="AAAA!"), DataError, "neither numbers nor"),
        (lambda a: a["data"][0].update(embedding="AAAA"), DataError, "neither numbers nor"),
        (lambda a: a["data"][0].update(embedding=None), DataError, "neither numbers nor"),
        (vector(*[0.0] * 8), DataError, "only zeros for 1 of 3 texts.*'red wooden train'"),
    ],
)  # fmt: skip
def test_answer_that_cannot_be_right_is_refused(
    server: Server,
    change: Callable[[dict[str, Any]], object],
    kind: type[SpectranError],
    said: str,
) -> None:
    server.always = partial(changed, change)
    refused(engine(server, normalize=True), kind, said)
    assert len(server.requests) == 1


def test_zeros_are_kept_where_nothing_is_normalized(server: Server) -> None:
    server.always = partial(changed, vector(*[0.0] * 8))
    assert not encode(engine(server), TEXTS)[0].any()


@pytest.mark.parametrize(
    "content", [b"", f"<html>{KEY}".encode(), b'{"data": [', b"\xff\xfe"], ids=ascii
)
def test_answer_that_is_not_json_is_refused(server: Server, content: bytes) -> None:
    server.always = lambda body: (200, {}, content)
    refused(engine(server), DataError, "is not JSON.*base_url")


@pytest.mark.parametrize("content", [b"[]", b"null", b"3"])
def test_json_of_another_kind_is_refused(server: Server, content: bytes) -> None:
    server.always = lambda body: (200, {}, content)
    refused(engine(server), DataError, "no list `data`")
