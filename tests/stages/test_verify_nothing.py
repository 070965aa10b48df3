"""`spectran verify` where there is nothing to verify; tests/e2e/test_verify.py has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.cli import build
from tests import plain

APP = build()


def test_verify_refuses_a_folder_without_params(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(APP, ["verify"])
    assert done.exit_code == 2 and "params.yaml: no such file" in done.stderr


def test_verify_says_that_nothing_was_made_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(plain.text())
    done = CliRunner().invoke(APP, ["verify"])
    assert done.exit_code == 0
    assert done.stdout == (
        "artifacts holds no artifact yet. Run: dvc repro   (or, where shared: dvc pull)\n"
    )
    assert json.loads(CliRunner().invoke(APP, ["verify", "--json"]).stdout)["files"] == 0
