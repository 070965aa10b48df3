"""Results that papers print, by our names of data sets, backbones and methods: reference.yaml."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline import naming
from pipeline.config import Params
from pipeline.params import read_yaml
from pipeline.reporting.orderings import K

REFERENCE = Path(__file__).parent / "reference.yaml"
PUBLISHED = f"NDCG@{K}"
"""Key of the values in it that orderings and ablations are compared with."""


def published_rows(dataset: str, backbones: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows of a data set that are of one of the backbones, not of a variant of it."""
    rows: list[dict[str, Any]] = read_yaml(REFERENCE).get(dataset, {}).get("rows", [])
    return [row for row in rows if row["backbone"] in backbones]


def published_values(
    dataset: str, backbones: Collection[str], params: Params
) -> dict[str, Mapping[str, float]]:
    """Return backbone -> method -> NDCG@20; a variant has those of the one it is made from."""
    known = read_yaml(REFERENCE).get(dataset, {}).get(PUBLISHED, {})
    files = {name: naming.file_of("backbones", name, params.backbones) for name in backbones}
    return {name: known[files[name]] for name in sorted(files) if files[name] in known}
