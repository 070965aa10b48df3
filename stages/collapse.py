"""`spectran collapse`: how far the item vectors of every trained cell collapse, and its size."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from stages.command import command
from stages.run import Run


@command("spectran collapse demo", "spectran collapse demo --json", stage=True)
def collapse(
    run: Run, dataset: Annotated[str, typer.Argument(help="A name under grid.dataset.")]
) -> None:
    """Measure the spectrum of the item vectors of DATASET, before and after training.

    Read from the saved models of every trained cell in the grid; the vectors a seed started from
    are drawn again. Trained parameters are counted, too. Nothing is trained.
    """
    import pyarrow as pa

    from pipeline import artifacts
    from pipeline.cells import Cell, cells, refuse_leftovers
    from pipeline.experiment.prepared import Experiment
    from pipeline.spectral.collapse import summarise
    from pipeline.values import Catalog

    def prepared(cell: Cell) -> Experiment:
        # Prepared anew for each use: a cell keeps the embeddings that it has read.
        return Experiment.prepare(run.params, run.root, run.revisions["train"], cell.fields)

    known = {
        cell: cell.seeds(run.params) for cell in cells(run.params.grid, dataset) if cell.trained
    }
    items = Catalog.load(run.root, dataset).fingerprint
    reads = [
        artifacts.MODEL.path(run.root, **cell.fields, seed=seed)
        for cell, seeds in known.items()
        for seed in seeds
    ]
    total, needed = len(reads), 0
    for cell in known:
        work = prepared(cell)
        reads += [path for path in work.reads if path not in reads]
        needed = max(needed, work.memory_bytes())
    paths = [a.path(run.target, dataset=dataset) for a in (artifacts.COLLAPSE, artifacts.SIZES)]
    if run.plan(reads=reads, writes=paths, memory_bytes=needed, disk_bytes=10**6):
        return
    refuse_leftovers(run.root, known, dataset, artifacts.MODEL)
    rows, sizes, made = [], [], {}
    with run.progress("collapse", total, "models") as advance:
        for cell, seeds in known.items():
            work = prepared(cell)
            made[str(cell)] = work.provenance
            trained = work.trained_numbers()
            sizes.append(
                {
                    **cell.fields,
                    "method_parameters": trained.method,
                    "backbone_parameters": trained.backbone,
                }
            )
            for seed in seeds:
                for found in work.item_vectors(seed):
                    count, width = found.rows.shape
                    rows.append(
                        {
                            **cell.fields,
                            "seed": seed,
                            "view": found.view,
                            "part": found.part,
                            "state": found.state,
                            "items": count,
                            "width": width,
                            **asdict(summarise(found.rows)),
                        }
                    )
                advance(1)
    models = {str(cell): list(seeds) for cell, seeds in known.items()}
    params = {"models": models, "made": made}
    for artifact, content in ((artifacts.COLLAPSE, rows), (artifacts.SIZES, sizes)):
        table = pa.Table.from_pylist(content, schema=artifact.schema)
        artifact.save(run.target, table, items=items, params=params, dataset=dataset)
    run.done(paths, f"{total} models", "spectran report", models=total)
