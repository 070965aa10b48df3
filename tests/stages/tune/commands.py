"""Small searches as a user starts them, and what they answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from click.testing import Result
from typer.testing import CliRunner

from stages.cli import build

APP = build()
TREE = Path(__file__).resolve().parents[3]
SMALL = {"width": 8, "max_epochs": 3, "patience": 3, "seeds": [0], "batch_size": 8}
CELL = ("demo", "none", "sasrec", "id")
TUNED = "tuned/demo/none/sasrec/id.json"
LISTS = {
    "trials": 5,
    "random_trials": 3,
    "seed": 0,
    "train_seed": 0,
    "space": {"train.weight_decay": [0.0, 0.01], "train.dropout": [0.0, 0.2, 0.4]},
    "methods": {"spectran": {"std": [0.02, 0.1]}},
    "backbones": {"bert4rec": {"rho": [0.2, 0.4, 0.6]}},
}
CLOZE = ("demo", "none", "bert4rec", "id")
RHO_ONLY = LISTS | {"space": {}}


def write(root: Path, train: dict[str, Any], tune: dict[str, Any]) -> None:
    """Set the training values of `demo`, and what is searched."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["datasets"]["demo"]["train"] = train
    content["tune"] = tune
    (root / "params.yaml").write_text(yaml.safe_dump(content))


def tune(*words: str) -> Result:
    return CliRunner().invoke(APP, ["tune", *words])


def answer(*words: str) -> dict[str, Any]:
    """Return what --json prints."""
    done = tune(*words, "--json")
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(*words: str) -> str:
    """Return the message of a command that a user's mistake stops."""
    done = tune(*words)
    assert done.exit_code == 2, f"{done.output}{done.exception!r}"
    assert "Traceback" not in done.output
    return done.stderr


def configurations(trials: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(trial["configuration"], sort_keys=True) for trial in trials]


def logged(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def without_clock(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in found["trials"]]
