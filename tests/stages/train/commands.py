"""The command `spectran train`, small settings, and what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline.values import Catalog, Sequences
from stages.cli import build

APP = build()
TREE = Path(__file__).resolve().parents[3]
SMALL = {"width": 8, "max_epochs": 3, "patience": 3, "seeds": [0, 1], "batch_size": 8}
CELL = ("demo", "none", "sasrec", "id")


def write(root: Path, **train: Any) -> None:
    """Set the training values of `demo`."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["datasets"]["demo"]["train"] = train
    (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def train(*words: str) -> Result:
    return CliRunner().invoke(APP, ["train", *words])


def refused(*words: str) -> str:
    """Return the message of a command that a user's mistake stops."""
    done = train(*words)
    assert done.exit_code == 2, f"{done.output}{done.exception!r}"
    assert isinstance(done.exception, SystemExit | click.exceptions.Exit)
    assert "Traceback" not in done.output
    return done.stderr


def made(root: Path) -> dict[str, bytes]:
    """Return what training wrote under final names."""
    kinds = ("models", "curves", "ranks")
    files = [p for kind in kinds for p in (root / kind).rglob("*") if p.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def gridded(root: Path, **groups: Any) -> None:
    """Let the grid hold these groups only."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    for name, group in content["grid"].items():
        if isinstance(group, dict):
            group["method"] = groups.pop(name, [])
    assert not groups
    (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def replaced(root: Path, catalog: Catalog, **changes: Any) -> None:
    """Write sequences of `demo` with other values."""
    held = np.full(4, -1)
    values = {
        "items": np.ones(12, np.int64),
        "offsets": np.arange(5) * 3,
        "train_end": np.full(4, 2),
        "valid_at": held,
        "test_at": np.full(4, 2),
        **changes,
    }
    users = pa.array([f"u{n}" for n in range(4)])
    data = Sequences(
        raw_users=users,
        times=None,
        num_items=len(catalog),
        fingerprint=catalog.fingerprint,
        **values,
    )
    data.save(root / "artifacts", "demo", {})
