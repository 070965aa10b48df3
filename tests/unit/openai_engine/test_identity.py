"""What changes the meaning of a row, and blocks that cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.encoders import open_encoder
from pipeline.encoders.hub import need
from pipeline.encoders.openai import OpenAIEncoder
from pipeline.errors import ConfigError
from tests.unit.openai_engine.server import (
    KEY,
    VARIABLE,
    WIDTH,
    spec,
)

pytest.importorskip("openai", reason="needs the extra `openai`")


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
