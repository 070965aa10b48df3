"""dvc.yaml against the grid and the code."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.checks.grid import GROUPS, PLAIN
from pipeline.checks.traits import TEXT, is_untrained, method_needs
from pipeline.config import Params
from pipeline.errors import ConfigError
from pipeline.params import read_yaml


def graph(base: Path, params: Params, commands: Collection[str]) -> Iterator[str]:
    """Yield where dvc.yaml and the code differ: groups, inputs of methods, code that is gone.

    commands: of `spectran`.
    """
    try:
        stages = read_yaml(base / "dvc.yaml").get("stages", {})
    except ConfigError as error:
        yield str(error)
        return
    for name, stage in stages.items():
        words = str(stage.get("cmd", "")).split()
        if len(words) < 2 or words[0] != "spectran" or words[1] not in commands:
            yield f"dvc.yaml: {name}.cmd: {stage.get('cmd')!r} is not a command of spectran."
        for path in stage.get("deps", ()):
            if "${" not in path and not path.startswith("artifacts") and not (base / path).exists():
                yield f"dvc.yaml: {name}.deps: {path} does not exist. Correct the path."
    for group, name in GROUPS.items():
        if name not in stages:
            yield f"dvc.yaml: the stage {name} (for grid.{group}) is missing."
        else:
            yield from _group(params, group, name, stages[name])


def _group(params: Params, group: str, name: str, stage: dict[str, Any]) -> Iterator[str]:
    given = {need for need in TEXT if any(f"/{need}/" in dep for dep in stage.get("deps", ()))}
    for axis in type(getattr(params.grid, group)).model_fields:
        wanted = f"${{grid.{group}.{axis}}}"
        if stage.get("matrix", {}).get(axis) != wanted:
            yield f"dvc.yaml: {name}.matrix.{axis}: expected {wanted}, the group it trains."
    for method in getattr(params.grid, group).method:
        needs = method_needs(params, method)
        if needs is None:
            continue
        if lacking := sorted(needs - given):
            groups = [g for g in PLAIN if GROUPS[g] != name]
            yield (
                f"dvc.yaml: {name}: {method} reads {', '.join(lacking)}, which is not among the "
                f"inputs of this stage, so a change would not re-run it. Move {method} to "
                f"grid.{' or grid.'.join(groups)}, or add the input."
            )
        untrained = is_untrained(params, method)
        if untrained == (not group.startswith("baseline")):
            kind = "is not trained" if untrained else "is trained"
            yield f"params.yaml: grid.{group}.method: {method} {kind} and belongs to another group."
