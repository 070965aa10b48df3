"""download: bring raw files into the cache and write their manifest."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.run import Run, command, size


@command(
    "spectran download demo",
    "spectran download amazon2014_toys --dry-run",
    stage=True,
)
def download(
    run: Run, dataset: Annotated[str, typer.Argument(help="Name in params.yaml.")]
) -> None:
    """Fetch or generate the raw files of DATASET and write their manifest.

    An interrupted download goes on where it stopped. The bytes stay in the cache, outside DVC.
    """
    from pipeline.artifacts import RAW, save_json
    from pipeline.obtain import known_bytes, obtain, terms

    source = run.params.dataset(dataset).source
    if words := terms(source):
        run.say(f"terms: {words}")
    expected = known_bytes(source)
    manifest = RAW.path(run.target, dataset=dataset)
    if run.plan(reads=[], writes=[manifest], memory_bytes=200_000_000, disk_bytes=expected or 0):
        return
    with run.progress(dataset, expected, "B") as advance:
        content = obtain(
            dataset, source, run.params.download, run.cache, run.base, run.force, advance, run.say
        )
    path = save_json(RAW, run.target, content, dataset=dataset)
    files = content["files"]
    total = sum(entry["size_bytes"] for entry in files.values())
    run.done(
        [path],
        f"manifest of {len(files)} files, {size(total)} of raw data",
        following=f"spectran preprocess {dataset}",
        raw_files=len(files),
        raw_bytes=total,
    )
