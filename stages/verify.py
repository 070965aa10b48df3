"""`spectran verify`: read and hash every artifact again, and name what cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages.command import USER_MISTAKE, command
from stages.run import Run, size

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.inventory import Found
    from pipeline.values import Catalog


@command("spectran verify", "spectran verify --json")
def verify(run: Run) -> None:
    """Check every artifact: whole, of its schema, finite, of the same items, equal to dvc.lock."""
    from pipeline import inventory

    _ = run.params  # a folder that is no project, or a broken one, is not sound
    found = list(inventory.files(run.root))
    known = [file for file in found if file.artifact is not None]
    strange = [str(file.path) for file in found if file.artifact is None]
    catalogs: dict[str, Catalog | None] = {}
    problems: list[str] = []
    with run.progress("verify", len(known), "files") as advance:
        for file in known:
            problems += read_again(run, file, catalogs)
            advance(1)
    compared, differing = against_lock(run.base)
    problems += differing
    total = sum(file.path.stat().st_size for file in known)
    for path in strange:
        run.warn(f"{path} is not a file that a stage writes. Move it, or delete it.")
    content = {
        "files": len(known),
        "bytes": total,
        "locked": compared,
        "problems": problems,
        "unknown": strange,
    }
    summary = f"{len(known)} files, {size(total)}, {compared} outputs compared with dvc.lock"
    summary += f": {len(problems)} problems"
    if not (known or compared):
        summary = f"{run.root} holds no artifact yet. Run: dvc repro   (or, where shared: dvc pull)"
    run.show(content, "\n".join([*problems, summary]))
    if problems:
        raise typer.Exit(USER_MISTAKE)


def read_again(run: Run, file: Found, catalogs: dict[str, Catalog | None]) -> Iterator[str]:
    """Yield what is wrong with one artifact, as every stage that loads it would say it."""
    from pipeline.errors import SpectranError

    dataset = file.cell["dataset"]
    try:
        if dataset not in catalogs:
            catalogs[dataset] = _catalog(run.root, dataset)
        _load(run, file, catalogs[dataset])
    except SpectranError as error:
        yield str(error)


def _catalog(root: Path, dataset: str) -> Catalog | None:
    """Return the catalogue that all other files of a data set must belong to, if it is sound."""
    from pipeline.errors import SpectranError
    from pipeline.values import Catalog

    try:
        return Catalog.load(root, dataset)
    except SpectranError:
        return None  # said when its own turn comes; the others are then read without it


def _load(run: Run, file: Found, catalog: Catalog | None) -> None:
    from pipeline import artifacts, values
    from pipeline.artifacts import Table, Tensors

    root, cell, artifact = run.root, file.cell, file.artifact
    dataset, encoder = cell["dataset"], cell.get("encoder", "")
    assert artifact is not None
    if artifact is artifacts.RAW:
        _raw(run, artifacts.load_json(artifact, root, **cell))
    elif artifact is artifacts.ITEMS:
        values.Catalog.load(root, dataset)
    elif isinstance(artifact, Table | Tensors):
        if catalog is None:
            artifact.load(root, **cell)
        elif artifact is artifacts.SEQUENCES:
            values.Sequences.load(root, dataset, catalog)
        elif artifact is artifacts.SEMANTIC:
            values.SemanticEmbeddings.load(root, dataset, encoder, catalog)
        elif artifact is artifacts.SPECTRUM:
            values.Spectrum.load(root, dataset, encoder, cell["view"], catalog)
        elif artifact is artifacts.RANKS:
            _ranks(root, cell, catalog)
        else:
            artifact.load(root, items=catalog.fingerprint, **cell)
    else:
        artifacts.load_json(artifact, root, **cell)


def _ranks(root: Path, cell: dict[str, str], catalog: Catalog) -> None:
    """Check that ranks hold every held-out user once."""
    from pipeline import artifacts
    from pipeline.errors import SpectranError
    from pipeline.values import Sequences

    table, _ = artifacts.RANKS.load(root, items=catalog.fingerprint, **cell)
    try:
        data = Sequences.load(root, cell["dataset"], catalog)
    except SpectranError:
        return  # said once, for the sequences themselves
    wanted = int((data.valid_at >= 0).sum() + (data.test_at >= 0).sum())
    if len(table) != wanted:
        raise artifacts.RANKS.fail(
            root, cell, f"holds {len(table)} rows but {wanted} targets are held out."
        )


def _raw(run: Run, manifest: dict[str, object]) -> None:
    """Hash the raw bytes again, where they are on this machine."""
    from pipeline.errors import ArtifactError
    from pipeline.files import sha256_file

    dataset = str(manifest["dataset"])
    files = manifest["files"]
    assert isinstance(files, dict)
    for role, entry in files.items():
        path = _raw_path(run, run.params, dataset, role, entry["name"])
        if path is not None and path.is_file() and sha256_file(path) != entry["sha256"]:
            raise ArtifactError(
                f"{path} ({role} of {dataset}) changed since the download. "
                f"Run: spectran download {dataset} --force   (where grid names it: dvc repro -f -s "
                f"download@{dataset})"
            )


def _raw_path(run: Run, params: Params, dataset: str, role: str, name: str) -> Path | None:
    from pipeline.download.rawfiles import place
    from pipeline.errors import ConfigError

    if dataset not in params.datasets:
        return None
    source = params.dataset(dataset).source
    try:
        return place(source, dataset, role, name, run.cache, run.base)
    except (ConfigError, KeyError):  # the variable that names the user's folder is not set here
        return None


def against_lock(base: Path) -> tuple[int, list[str]]:
    """Return how many outputs were compared with dvc.lock, and those that differ."""
    from pipeline import inventory

    compared, differing = 0, []
    for path, expected in inventory.locked(base).items():
        if not path.exists():
            continue  # not made or not pulled: nothing false is there
        compared += 1
        if inventory.md5(path) != expected:
            differing.append(
                f"{path} is not what dvc.lock recorded: it was altered, or made outside of DVC. "
                f"Run: dvc repro   (to keep the recorded one: dvc checkout --force {path})"
            )
    return compared, differing
