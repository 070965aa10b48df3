"""Tiny models that are built once, and nothing from the network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tiny_models import build
from tests.unit.transformers_engine.engines import Folder


@pytest.fixture(scope="session")
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


@pytest.fixture(autouse=True)
def _offline(offline: None) -> None:
    """No test here asks a hub."""
