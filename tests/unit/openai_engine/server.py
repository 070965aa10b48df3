"""A server on this machine that answers as the protocol says, and misbehaves on demand."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from pipeline.config import OpenAI
from pipeline.encoders.hash import HashEncoder
from pipeline.encoders.openai import OpenAIEncoder
from pipeline.errors import SpectranError
from pipeline.strict import build

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
