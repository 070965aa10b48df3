"""The grid of params.yaml: names that do not exist, and cells that cannot run."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline import naming
from pipeline.cells import NONE, Cell, all_cells, unlisted_view
from pipeline.checks.dry import refusals
from pipeline.checks.traits import method_file, reads_text
from pipeline.config import Params, Vectors
from pipeline.errors import ConfigError, near_miss
from pipeline.precedence import warnings

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

WATCHING = ("ablation", "protocol", "protocol_plain", "control", "baseline_text")
"""Groups whose stages watch every method and backbone file, so that blocks may name any."""

UNTRAINED = (
    "params.yaml: grid: none of its cells is trained, but `dvc repro` needs the folders of trained "
    "models and of their curves for `collapse` and `report`, and stops without. Add id to "
    "grid.plain.method and sasrec to grid.plain.backbone, or run the commands one by one."
)
"""DVC keeps no empty folder: one made by a command would be gone after `dvc pull`."""

SECTIONS = {"encoder": "encoders", "backbone": "backbones", "method": "methods"}
"""Axis of a group -> section of params.yaml that holds its blocks."""


def grid(params: Params) -> Iterator[str]:
    """Yield names of the grid that do not exist, and cells that cannot run."""
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
        if not any(cell.trained for cell in cells):
            yield UNTRAINED


def idle_vectors(params: Params) -> Iterator[str]:
    """Yield supplied vectors that the grid reads for no method: nobody brings them for that."""
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
    try:
        yield from warnings(params, all_cells(params.grid))
    except ConfigError:
        return  # told by `grid`
