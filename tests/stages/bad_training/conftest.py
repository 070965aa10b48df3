"""Projects that training cannot use as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stages.bad_training.toys import (
    project,
    run,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what makes a project folder the working directory, with vectors and spectra."""

    def make(*, spectrum: bool = True, **changes: Any) -> Path:
        folder = project(tmp_path, **changes)
        monkeypatch.chdir(folder)
        monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
        assert run("encode", "demo", "hash").exit_code == 0
        if spectrum:
            assert run("spectrum", "demo", "hash").exit_code == 0
        return folder

    return make
