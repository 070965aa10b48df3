"""A folder with inputs and small settings, as working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.tune.commands import (
    LISTS,
    SMALL,
    write,
)


@pytest.fixture
def project(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs and small settings, as working directory."""
    monkeypatch.chdir(tiny_root)
    monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
    monkeypatch.setenv("SPECTRAN_SAVE_EVERY_S", "0")
    write(tiny_root, SMALL, LISTS)
    return tiny_root
