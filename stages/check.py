"""`spectran check`: params.yaml, dvc.yaml and the code agree, before anything is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stages.command import USER_MISTAKE, command
from stages.run import Run

if TYPE_CHECKING:
    from types import ModuleType

    from pipeline.config import Params

GROUPS = {
    "text": "train",
    "plain": "train_plain",
    "ablation": "ablation",
    "protocol": "protocol",
    "protocol_plain": "protocol_plain",
    "control": "control",
    "baseline": "baseline",
    "baseline_text": "baseline_text",
}
"""Group of grid -> stage of dvc.yaml that trains it."""

PLAIN = {
    "text": "plain",
    "ablation": "protocol_plain",
    "protocol": "protocol_plain",
    "control": "plain",
    "baseline_text": "baseline",
}
"""Group with item text -> group of the same kind without."""

WATCHING = ("ablation", "protocol", "protocol_plain", "control")
"""Groups whose stages watch every method and backbone file, so that blocks may name any."""

SECTIONS = {"encoder": "encoders", "backbone": "backbones", "method": "methods"}
"""Axis of a group -> section of params.yaml that holds its blocks."""

TEXT = ("semantic", "spectrum")
"""Inputs that are made from item text, once per encoder."""


@command("spectran check", "spectran check --json")
def check(run: Run) -> None:
    """Build every block of the parameters and compare them with dvc.yaml and the code."""
    from pipeline.errors import ConfigError

    problems: list[str] = []
    warnings: list[str] = []
    idle: list[str] = []
    problems += packaging()
    warnings += other_checkout(run.base)
    try:
        params = run.params
    except ConfigError as error:
        problems += str(error).splitlines()
    else:
        problems += blocks(params)
        problems += templates(params)
        problems += tuning(params)
        problems += grid(params)
        problems += revisions(run)
        problems += graph(run.base, params)
        loose = unpinned(params, run.base)
        warnings += [line for name, line in loose.items() if name in params.grid.encoder]
        idle += [name for name in loose if name not in params.grid.encoder]
        warnings += idle_overrides(params)
    for line in warnings:
        run.warn(line)
    lines = problems or ["parameters, dvc.yaml and code agree"]
    if idle:
        lines = [
            *lines,
            f"{len(idle)} encoders outside grid.encoder take a hub model without its "
            "commit. To list them: spectran check --json   (idle_unpinned)",
        ]
    content = {"problems": problems, "warnings": warnings, "idle_unpinned": idle}
    run.show(content, "\n".join(lines))
    if problems:
        raise typer.Exit(USER_MISTAKE)


# ---------------------------------------------------------------- blocks


def blocks(params: Params) -> Iterator[str]:
    """Yield what is wrong with the blocks that only their own module can read."""
    from pipeline import naming
    from pipeline.errors import ConfigError, near_miss

    for kind in ("methods", "backbones"):
        written = getattr(params, kind)
        for name in written:
            try:
                naming.settings(kind, name, written)
            except ConfigError as error:
                yield from str(error).splitlines()
                continue
            file = naming.file_of(kind, name, written)
            parts = ("Config", "build") + (("NEEDS",) if kind == "methods" else ())
            for part in parts:
                if not hasattr(naming.module(kind, file), part):
                    yield f"pipeline/{kind}/{file}.py: `{part}` is missing. See its neighbours."
    formats = naming.names("data/sources")
    for name, dataset in params.datasets.items():
        if dataset.source.format not in formats:
            yield (
                f"params.yaml: datasets.{name}.source.format: {dataset.source.format} is unknown."
                f"{near_miss(dataset.source.format, formats)}"
            )


def templates(params: Params) -> Iterator[str]:
    """Yield templates of item text that `spectran encode` would refuse."""
    from pipeline.config.text import FromText
    from pipeline.data.text import parse_template
    from pipeline.errors import ConfigError

    for name, encoder in params.encoders.items():
        if isinstance(encoder, FromText):
            try:
                parse_template(encoder.template)
            except ConfigError as error:
                yield f"params.yaml: encoders.{name}: {error}"


def tuning(params: Params) -> Iterator[str]:
    """Yield what is wrong with the lists that `spectran tune` searches."""
    from pipeline.tuning.space import mistakes

    yield from mistakes(params)


def unpinned(params: Params, base: Path) -> dict[str, str]:
    """Return what to say of each encoder whose hub model may change under the same name."""
    from pipeline.config.text import Model, Transformers
    from pipeline.encoders.hub import is_commit, on_hub

    said = {}
    for name, encoder in params.encoders.items():
        if not isinstance(encoder, Model):
            continue
        parts = [encoder, *(encoder.adapters if isinstance(encoder, Transformers) else ())]
        loose = [p for p in parts if on_hub(p.model, base) and not is_commit(p.revision)]
        if loose:
            models = " and ".join(f"{p.model} (revision: {p.revision or 'null'})" for p in loose)
            said[name] = (
                f"params.yaml: encoders.{name}: the hub may serve another {models} tomorrow. "
                f"Write the commit as `revision`; `spectran encode` tells it."
            )
    return said


def revisions(run: Run) -> Iterator[str]:
    """Yield what is wrong with revisions.yaml."""
    from pipeline.errors import ConfigError
    from pipeline.params import read_yaml

    try:
        found = read_yaml(run.base / "revisions.yaml")
    except ConfigError as error:
        yield str(error)
        return
    for name in ("encode", "train"):
        if type(found.get(name)) is not int:
            yield f"revisions.yaml: {name}: {found.get(name)!r}, expected a whole number."
    for name in sorted(set(found) - {"encode", "train"}):
        yield f"revisions.yaml: {name}: unknown key. Known: encode, train."


# ---------------------------------------------------------------- grid


def grid(params: Params) -> Iterator[str]:
    """Yield names of the grid that do not exist, and cells that cannot run."""
    from pipeline.cells import all_cells
    from pipeline.dry import refusals
    from pipeline.errors import ConfigError, near_miss

    for axis, known in (("dataset", params.datasets), ("encoder", params.encoders)):
        for name in getattr(params.grid, axis):
            if name not in known:
                yield f"params.yaml: grid.{axis}: {name} has no block.{near_miss(name, known)}"
    for group in GROUPS:
        cells = getattr(params.grid, group)
        for axis, section in SECTIONS.items():
            known = getattr(params, section)
            for name in getattr(cells, axis, ()):
                if name not in known:
                    yield (
                        f"params.yaml: grid.{group}.{axis}: {name} has no block under {section}."
                        f"{near_miss(name, known)}"
                    )
                elif axis == "encoder" and name not in params.grid.encoder:
                    yield (
                        f"params.yaml: grid.{group}.encoder: {name} is not in grid.encoder, which "
                        f"names what is encoded. Add it there."
                    )
                elif axis != "encoder" and "of" in known[name] and group not in WATCHING:
                    yield (
                        f"params.yaml: grid.{group}.{axis}: {name} is a variant (`of`), and this "
                        f"group's stage does not watch the file it names. Move it to one of "
                        f"{', '.join(f'grid.{name}' for name in WATCHING)}."
                    )
        trained = not group.startswith("baseline")
        for name in cells.backbone:
            if (name != "none") != trained:
                wanted = "a real backbone" if trained else "none"
                yield f"params.yaml: grid.{group}.backbone: {name}; this group takes {wanted}."
    yield from misplaced(params)
    yield from idle_vectors(params)
    yield from unlisted_views(params)
    try:
        cells = all_cells(params.grid)
    except ConfigError as error:
        yield str(error)
    else:
        yield from refusals(params, cells)


def idle_vectors(params: Params) -> Iterator[str]:
    """Yield supplied vectors that the grid reads for no method: nobody brings them for that."""
    from pipeline.config import Vectors

    groups = [getattr(params.grid, group) for group in PLAIN]
    reading = [g for g in groups if g.backbone and any(reads_text(params, m) for m in g.method)]
    used = {name for group in reading for name in group.encoder}
    for name in params.grid.encoder:
        if isinstance(params.encoders.get(name), Vectors) and name not in used:
            yield (
                f"params.yaml: grid.encoder: {name} holds supplied vectors, but no method that "
                f"reads item text uses them. Add {name} to the encoders of a group with such "
                f"methods, e.g. grid.text.encoder, or take it out of grid.encoder."
            )


def unlisted_views(params: Params) -> Iterator[str]:
    """Yield views of the spectrum that the grid's cells read but `spectran spectrum` skips."""
    from pipeline import naming
    from pipeline.cells import NONE, Cell, all_cells, unlisted_view
    from pipeline.errors import ConfigError

    listed = params.spectrum.views
    read: dict[str, list[str]] = {}
    for name in params.methods:
        file = method_file(params, name)
        try:
            config = naming.settings("methods", name, params.methods)
        except ConfigError:
            continue  # told by `blocks`, as is a file without NEEDS
        if file is not None and hasattr(file, "NEEDS"):
            views = naming.views(naming.needs(file, config))
            read[name] = [view for view in views if view not in listed]
    try:
        cells = all_cells(params.grid)
    except ConfigError:
        return  # told by `grid`
    without: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.encoder != NONE:
            for view in read.get(cell.method, ()):
                without.setdefault((cell.dataset, cell.encoder, view), []).append(cell)
    for (_, _, view), reading in without.items():
        yield unlisted_view(view, listed, reading)


def misplaced(params: Params) -> Iterator[str]:
    """Yield methods that read no text in groups with encoders: `spectran train` refuses them."""
    for group, other in PLAIN.items():
        for name in getattr(params.grid, group).method:
            if reads_text(params, name) is False:
                yield (
                    f"params.yaml: grid.{group}.method: {name} reads no text, so `spectran train` "
                    f"refuses it with an encoder. Move it to grid.{other}."
                )


def idle_overrides(params: Params) -> Iterator[str]:
    """Yield a warning for values of a data set's `train` that cells of the grid do not use."""
    from pipeline.cells import all_cells
    from pipeline.errors import ConfigError
    from pipeline.precedence import warnings

    try:
        yield from warnings(params, all_cells(params.grid))
    except ConfigError:
        return  # told by `grid`


def method_file(params: Params, name: str) -> ModuleType | None:
    """Return the file that reads a method's block, if it exists."""
    from pipeline import naming
    from pipeline.errors import ConfigError

    try:
        return naming.module("methods", naming.file_of("methods", name, params.methods))
    except ConfigError:
        return None


def method_needs(params: Params, name: str) -> set[str] | None:
    """Return the inputs a method declares (`spectrum:unit` counts as spectrum), if it exists."""
    found = method_file(params, name)
    if found is None:
        return None
    return {need.partition(":")[0] for need in getattr(found, "NEEDS", ())}


def reads_text(params: Params, name: str) -> bool | None:
    """Whether a method reads what is made from item text; None when it does not exist."""
    needs = method_needs(params, name)
    return None if needs is None else any(need in TEXT for need in needs)


def is_untrained(params: Params, name: str) -> bool | None:
    """Whether a method's `build` says that it returns something without training."""
    from typing import get_type_hints

    found = method_file(params, name)
    if found is None:
        return None
    build = getattr(found, "build", None)
    kind = get_type_hints(build).get("return") if build else None
    return getattr(kind, "__name__", "") == "Untrained"


# ---------------------------------------------------------------- dvc.yaml


def graph(base: Path, params: Params) -> Iterator[str]:
    """Yield where dvc.yaml and the code differ: groups, inputs of methods, code that is gone."""
    from pipeline.errors import ConfigError
    from pipeline.params import read_yaml
    from stages.command import COMMANDS

    try:
        stages = read_yaml(base / "dvc.yaml").get("stages", {})
    except ConfigError as error:
        yield str(error)
        return
    for name, stage in stages.items():
        words = str(stage.get("cmd", "")).split()
        if len(words) < 2 or words[0] != "spectran" or words[1] not in COMMANDS:
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


# ---------------------------------------------------------------- installation


def packaging() -> Iterator[str]:
    """Yield other distributions that bring the same top-level names: the code could be mixed up."""
    from importlib.metadata import packages_distributions

    owners = packages_distributions()
    for package in ("pipeline", "stages"):
        found = set(owners.get(package, ()))
        if others := sorted(found - {"spectran"}):
            yield (
                f"the package `{package}` is also installed by {', '.join(others)}, and Python may "
                f"take the wrong one. Use an environment of its own: make demo, or "
                f"pip uninstall {' '.join(others)}"
            )
        if "spectran" not in found:
            yield f"`{package}` is not installed by spectran. Run: pip install -e ."


def other_checkout(base: Path) -> Iterator[str]:
    """Yield a warning when the code that runs is not that of this checkout."""
    import pipeline

    here, running = (base / "pipeline").resolve(), Path(pipeline.__file__ or ".").resolve().parent
    if here.is_dir() and here != running:
        yield (
            f"the code that runs is {running.parent}, not that of {here.parent}. "
            f"Run there: pip install -e ."
        )
