"""Mistakes in a search are named with what to do."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.stages.tune.commands import (
    APP,
    CELL,
    LISTS,
    SMALL,
    refused,
    write,
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("demo none sasrec idd", "Did you mean id?"),
        ("demo none none popularity", "popularity is not trained: there is nothing to search"),
        ("demo none sasrec morec", "reads item text"),
        ("demo none sasrec id --trials 3", "--trials without --out: .*Add --out scratch/NAME"),
        ("demo none sasrec id --trials 0 --out s", "trials"),
        ("demo none sasrec id --write --out s", "--write with --out"),
        ("demo none sasrec id --set tune.trials=0 --out s", "tune.trials: .*greater than 0"),
        ("demo none sasrec id --set tune.trails=9 --out s", "Did you mean trials?"),
        (
            "demo none sasrec id --set 'tune.space={train.dropuot: [0.1]}' --out s",
            "tune.space: train.dropuot: unknown key. Did you mean train.dropout?",
        ),
        ("demo none sasrec id --set 'tune.space={train.dropout: [2]}' --out s", "less than 1"),
        ("demo none sasrec id --set 'tune.space={train.dropout: []}' --out s", "at least 1 item"),
        ("demo none sasrec id --set tune.space={} --out s", "nothing may change for id"),
        (
            "demo none bert4rec id --set 'tune.backbones={bert4rec: {roh: [0.2]}}' --out s",
            "tune.backbones.bert4rec: roh: unknown key. Did you mean rho?",
        ),
        (
            "demo none bert4rec id --set 'tune.backbones={bert4rec: {heads: [3]}}' "
            "--set tune.space={} --out s",
            "does not divide.*this is trial 1: backbone.heads = 3. Take one of these",
        ),
        (
            "demo none sasrec id --set 'tune.space={train.width: [9]}' "
            "--set backbones.sasrec.heads=2 --out s",
            "does not divide.*this is trial 1: train.width = 9. Take one of these",
        ),
    ],
)
def test_a_mistake_is_named_with_what_to_do(project: Path, words: str, said: str) -> None:
    assert re.search(said, refused(*shlex.split(words)), re.DOTALL)
    assert not (project / "artifacts" / "tuned").exists() and not (project / "s/tuned").exists()


def test_check_tells_what_is_wrong_with_the_lists(project: Path) -> None:
    wrong = {
        "space": {"train.droput": [0.1]},
        "methods": {"spectran": {"order": [0]}},
        "backbones": {"bert4rec": {"rho": [2]}},
    }
    write(project, SMALL, LISTS | wrong)
    done = CliRunner().invoke(APP, ["check"])
    assert done.exit_code == 2
    assert re.search(r"tune\.space: train\.droput: .*mean train\.dropout\?", done.stdout)
    assert "tune.methods.spectran: order: " in done.stdout
    assert "tune.backbones.bert4rec: rho: " in done.stdout


def test_without_optuna_it_says_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = refused(*CELL)
    assert "Optuna is not installed. Run: pip install -e '.[tune]'" in said
    assert len(said.splitlines()) == 1
