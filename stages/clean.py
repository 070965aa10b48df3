"""`spectran clean`: delete what params.yaml no longer names, after showing it.

Kept copies of finished seeds make an added seed train only itself, so those that the grid names
stay unless they are asked for, and a store outside the project is nobody's own.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import DryOption, command, consent
from stages.run import Run, size

if TYPE_CHECKING:
    from pipeline.cells import Cell
    from pipeline.config import Params

CHEAP = ("metrics", "comparisons", "collapse", "sizes", "spectrum", "data")
"""Folders of artifacts whose data set (and encoder) must be in the grid; embeddings cost too much
to be called stale."""


@command(
    "spectran clean --stale",
    "spectran clean --stale --yes",
    "spectran clean --stale --dry-run",
    "spectran clean --searches",
    "spectran clean --kept-seeds",
)
def clean(
    run: Run,
    stale: Annotated[
        bool, typer.Option("--stale", help="Results outside the grid, remains of killed runs.")
    ] = False,
    searches: Annotated[
        bool, typer.Option("--searches", help="What `spectran tune` kept of what is finished.")
    ] = False,
    kept_seeds: Annotated[
        bool,
        typer.Option(
            "--kept-seeds",
            help="All kept copies of finished seeds, also those of the grid and, in a shared "
            "SPECTRAN_CACHE, those of others.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryOption = False,
) -> None:
    """Delete results outside the grid and remains of killed runs.

    With --stale: also the copies of finished seeds that `train` keeps to reuse, of cells and seeds
    outside the grid, and the states of seeds that did not finish and that no cell of the grid can
    go on with, since it changed or has left; those of the grid stay, as does what a running
    `train` uses, and all of a SPECTRAN_CACHE outside this folder.
    With --kept-seeds: all these copies; what lies in artifacts stays, but `train` would then train
    its seeds again.
    With --searches: the journals of finished searches and all finished trials; their results in
    artifacts/tuned stay, but a longer search would run these trials again. Embeddings and raw data
    are never touched.
    """
    from pipeline.errors import ConfigError
    from pipeline.files import TEMPORARY, remove_orphans, scratches
    from pipeline.training.store import alone

    if not (stale or searches or kept_seeds):
        raise ConfigError(
            "clean: say what to delete: spectran clean --stale   (or: spectran clean --searches, "
            "spectran clean --kept-seeds)"
        )
    reasons: dict[Path, str] = {}
    if stale:
        reasons |= {path: "not in the grid" for path in outside_grid(run.root, run.params)}
    unfinished: list[Path] = []
    if stale and _own_cache(run):
        reasons |= {
            path: "kept copy of a seed, of no use to the grid" for path in kept_outside_grid(run)
        }
        unfinished += unfinished_outside_grid(run)
        reasons |= dict.fromkeys(
            unfinished, "unfinished seed that no cell of the grid goes on with"
        )
    if kept_seeds:
        kept = finished_states(run.cache / "train")
        reasons |= {path: "kept copy of a finished seed" for path in kept}
    if searches:
        reasons |= finished_tuning(run)
    found = {path: _bytes(path) for path in reasons}
    total = sum(found.values())
    listed = "\n".join(f"{path}  {size(found[path])}  {why}" for path, why in reasons.items())
    amount = f"{len(found)} paths ({size(total)})"
    go = bool(found) and _agreed(run, listed, amount, yes=yes, dry_run=dry_run)
    if go:
        for path in found:
            with alone(path) if path in unfinished else nullcontext(True) as free:
                if free:
                    _delete(path, run)
                else:
                    run.warn(f"{path} stays: it is in use by now.")
    places = [*scratches(run.root)]
    if stale and _own_cache(run):
        places += (run.cache / "train").glob(f"*/{TEMPORARY}")
    orphans = 0 if dry_run else sum(map(remove_orphans, places))
    content = {
        "found": [str(path) for path in found],
        "bytes": total,
        "deleted": go,
        "unfinished_files": orphans,
    }
    verb = "deleted" if go else "would delete" if dry_run else "kept"
    text = f"{verb} {len(found)} paths, {size(total)}" if found else "nothing to delete"
    if orphans:
        text += f"; removed {orphans} unfinished files of killed runs"
    run.show(content, text)


def outside_grid(root: Path, params: Params) -> Iterator[Path]:
    """Yield what no cell of the grid makes: DVC would hash it into folders that stages read."""
    from pipeline import artifacts
    from pipeline.cells import NONE, all_cells, leftovers

    known = {cell: cell.seeds(params) for cell in all_cells(params.grid)}
    trained = {cell: seeds for cell, seeds in known.items() if cell.backbone != NONE}
    for artifact in (artifacts.RANKS, artifacts.CURVES, artifacts.MODEL):
        wanted = known if artifact is artifacts.RANKS else trained
        area = artifact.template.split("/")[0]
        for folder in _inside(root / area):
            if folder.name not in params.grid.dataset:
                yield folder
            else:
                yield from leftovers(root, wanted, folder.name, artifact)
    for area in CHEAP:
        for path in _inside(root / area):
            if path.name.removesuffix(".parquet") not in params.grid.dataset:
                yield path
            elif area == "spectrum":
                yield from (e for e in _inside(path) if e.name not in params.grid.encoder)


def _own_cache(run: Run) -> bool:
    """Whether what is kept outside artifacts lies in this project, so that nobody shares it."""
    return run.cache.resolve().is_relative_to(run.base.resolve())


def kept_outside_grid(run: Run) -> Iterator[Path]:
    """Yield kept copies of seeds that no cell of the grid has."""
    from pipeline.cells import all_cells

    cells = all_cells(run.params.grid)
    known = {(cell, seed) for cell in cells for seed in cell.seeds(run.params)}
    for folder in finished_states(run.cache / "train"):
        if not _is_of(folder, known):
            yield folder


def unfinished_outside_grid(run: Run) -> Iterator[Path]:
    """Yield states of unfinished seeds that no cell of the grid can go on with, none in use."""
    from pipeline.cells import Cell, all_cells
    from pipeline.training.store import alone, origin

    identity = cache(partial(_identity, run))
    cells = set(all_cells(run.params.grid))
    for folder in _inside(run.cache / "train"):
        made = origin(folder)
        if made is None or not {"cell", "seed"} <= made.keys():
            continue  # nothing can be told of it
        cell = Cell(**made["cell"])
        wanted = identity(cell, made["seed"]) if cell in cells else None
        if wanted is None or any(made.get(name) != value for name, value in wanted.items()):
            with alone(folder) as free:
                if free:
                    yield folder


def _identity(run: Run, cell: Cell, seed: int) -> dict[str, Any] | None:
    """Return what a state must be of for a cell to go on with it; None for a seed it has not.

    Empty, which fits all, where that cannot be told, e.g. before its inputs are there again.
    """
    from pipeline.errors import SpectranError
    from pipeline.experiment.prepared import Experiment

    try:
        work = Experiment.prepare(run.params, run.root, run.revisions["train"], cell.fields)
        if seed not in work.seeds:
            return None
        return dict(json.loads(json.dumps(work.identity(seed))))
    except SpectranError:
        return {}


def _is_of(folder: Path, known: Collection[tuple[Cell, int]]) -> bool:
    """Whether a kept copy is of one of these seeds, as its ranks say; unreadable ones are not."""
    from dataclasses import replace

    from pipeline import artifacts
    from pipeline.cells import Cell
    from pipeline.errors import ArtifactError

    copy = replace(artifacts.RANKS, template=artifacts.RANKS.name, command="spectran train")
    try:
        _, header = copy.open(folder)
        return (Cell(**header["params"]["cell"]), header["params"]["seed"]) in known
    except (ArtifactError, KeyError, TypeError):
        return False


def finished_states(folder: Path) -> Iterator[Path]:
    """Yield the kept work of finished seeds; unfinished seeds still continue from theirs."""
    from pipeline.training.store import DONE

    yield from (path for path in _inside(folder) if (path / DONE).exists())


def finished_tuning(run: Run) -> dict[Path, str]:
    """Return what searches kept of finished work, with the reason; trials under way stay."""
    if not (run.cache / "tune").is_dir():
        return {}
    from pipeline.tuning.search import TRIALS, finished_searches

    cache = run.cache / "tune"
    found = {path: "journal of a finished search" for path in finished_searches(run.root, cache)}
    return found | {path: "kept result of a trial" for path in finished_states(cache / TRIALS)}


def _inside(folder: Path) -> list[Path]:
    from pipeline.files import TEMPORARY

    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in inside if path.name != TEMPORARY)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _agreed(run: Run, listed: str, amount: str, *, yes: bool, dry_run: bool) -> bool:
    """Show what would go and return whether it may: on a terminal ask, elsewhere require --yes."""
    from pipeline.errors import ConfigError

    if not (yes or dry_run or run.json) and sys.stdin.isatty():
        return consent(listed, f"Delete these {amount}?")
    run.say(listed)
    if not (yes or dry_run):
        raise ConfigError(
            f"clean: {amount} would be deleted and nobody is there to ask. "
            f"Add --yes, or --dry-run to see them."
        )
    return not dry_run


def _delete(path: Path, run: Run) -> None:
    """Delete a path and the folders that become empty above it, never the root of an area."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    for parent in path.parents:
        if parent.parent in (run.root, run.root.parent, run.cache) or any(parent.iterdir()):
            break
        parent.rmdir()
