"""`spectran preprocess`: raw tables become the catalogue and the users' sequences."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.command import command
from stages.run import Run


@command(
    "spectran preprocess demo",
    "spectran preprocess toys --dry-run",
    "spectran preprocess toys --out scratch/leave --set datasets.toys.preprocess.keep_last=50",
    stage=True,
)
def preprocess(
    run: Run, dataset: Annotated[str, typer.Argument(help="A block of `datasets`.")]
) -> None:
    """Filter the log, number the items, order and split the users' histories."""
    from pipeline import artifacts
    from pipeline.agreement import reading
    from pipeline.data.prepare import intern, prepare
    from pipeline.data.rejects import settle, without_duplicates
    from pipeline.data.sources import reader
    from pipeline.download.rawfiles import locate

    config = run.params.dataset(dataset)
    read = reader(dataset, config.source).read
    cell = {"dataset": dataset}
    manifest = artifacts.load_json(artifacts.RAW, run.root, **cell)
    files = locate(manifest, config.source, run.cache, run.base)
    outputs = [a.path(run.target, **cell) for a in (artifacts.ITEMS, artifacts.SEQUENCES)]
    outputs.append(artifacts.DATA_STATS.path(run.target, **cell))
    bytes_in = sum(path.stat().st_size for path in files.values())
    # Text ids of a log stay in memory until they are codes: measured 6 times the Parquet bytes.
    if run.plan(
        reads=[artifacts.RAW.path(run.root, **cell), *files.values()],
        writes=outputs,
        memory_bytes=8 * bytes_in + 200_000_000,
        disk_bytes=bytes_in,
    ):
        return
    run.log_to(dataset)
    raw = without_duplicates(read(files, config.source))
    rejected = settle(raw, config.source.max_rejected_share, dataset, run.cache)
    run.log("parsed", rows=raw.rows, rejected=len(raw.rejected))
    items, rows, owned = raw.items, raw.rows, [raw.interactions]
    del raw
    interned = intern(owned, config.preprocess.min_rating is not None)
    made = prepare(interned, items, config.preprocess, dataset)
    for step in made.stats["steps"]:
        run.log(**{"event": step["step"], **{k: v for k, v in step.items() if k != "step"}})
    params = config.preprocess.model_dump()
    written = [
        made.catalog.save(run.target, dataset, params),
        made.sequences.save(run.target, dataset, params),
        artifacts.save_json(
            artifacts.DATA_STATS,
            run.target,
            {
                "rows": rows,
                "rejected": rejected.counts,
                "reading": reading(config.source),
                **made.stats,
            },
            **cell,
        ),
    ]
    if rejected.path is not None:
        run.say(f"{sum(rejected.counts.values())} rows set aside, with reasons: {rejected.path}")
    stats = made.stats
    run.done(
        written,
        f"{stats['users']:,} users, {stats['items']:,} items, {stats['interactions']:,} events",
        f"spectran encode {dataset} {next(iter(run.params.grid.encoder), 'ENCODER')}",
        users=stats["users"],
        items=stats["items"],
        interactions=stats["interactions"],
        rejected=sum(rejected.counts.values()),
    )
