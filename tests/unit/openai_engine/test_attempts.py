"""Refusals that end at once, those that may pass, and how requests are spaced."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from pipeline.encoders.openai import OpenAIEncoder, Pace
from pipeline.errors import ConfigError, ResourceError, SpectranError
from tests.unit.openai_engine.server import (
    HASH,
    KEY,
    TEXTS,
    VARIABLE,
    Answer,
    Server,
    encode,
    engine,
    good,
    refused,
    spec,
    status,
)

pytest.importorskip("openai", reason="needs the extra `openai`")


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
