"""The cells that `params.grid` names: which method runs with which backbone on which text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import naming
from pipeline.artifacts import ITEMS, RANKS, SEMANTIC, SEQUENCES, SPECTRUM, Artifact
from pipeline.config import Grid, Params, TextCells, TrainConfig
from pipeline.errors import ArtifactError, ConfigError, near_miss
from pipeline.files import TEMPORARY

NONE = "none"
"""Encoder of methods without text, and backbone of methods without training."""

UNTRAINED_SEEDS = (0,)
"""An untrained method draws nothing, so it runs once."""

PARTS = ("dataset", "encoder", "backbone", "method")

INPUTS = {artifact.name: artifact for artifact in (ITEMS, SEQUENCES, SEMANTIC, SPECTRUM)}
"""What a cell may read; of a spectrum one view, named behind a colon."""


@dataclass(frozen=True, order=True)
class Cell:
    """One folder of models, curves and ranks; its seeds are files inside it."""

    dataset: str
    encoder: str
    backbone: str
    method: str

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Return the cell written as dataset/encoder/backbone/method."""
        parts = text.strip("/").split("/")
        if len(parts) != len(PARTS) or not all(re.fullmatch("[a-z0-9_]+", p) for p in parts):
            raise ConfigError(
                f"{text}: not a cell. A cell is written dataset/encoder/backbone/method, "
                f"for example demo/none/sasrec/id. Run: spectran ls"
            )
        return cls(*parts)

    @property
    def fields(self) -> dict[str, str]:
        """The names as keyword arguments of an artifact's path."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def trained(self) -> bool:
        """Whether the cell has parameters that are fitted."""
        return self.backbone != NONE

    @property
    def full_name(self) -> str:
        """Method, encoder and backbone for people: `spectran (minilm, sasrec)`."""
        rest = [name for name in (self.encoder, self.backbone) if name != NONE]
        return f"{self.method} ({', '.join(rest)})" if rest else self.method

    @property
    def command(self) -> str:
        """The command that makes the cell."""
        return f"spectran train {self.dataset} {self.encoder} {self.backbone} {self.method}"

    def seeds(self, params: Params) -> tuple[int, ...]:
        """Seeds of the cell, in the order of params: one file each."""
        if not self.trained:
            return UNTRAINED_SEEDS
        return tuple(self.train(params).seeds)

    def train(self, params: Params) -> TrainConfig:
        """Values of `train` for this cell: the data set's, backbone's and method's own in place."""
        return params.train_for(self.dataset, self.backbone, self.method)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.encoder}/{self.backbone}/{self.method}"


def cells(grid: Grid, dataset: str) -> list[Cell]:
    """Return the cells of a data set: baselines, plain and text methods per encoder, variants.

    Within a group the order is that of params.yaml. Raises ConfigError for a data set outside the
    grid and for a cell that two groups name.
    """
    if dataset not in grid.dataset:
        raise ConfigError(
            f"params.yaml: grid.dataset: {dataset} is not in it."
            f"{near_miss(dataset, grid.dataset)} Mend the name, or add it to grid.dataset."
        )
    found: list[Cell] = []
    for group in (
        grid.baseline,
        grid.baseline_text,
        grid.plain,
        grid.text,
        grid.ablation,
        grid.control,
        grid.protocol_plain,
        grid.protocol,
    ):
        for encoder in group.encoder if isinstance(group, TextCells) else [NONE]:
            for backbone in group.backbone:
                for method in group.method:
                    found.append(Cell(dataset, encoder, backbone, method))
    twice = sorted({str(cell) for cell in found if found.count(cell) > 1})
    if twice:
        raise ConfigError(
            f"params.yaml: grid: named twice: {', '.join(twice)}. Remove one of them."
        )
    return found


def all_cells(grid: Grid) -> list[Cell]:
    """Return the cells of every data set of the grid."""
    return [cell for dataset in grid.dataset for cell in cells(grid, dataset)]


def bases(shown: Sequence[Cell], methods: Mapping[str, dict[str, Any]]) -> dict[Cell, Cell]:
    """Return the variants of a method among cells -> the cell of that method, if it is among them.

    methods: the blocks of params.yaml; a variant names its method with `of`.
    """
    found = {c: replace(c, method=naming.file_of("methods", c.method, methods)) for c in shown}
    return {cell: base for cell, base in found.items() if base != cell and base in found}


def input_path(root: Path, dataset: str, encoder: str, name: str) -> Path:
    """Return the file behind an input of a cell: `items`, `sequences`, `semantic`, `spectrum:unit`.

    So the header of its ranks names it, too.
    """
    kind, _, view = name.partition(":")
    return INPUTS[kind].path(root, dataset=dataset, encoder=encoder, view=view)


def finished(root: Path, params: Params, cell: Cell) -> bool:
    """Whether every seed of a cell has ranks."""
    paths = (RANKS.path(root, **cell.fields, seed=seed) for seed in cell.seeds(params))
    return all(path.exists() for path in paths)


def unlisted_view(view: str, listed: Sequence[str], cells: Sequence[Cell]) -> str:
    """Say that cells of one data set and encoder read a view that `spectrum.views` does not list.

    listed: what it lists; cells: both at least one.
    """
    names = ", ".join(str(cell) for cell in cells)
    return (
        f"params.yaml: spectrum.views: lists {', '.join(listed)}, but {view} is read "
        f"by {names}. Use other methods, or add {view} there and run: "
        f"spectran spectrum {cells[0].dataset} {cells[0].encoder}"
    )


def leftovers(
    root: Path, known: Mapping[Cell, Sequence[int]], dataset: str, artifact: Artifact = RANKS
) -> Iterator[Path]:
    """Yield what lies in the artifact's folder of a data set but is no seed of a known cell.

    known: cell -> its seeds. The highest path that holds nothing known is given, in sorted order.
    """
    top = root / artifact.template.split("/")[0] / dataset
    wanted = {
        artifact.path(root, **cell.fields, seed=seed)
        for cell, seeds in known.items()
        if cell.dataset == dataset
        for seed in seeds
    }
    folders = {parent for path in wanted for parent in path.parents}

    def below(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if path in folders:
                yield from below(path)
            elif path not in wanted and path.name != TEMPORARY:
                yield path

    if top.is_dir():
        yield from below(top)


def refuse_leftovers(
    root: Path, known: Mapping[Cell, Sequence[int]], dataset: str, artifact: Artifact = RANKS
) -> None:
    """Raise ArtifactError naming what lies in the artifact's folder beside known cells and seeds.

    DVC hashes the whole folder, so a forgotten one would change the results' inputs and a fresh
    clone would run everything again.
    """
    stray = [str(path) for path in leftovers(root, known, dataset, artifact)]
    if stray:
        folder = root / artifact.template.split("/")[0] / dataset
        raise ArtifactError(
            f"{folder} holds what params.yaml does not name: {', '.join(stray)}. "
            f"Run: spectran clean --stale   (or put it back into params.yaml)"
        )
