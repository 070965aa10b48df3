"""`spectran ls`: what is configured, and what of it exists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.run import Run

if TYPE_CHECKING:
    from pipeline.config import Params


@command("spectran ls", "spectran ls --json")
def ls(run: Run) -> None:
    """List data sets, encoders, methods and the cells of the grid with their finished seeds."""
    params = run.params
    content = {
        "datasets": datasets(run.root, params),
        "encoders": encoders(run.root, params),
        "methods": methods(params),
        "cells": cells(run.root, params),
    }
    run.show(content, _text(content))


def datasets(root: Path, params: Params) -> list[dict[str, Any]]:
    """Return every configured data set, with its size once it is preprocessed."""
    from pipeline import artifacts

    return [
        {
            "name": name,
            "grid": name in params.grid.dataset,
            "format": block.source.format,
            "origin": block.source.origin.kind,
            "downloaded": artifacts.RAW.path(root, dataset=name).exists(),
            "users": _rows(artifacts.SEQUENCES.path(root, dataset=name)),
            "items": _rows(artifacts.ITEMS.path(root, dataset=name)),
        }
        for name, block in params.datasets.items()
    ]


def encoders(root: Path, params: Params) -> list[dict[str, Any]]:
    """Return every configured encoder, with the data sets it has embedded."""
    from pipeline import artifacts

    return [
        {
            "name": name,
            "grid": name in params.grid.encoder,
            "engine": block.engine,
            "width": block.width,
            "embedded": [
                dataset
                for dataset in params.datasets
                if artifacts.SEMANTIC.path(root, dataset=dataset, encoder=name).exists()
            ],
        }
        for name, block in params.encoders.items()
    ]


def methods(params: Params) -> list[dict[str, Any]]:
    """Return every configured method, with the groups of the grid that name it."""
    from pipeline.config import Grid

    groups = [name for name in Grid.model_fields if name not in ("dataset", "encoder")]
    return [
        {
            "name": name,
            "groups": [g for g in groups if name in getattr(params.grid, g).method],
        }
        for name in params.methods
    ]


def cells(root: Path, params: Params) -> list[dict[str, Any]]:
    """Return the grid's cells and forgotten ones, with seeds wanted and seeds whose ranks exist."""
    from pipeline import artifacts
    from pipeline.cells import all_cells, leftovers

    listed = []
    wanted = {cell: cell.seeds(params) for cell in all_cells(params.grid)}
    for cell, seeds in wanted.items():
        finished = [
            seed for seed in seeds if artifacts.RANKS.path(root, **cell.fields, seed=seed).exists()
        ]
        listed.append({"cell": str(cell), "grid": True, "seeds": list(seeds), "finished": finished})
    for dataset in params.grid.dataset:
        for path in leftovers(root, wanted, dataset):
            name = path.relative_to(root / "ranks").as_posix()
            listed.append({"cell": name, "grid": False, "seeds": [], "finished": []})
    return listed


def _rows(path: Path) -> int | None:
    """Return the rows of a Parquet file from its footer; None when absent or unreadable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _text(content: dict[str, list[dict[str, Any]]]) -> str:
    blocks = []
    for title, rows in content.items():
        lines = [_line(title, row) for row in rows]
        width = max((len(name) for name, _ in lines), default=0)
        body = "\n".join(f"  {name:<{width}}  {words}".rstrip() for name, words in lines)
        blocks.append(f"{title}\n{body or '  none'}")
    return "\n\n".join(blocks)


def _line(title: str, row: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the words of one row."""
    if title == "cells":
        done = f"{len(row['finished'])} of {len(row['seeds'])} seeds"
        lacking = sorted(set(row["seeds"]) - set(row["finished"]))
        if not row["grid"]:
            done = "not in the grid. Run: spectran clean --stale"
        elif row["finished"] and lacking:
            done += f" (missing {', '.join(map(str, lacking))})"
        return row["cell"], done
    if title == "methods":
        return row["name"], ", ".join(f"grid.{group}" for group in row["groups"]) or "not in grid"
    where = "in grid" if row["grid"] else "not in grid"
    if title == "encoders":
        made = f", embedded {', '.join(row['embedded'])}" if row["embedded"] else ""
        return row["name"], f"{row['engine']}, width {row['width']}, {where}{made}"
    state = "downloaded" if row["downloaded"] else "not downloaded"
    if row["items"] is not None and row["users"] is not None:
        state = f"{row['users']:,} users, {row['items']:,} items"
    return row["name"], f"{row['format']}, {row['origin']}, {where}, {state}"
