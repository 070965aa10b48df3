"""Whether what an earlier stage left was made with the values that params.yaml holds now.

Every file's header records what made it. A value changed since then, or laid over params.yaml for a
later stage only, would otherwise be claimed and have no effect. Values that one side lacks are not
compared, nor those that change no number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import artifacts
from pipeline.config import Params


class Difference(NamedTuple):
    """A value that was changed."""

    key: str
    """Dotted, in params.yaml."""
    was: Any
    now: Any

    def told(self, params: Params) -> str:
        """Return what made a file and what the parameters say: `KEY = 5, params.yaml says 3.`"""
        was, now = (json.dumps(value, ensure_ascii=False) for value in (self.was, self.now))
        laid = (set_ for set_ in params.changes if f"{self.key}.".startswith(f"{set_}."))
        if next(laid, None) is None:
            return f"{self.key} = {was}, params.yaml says {now}."
        return (
            f"{self.key} = {was}, --set says {now}, which only the stage that reads it heeds. To "
            f"try it, change params.yaml, best in a copy of its folder."
        )


def difference(was: Any, now: Any, key: str) -> Difference | None:
    """Return the first value that two blocks of params.yaml both hold and that is not the same."""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return None if was == now else Difference(key, was, now)
    pairs = (difference(was[name], now[name], f"{key}.{name}") for name in was if name in now)
    return next((found for found in pairs if found), None)


def refuse_other_preprocess(root: Path, params: Params, dataset: str) -> None:
    """Raise ArtifactError when the sequences of a data set were made with other values.

    Where there are no sequences on this machine, nothing can be told.
    """
    if not artifacts.SEQUENCES.path(root, dataset=dataset).exists():
        return
    _, header = artifacts.SEQUENCES.open(root, dataset=dataset)
    now = params.dataset(dataset).preprocess.model_dump(mode="json")
    if now["ties"] == "source":
        del now["ties_seed"]
    if found := difference(header["params"], now, f"datasets.{dataset}.preprocess"):
        raise artifacts.SEQUENCES.fail(
            root, {"dataset": dataset}, f"was made with {found.told(params)}"
        )
