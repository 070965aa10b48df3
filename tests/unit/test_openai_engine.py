"""The openai engine against a server on this machine that answers, and misbehaves on demand."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import OpenAI
from pipeline.encoders import open_encoder
from pipeline.encoders.batches import plan
from pipeline.encoders.hash import HashEncoder
from pipeline.encoders.hub import need
from pipeline.encoders.openai import OpenAIEncoder, Pace
from pipeline.errors import ConfigError, DataError, ResourceError, SpectranError
from pipeline.strict import build

pytest.importorskip("openai", reason="needs the extra `openai`")

KEY = "sk-Geheim-0123456789"
VARIABLE = "SPECTRAN_TEST_KEY"
WIDTH = 8
HASH = HashEncoder(WIDTH, 0)
TEXTS = ["red wooden train", "a", "castle building set with 300 blocks"]

Answer = tuple[int, dict[str, str], bytes]
Misbehave = Callable[[dict[str, Any]], Answer | None]


def good(body: dict[str, Any]) -> dict[str, Any]:
    """The right answer, its vectors in the wrong order, as the protocol allows."""
    data: list[dict[str, Any]] = []
    for index, row in enumerate(HASH.encode(body["input"])):
        vector: Any = row.tolist()
        if body["encoding_format"] == "base64":
            vector = base64.b64encode(row.astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}


def status(code: int, message: str, **headers: str) -> Answer:
    return code, headers, json.dumps({"error": {"message": message}}).encode()


class Server(ThreadingHTTPServer):
    """Answers the n-th request by the n-th entry of `script`, all others as they should be."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Misbehave] = []
        self.always: Misbehave | None = None
        self.requests: list[dict[str, Any]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append({"path": self.path, "headers": headers, **body})
        turn = self.server.script.pop(0) if self.server.script else self.server.always
        answer = turn(body) if turn else None
        code, headers, content = answer or (200, {}, json.dumps(good(body)).encode())
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.released.set()
        made.shutdown()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts, seconds; none is really waited."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(autouse=True)
def _key_never_shown(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Whatever a test does, no log line of any library and no output holds the key."""
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())


def spec(url: str = "http://127.0.0.1:9/v1", **changes: Any) -> OpenAI:
    values = {
        "engine": "openai",
        "transform": None,
        "template": "{title}",
        "width": WIDTH,
        "model": "words",
        "base_url": url,
        "key_variable": VARIABLE,
        "dimensions": None,
        "normalize": False,
        "max_characters": 100,
        "encoding_format": "base64",
        "batch_size": 4,
        "batch_tokens": 1000,
        "requests_per_minute": None,
        "retries": 2,
        "timeout_s": 20,
    }
    return build(OpenAI, values | changes, "params.yaml: encoders.words")


def engine(server: Server, **changes: Any) -> OpenAIEncoder:
    return OpenAIEncoder(spec(server.url, **changes))


def encode(made: OpenAIEncoder, texts: list[str]) -> np.ndarray:
    return made.encode(made.prepare(texts).inputs)


def refused(made: OpenAIEncoder, kind: type[SpectranError], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        encode(made, TEXTS)
    assert KEY not in str(caught.value)


# ---------------------------------------------------------------- what is asked and answered


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


# ---------------------------------------------------------------- texts


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


# ---------------------------------------------------------------- identity and block


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "http://127.0.0.1:9/v2"},
        {"model": "other"},
        {"dimensions": WIDTH},
        {"normalize": True},
        {"max_characters": 50},
    ],
    ids=str,
)
def test_what_changes_a_vector_changes_the_identity(change: dict[str, Any]) -> None:
    assert OpenAIEncoder(spec(**change)).identity() != OpenAIEncoder(spec()).identity()


def test_how_the_server_is_asked_does_not_change_the_identity() -> None:
    changes = {
        "base_url": "http://127.0.0.1:9/v1/",
        "key_variable": None,
        "encoding_format": "float",
        "batch_size": 1,
        "batch_tokens": 1,
        "requests_per_minute": 1,
        "retries": 0,
        "timeout_s": 1,
    }
    assert OpenAIEncoder(spec(**changes)).identity() == OpenAIEncoder(spec()).identity()
    assert KEY not in str(OpenAIEncoder(spec()).identity())


def test_identity_reads_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    made = open_encoder(spec(), Path(), "cpu")
    assert isinstance(made, OpenAIEncoder)
    assert made.identity()["engine"] == "openai"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "https://user:secret@host/v1"}, "base_url"),
        ({"base_url": "https://host/v1?key=secret"}, "base_url"),
        ({"base_url": "https://host:port/v1"}, "Port could not be cast"),
        ({"base_url": "https://:80/v1"}, "names no host"),
        ({"key_variable": "sk-0123"}, "key_variable"),
        ({"dimensions": WIDTH + 1}, "dimensions asks for 9, width says 8"),
    ],
    ids=str,
)
def test_block_that_cannot_work_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        spec(**change)


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"openai.*pip install -e '\.\[openai\]'"):
        need("openai", "openai")


# ---------------------------------------------------------------- refusals that end at once


@pytest.mark.parametrize("value", ["", "  \n", None], ids=repr)
def test_missing_key_names_its_variable(
    server: Server, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, value)
    refused(engine(server), ConfigError, f"{VARIABLE} .* not set or empty")
    assert not server.requests


@pytest.mark.parametrize("value", [f"{KEY}\n{KEY}", f"{KEY} x", f"{KEY}\u2026"], ids=ascii)
def test_key_that_cannot_be_sent_is_refused_without_showing_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    refused(engine(server), ConfigError, f"{VARIABLE} .* Set it to the key alone")


def test_key_may_end_with_a_line_break(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY + "\r\n")
    encode(engine(server), TEXTS)
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("code", [401, 403])
def test_refused_key_names_its_variable_not_the_key(server: Server, code: int) -> None:
    server.always = lambda body: status(code, f"Incorrect API key provided: {KEY[:9]}***")
    with pytest.raises(ConfigError, match=f"answers {code}: .*{VARIABLE} holds a key") as caught:
        encode(engine(server), TEXTS)
    assert KEY[:9] not in str(caught.value)
    assert len(server.requests) == 1


def test_server_that_wants_a_key_is_told_apart(server: Server) -> None:
    server.always = lambda body: status(401, "Unauthorized")
    refused(engine(server, key_variable=None), ConfigError, "No key was sent.*key_variable")


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (status(404, "The model `words` does not exist."), ConfigError,
         "answers 404: The model `words` does not exist.*no such model or no such address"),
        ((404, {}, b"<html>nothing here</html>"), ConfigError, "answers 404: <html>nothing here"),
        (status(400, "maximum context length is 512 tokens"), ConfigError,
         r"context length is 512 tokens.*lower max_characters \(100\)"),
        (status(413, "too large"), ConfigError, "lower batch_size"),
        ((422, {}, b'{"message": "unknown field dimensions"}'), ConfigError,
         "422: unknown field dimensions.*see dimensions"),
        (status(418, "a teapot"), ConfigError, "answers 418: a teapot"),
        (status(400, f"your key {KEY} is odd\n\nand more"), ConfigError,
         r"your key \[key\] is odd and more"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_refusal_that_stays_is_not_tried_again(
    server: Server, answer: Answer, kind: type[SpectranError], said: str
) -> None:
    server.always = lambda body: answer
    refused(engine(server), kind, said)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirect_is_not_followed(server: Server, code: int) -> None:
    with Server() as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        place = other.url + "/embeddings"
        server.always = lambda body: (code, {"Location": place}, b"")
        refused(engine(server), ConfigError, f"redirect to {place}. It is not followed")
        other.shutdown()
        assert not other.requests


# ---------------------------------------------------------------- refusals that may pass


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_load_and_server_errors_are_tried_again(
    server: Server, waits: list[float], code: int
) -> None:
    server.script = [lambda body: status(code, "later")] * 2
    np.testing.assert_array_equal(encode(engine(server), TEXTS), HASH.encode(TEXTS))
    assert len(server.requests) == 3
    assert len(waits) == 2 and waits[0] < waits[1]


@pytest.mark.parametrize(
    ("code", "cure"), [(429, "set requests_per_minute"), (503, "look at the server's log")]
)
def test_after_all_attempts_the_same_command_is_to_be_run_again(
    server: Server, code: int, cure: str
) -> None:
    server.always = lambda body: status(code, f"busy {KEY}")
    said = rf"answers {code}: busy \[key\].*attempts: 3\. .*same command again.*{cure}"
    refused(engine(server), ResourceError, said)
    assert len(server.requests) == 3


def test_no_retries_means_one_attempt(server: Server) -> None:
    server.always = lambda body: status(500, "broken")
    refused(engine(server, retries=0), ResourceError, "attempts: 1")


def test_attempts_are_counted_for_each_request_anew(server: Server) -> None:
    made = engine(server)
    server.script = [lambda body: status(500, "broken")] * 2
    encode(made, TEXTS)
    server.always = lambda body: status(500, "broken")
    refused(made, ResourceError, "attempts: 3")


def test_every_failed_attempt_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.script = [lambda body: status(429, "later")]
    encode(engine(server), TEXTS)
    own = [r.getMessage() for r in caplog.records if r.name == "pipeline.encoders.openai"]
    assert len(own) == 1 and "answers 429 (attempt 1 of 3)" in own[0]


def test_the_wait_a_server_asks_for_is_kept(server: Server, waits: list[float]) -> None:
    server.script = [
        lambda body: status(429, "later", Retry_After="7"),
        lambda body: status(503, "later", Retry_After="31"),
    ]
    encode(engine(server), TEXTS)
    assert waits == [7.0, 31.0]


def test_a_very_long_wait_is_told_instead(server: Server, waits: list[float]) -> None:
    server.always = lambda body: status(429, "quota", Retry_After="3600")
    refused(engine(server), ResourceError, r"429: quota; it asks to wait 3600 .*attempts: 1")
    assert not waits


def test_silence_ends_after_the_timeout(server: Server) -> None:
    def silent(body: dict[str, Any]) -> None:
        server.released.wait(60)

    server.always = silent
    made = engine(server, timeout_s=1, retries=0)
    refused(made, ResourceError, "no answer within timeout_s: 1; attempts: 1.*raise timeout_s")


def test_refused_connection_is_told(server: Server) -> None:
    closed = engine(server)
    server.server_close()
    refused(closed, ResourceError, r"connection failed \(.*efused\); attempts: 3.*base_url")


def test_answer_that_breaks_off_is_tried_again(server: Server) -> None:
    def broken(body: dict[str, Any]) -> Answer:
        content = json.dumps(good(body)).encode()
        return 200, {"Content-Length": str(len(content))}, content[: len(content) // 2]

    server.script = [broken]
    np.testing.assert_array_equal(encode(engine(server), TEXTS), HASH.encode(TEXTS))
    server.always = broken
    refused(engine(server), ResourceError, "connection failed .*attempts: 3")


# ---------------------------------------------------------------- answers that cannot be used


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


# ---------------------------------------------------------------- spacing


class Clock:
    """A clock that only sleeping and working move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_requests_are_spaced_by_what_is_left_of_their_gap() -> None:
    clock = Clock()
    pace = Pace(20, clock, clock.sleep)  # every 3 seconds
    starts = []
    for work_s in (1.0, 0.5, 10.0, 0.0, 0.0):
        pace.wait()
        starts.append(clock.now - 1000)
        clock.now += work_s
    # No wait is saved up while a request takes longer than the gap.
    assert starts == [0.0, 3.0, 6.0, 16.0, 19.0]
    assert clock.slept == [2.0, 2.5, 3.0]


def test_no_limit_never_waits() -> None:
    clock = Clock()
    pace = Pace(None, clock, clock.sleep)
    for _ in range(3):
        pace.wait()
    assert not clock.slept


def test_retries_are_spaced_too(server: Server) -> None:
    clock = Clock()
    made = OpenAIEncoder(spec(server.url, requests_per_minute=6), clock, clock.sleep)
    server.script = [lambda body: status(429, "later")]
    encode(made, TEXTS)
    encode(made, TEXTS)
    assert len(server.requests) == 3
    assert clock.slept == [10.0, 10.0]
