"""download: bring raw files into the cache and write their manifest."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.command import command
from stages.run import Run, size

MEMORY_BYTES = 200_000_000
"""Fetching and hashing work in chunks."""


@command(
    "spectran download demo",
    "spectran download amazon2014_toys --dry-run",
    stage=True,
    resumes=True,
)
def download(
    run: Run, dataset: Annotated[str, typer.Argument(help="Name in params.yaml.")]
) -> None:
    """Fetch or generate the raw files of DATASET and write their manifest.

    An interrupted download goes on where it stopped. The bytes stay in the cache, outside DVC.
    """
    from pipeline.artifacts import RAW, save_json
    from pipeline.data.sources import reader
    from pipeline.download.obtain import bytes_to_fetch, obtain, read_from, terms

    source, settings = run.params.dataset(dataset).source, run.params.download
    reader(dataset, source)  # refuses files that `preprocess` would not read
    if words := terms(source):
        run.say(f"terms: {words}")
    if words := read_from(source):
        run.say(f"locations: {words}")
    total = bytes_to_fetch(dataset, source, settings, run.base, ask=not run.dry_run)
    if source.origin.kind == "web":
        run.say(f"size: {size(total) if total is not None else 'not stated by the publisher'}")
    manifest = RAW.path(run.target, dataset=dataset)
    if run.plan(
        reads=[], writes=[manifest], memory_bytes=MEMORY_BYTES, disk_bytes=2 * (total or 0)
    ):
        return
    with run.progress(dataset, total, "B") as advance:
        content = obtain(dataset, source, settings, run.cache, run.base, run.force, advance)
    path = save_json(RAW, run.target, content, dataset=dataset)
    entries = content["files"].values()
    held = sum(entry["size_bytes"] for entry in entries)
    run.done(
        [path],
        f"manifest of {len(entries)} files, {size(held)} of raw data",
        following=f"spectran preprocess {dataset}",
        raw_files=len(entries),
        raw_bytes=held,
    )
