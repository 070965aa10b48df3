"""Catalogues of a dozen toys, every method on them, and what a command said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline import artifacts, naming
from pipeline.params import read_yaml
from pipeline.values import Catalog, Sequences
from stages.cli import build
from tests.composed import distinct

APP = build()
ITEMS, USERS, EVENTS, WIDTH = 12, 10, 6, 4
WRITTEN = read_yaml(Path("params.yaml"))
METHODS = distinct(WRITTEN["methods"])
FILES = naming.names("methods")
BACKBONES = ("sasrec", "bert4rec", "hstu")
SPECTRAL = {"llminit", "llminit_equal", "alphafuse", "alphafuse_cover", "svd", "llm_esr"}
"""Methods whose item vectors need as many components as they are wide (llm_esr: half)."""


def file_of(method: str) -> str:
    return naming.file_of("methods", method, WRITTEN["methods"])


def cell_of(method: str, backbone: str = "sasrec") -> tuple[str, str, str, str]:
    """Return the cell of a method as its file says that it runs."""
    found = naming.module("methods", file_of(method))
    encoder = "hash" if found.NEEDS else "none"
    return "demo", encoder, "none" if naming.is_untrained(found) else backbone, method


def run(*words: str) -> Result:
    done = CliRunner().invoke(APP, list(words))
    assert done.exit_code in (0, 2), f"{words}: {done.exception!r}\n{done.stderr}"
    return done


def said(done: Result) -> str:
    """Return the message of a command that a user's mistake stops."""
    assert done.exit_code == 2, done.output
    return done.stderr


def text(number: int) -> str:
    return f"Red toy {number} word{7 * number % 5}"


Title = Callable[[int], str]


def project(folder: Path, items: int = ITEMS, title: Title = text, **train: Any) -> Path:
    """Write a data set of users that walk up the catalogue, and encode its titles."""
    root = folder / "artifacts"
    content = yaml.safe_load(Path("params.yaml").read_text())
    small = {"width": WIDTH, "max_epochs": 1, "seeds": [0], "batch_size": 8}
    content["datasets"]["demo"]["train"] = small | train
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copy("revisions.yaml", folder)
    blank = [""] * items
    columns = {"raw_item": [f"i{n:02d}" for n in range(items)], "title": map(title, range(items))}
    columns |= {name: blank for name in ("brand", "categories", "description")}
    numbers = {"item": pa.array(range(1, items + 1), pa.uint32())}
    catalog = Catalog.of(pa.table(numbers | {n: pa.array(list(v)) for n, v in columns.items()}))
    catalog.save(root, "demo", {})
    starts = np.arange(USERS)[:, None] + np.arange(EVENTS)
    data = Sequences(
        raw_users=pa.array([f"u{n}" for n in range(USERS)]),
        items=(starts % items + 1).ravel().astype(np.int64),
        times=None,
        offsets=np.arange(USERS + 1) * EVENTS,
        train_end=np.full(USERS, EVENTS - 2),
        valid_at=np.full(USERS, EVENTS - 2),
        test_at=np.full(USERS, EVENTS - 1),
        num_items=items,
        fingerprint=catalog.fingerprint,
    )
    data.save(root, "demo", {})
    return folder


def edit(changes: dict[str, Any]) -> None:
    """Lay values over params.yaml, by dotted keys; blocks that are not there are made."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    for key, value in changes.items():
        *blocks, last = key.split(".")
        place = content
        for block in blocks:
            place = place.setdefault(block, {})
        place[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def trained(*cell: str) -> None:
    """Train a cell and read what it left."""
    done = run("train", *cell)
    assert done.exit_code == 0, done.output
    fields = dict(zip(("dataset", "encoder", "backbone", "method"), cell, strict=True))
    artifacts.RANKS.load(Path("artifacts"), **fields, seed=0)
    if cell[2] != "none":
        artifacts.CURVES.load(Path("artifacts"), **fields, seed=0)
        arrays, _ = artifacts.MODEL.load(Path("artifacts"), **fields, seed=0)
        assert all(np.isfinite(array).all() for array in arrays.values())
