"""params.yaml without what a search has written into methods: tests must not hang on it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

SEARCHED = ("dropout", "weight_decay")
TREE = Path(__file__).resolve().parents[1]


@cache
def text() -> str:
    """Return the parameters as YAML."""
    content = yaml.safe_load((TREE / "params.yaml").read_text(encoding="utf-8"))
    for block in content["methods"].values():
        train = {k: v for k, v in block.pop("train", {}).items() if k not in SEARCHED}
        if train:
            block["train"] = train
    return yaml.safe_dump(content, sort_keys=False)


def content() -> dict[str, Any]:
    """Return the parameters, for the caller to change."""
    return dict(yaml.safe_load(text()))
