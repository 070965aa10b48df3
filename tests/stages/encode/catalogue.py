"""A small catalogue made by the test, and `encode` run on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline import artifacts
from pipeline.values import Catalog
from stages.encode import encode
from stages.run import Run

TITLES = ["red train", "blue kite", "red train", "green castle set", "", "doll"]
MANY = [f"{'long ' * (n % 7)}title {n % 60}" for n in range(100)]
CELL = {"dataset": "demo", "encoder": "hash"}


def project(base: Path, titles: Sequence[str] = TITLES) -> Path:
    """A folder with params.yaml and the catalogue `demo`."""
    base.mkdir(exist_ok=True)
    for name in ("params.yaml", "revisions.yaml"):
        (base / name).write_text(Path(name).read_text())
    save(base, titles)
    return base


def save(base: Path, titles: Sequence[str]) -> Catalog:
    blank = [""] * len(titles)
    columns: dict[str, Any] = {
        "item": pa.array(range(1, len(titles) + 1), pa.uint32()),
        "raw_item": [f"i{n:06d}" for n in range(len(titles))],
        "title": list(titles),
        "brand": blank,
        "categories": blank,
        "description": blank,
    }
    catalog = Catalog.of(pa.table(columns))
    catalog.save(base / "artifacts", "demo", {})
    return catalog


def run(base: Path, encoder: str = "hash", **options: Any) -> Path:
    """Run the stage; return the file."""
    encode(Run("encode", base / "params.yaml", **options), "demo", encoder)
    root = options.get("out") or base / "artifacts"
    return artifacts.SEMANTIC.path(root, dataset="demo", encoder=encoder)


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def with_vectors(base: Path, ids: Sequence[str], rows: np.ndarray, **changes: Any) -> None:
    """Put a file of vectors beside params.yaml, and a block `own` that names it."""
    np.save(base / "own.npy", rows)
    (base / "own.txt").write_text("\n".join(ids) + "\n")
    content = yaml.safe_load((base / "params.yaml").read_text())
    block = {"engine": "vectors", "path": "own.npy", "ids": "own.txt", "name": None}
    more = {"sha256": None, "width": rows.shape[1], "min_matched": 0.5, "transform": None}
    content["encoders"]["own"] = block | more | changes
    (base / "params.yaml").write_text(yaml.safe_dump(content))
