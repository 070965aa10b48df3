"""Test users never take part in a search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.values import Sequences
from tests.stages.tune.commands import (
    APP,
    CELL,
    answer,
    without_clock,
)


class Untouchable:
    """Stands for the test split: any use of it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test split was used: {name}")

    def __ge__(self, other: object) -> Any:
        raise AssertionError("the test split was used")

    def __getitem__(self, key: object) -> Any:
        raise AssertionError("the test split was used")


def test_test_users_are_never_ranked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sequences.load

    def guarded(*words: Any) -> Sequences:
        found = whole(*words)
        object.__setattr__(found, "test_at", Untouchable())
        return found

    monkeypatch.setattr(Sequences, "load", guarded)
    assert len(answer(*CELL)["trials"]) == 5
    done = CliRunner().invoke(APP, ["train", *CELL])
    assert isinstance(done.exception, AssertionError), "training ranks them, and is caught"


def test_test_targets_cannot_change_the_choice(project: Path) -> None:
    from pipeline.values import Catalog

    before = without_clock(answer(*CELL))
    catalog = Catalog.load(project / "artifacts", "demo")
    data = Sequences.load(project / "artifacts", "demo", catalog)
    items = data.items.copy()
    items[data.offsets[:-1] + data.test_at] = 1
    changed = dataclasses.replace(data, items=items)
    changed.save(project / "artifacts", "demo", {})
    assert without_clock(answer(*CELL)) == before
