"""What a search chose of the backbone's own keys, which is never written into params.yaml.

A method's block is the method's own; a backbone's belongs to every method on it, so that a value
written there would change all their cells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline import naming
from pipeline.config import Choice, Params
from pipeline.naming import OF, flat
from pipeline.params import scalar
from pipeline.tuning.space import Configuration, laid, parted


def unwritten(params: Params, backbone: str, configuration: Configuration) -> str:
    """Return why a choice is not written and what to do; empty when the block has its values."""
    held = naming.settings("backbones", backbone, params.backbones).model_dump(mode="json")
    present: dict[str, Choice] = flat(held)
    _, chosen = parted(configuration)
    other = {key: value for key, value in chosen.items() if value != present[key]}
    if not other:
        return ""
    differing = ", ".join(
        f"{key}: {scalar(value)} (the block: {scalar(present[key])})"
        for key, value in other.items()
    )
    return (
        f"params.yaml: backbones.{backbone}: the best trial has {differing}. --write writes "
        f"neither this nor the method's values found with it: all methods on {backbone} would "
        f"change. {_variant(params, backbone, other)}, and tune and train with it; or write the "
        f"value into backbones.{backbone} by hand and run this command again: trials are kept."
    )


def _variant(params: Params, backbone: str, other: Mapping[str, Choice]) -> str:
    """Return what to do for a variant with other values: take the one there is, or add a block."""
    wanted = laid(params.backbones[backbone], other)
    wanted[OF] = naming.file_of("backbones", backbone, params.backbones)
    for name, block in params.backbones.items():
        if {OF: name, **block} == wanted:
            return f"Take {name}, which is this block with the value found"
    words = "_".join(f"{key}_{scalar(value)}" for key, value in other.items())
    name = f"{backbone}_{re.sub('[^a-z0-9]+', '_', words.lower())}"
    entry: dict[str, Any] = {name: wanted}
    return f"Add to backbones `{scalar(entry)[1:-1]}`"
