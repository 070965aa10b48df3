"""`spectran evaluate`: ranks of the cells in the grid -> metrics and paired tests."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.command import command
from stages.run import Run


@command("spectran evaluate demo", "spectran evaluate demo --json", stage=True)
def evaluate(
    run: Run, dataset: Annotated[str, typer.Argument(help="A name under grid.dataset.")]
) -> None:
    """Compute metrics and paired tests of DATASET from the ranks of every cell in the grid."""
    from pipeline import artifacts
    from pipeline.cells import bases, cells, refuse_leftovers
    from pipeline.evaluation.comparisons import compare
    from pipeline.evaluation.metrics import measure, slice_sizes
    from pipeline.evaluation.outcomes import load_grid
    from pipeline.reporting.scores import scores_table
    from pipeline.reporting.tables import Numbers

    config = run.params.evaluate
    known = {cell: cell.seeds(run.params) for cell in cells(run.params.grid, dataset)}
    reads = [
        artifacts.RANKS.path(run.root, **cell.fields, seed=seed)
        for cell, seeds in known.items()
        for seed in seeds
    ]
    writes = [
        a.path(run.target, dataset=dataset) for a in (artifacts.METRICS, artifacts.COMPARISONS)
    ]
    held = sum(path.stat().st_size for path in reads if path.exists())
    # Unpacked ranks and their values per metric take about 20 times the compressed files.
    if run.plan(reads=reads, writes=writes, memory_bytes=20 * held + 10**8, disk_bytes=10**6):
        return
    refuse_leftovers(run.root, known, dataset)
    outcomes = load_grid(run.root, run.params, run.revisions["train"], list(known))
    for split in ("valid", "test"):
        sizes = slice_sizes(outcomes[0], split, config.strata)
        run.say(f"evaluate {split}: " + " ".join(f"{name}={n}" for name, n in sizes.items()))
    provenance = {
        "evaluate": config.model_dump(),
        "cells": {str(cell.cell): dict(cell.provenance) for cell in outcomes},
    }
    items = outcomes[0].items
    metrics = measure(outcomes, config)
    comparisons = compare(
        outcomes, config, run.params.controls, bases(list(known), run.params.methods)
    )
    written = [
        artifacts.METRICS.save(
            run.target, metrics, items=items, params=provenance, dataset=dataset
        ),
        artifacts.COMPARISONS.save(
            run.target,
            comparisons,
            items=items,
            params={"evaluate": config.model_dump()},
            dataset=dataset,
        ),
    ]
    run.say(scores_table(Numbers(dataset, metrics.to_pylist(), [], config.alpha)))
    run.done(
        written,
        f"{len(outcomes)} cells, {len(metrics)} metrics, {len(comparisons)} paired tests",
        f"spectran collapse {dataset}",
        cells=len(outcomes),
    )
