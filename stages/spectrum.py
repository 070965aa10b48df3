"""`spectran spectrum`: the singular value decomposition of the text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run

if TYPE_CHECKING:
    from pipeline.spectral.decompose import Basis
    from pipeline.tensorfile import Rows


@command(
    "spectran spectrum demo minilm",
    "spectran spectrum demo minilm --set spectrum.cutoff=1e-3 --out scratch/cut",
    stage=True,
)
def spectrum(
    run: Run,
    dataset: Annotated[str, typer.Argument(help="A block of `datasets`.")],
    encoder: Annotated[str, typer.Argument(help="A block of `encoders`.")],
) -> None:
    """Decompose the embeddings of DATASET by ENCODER into spectral components.

    One file per view of `spectrum.views`, statistics, and a plot. Exact and streamed: memory
    grows with the square of the width, not with the number of items.
    """
    from pipeline import artifacts, tensorfile
    from pipeline.agreement import refuse_other_preprocess, refuse_other_text
    from pipeline.files import TEMPORARY, write_atomic
    from pipeline.inventory import PICTURE
    from pipeline.spectral.decompose import decompose
    from pipeline.spectral.plot import energy_svg
    from pipeline.spectral.stats import describe
    from pipeline.values import Catalog

    run.params.dataset(dataset)
    run.params.encoder(encoder)
    settings = run.params.spectrum
    views = list(dict.fromkeys(settings.views))
    catalog = Catalog.load(run.root, dataset)
    cell = {"dataset": dataset, "encoder": encoder}
    rows = tensorfile.open_rows(
        artifacts.SEMANTIC, run.root, "values", items=catalog.fingerprint, **cell
    )
    if rows.shape[0] != len(catalog) + 1:
        raise rows.fail(f"holds {rows.shape[0] - 1} rows but there are {len(catalog)} items.")
    refuse_other_preprocess(run.root, run.params, dataset)
    refuse_other_text(run.root, run.params, dataset, encoder, rows.metadata["params"])
    stats_path = artifacts.SPECTRUM_STATS.path(run.target, **cell)
    plot_path = stats_path.parent / PICTURE
    paths = [artifacts.SPECTRUM.path(run.target, view=view, **cell) for view in views]
    memory_bytes, disk_bytes = _needs(rows.shape, len(views))
    if run.plan(
        reads=[artifacts.ITEMS.path(run.root, dataset=dataset), rows.path],
        writes=[*paths, stats_path, plot_path],
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
    ):
        return
    run.log_to(dataset, encoder)
    with run.progress("decompose", 2 * len(catalog), "items") as advance:
        bases = decompose(rows, views, settings.cutoff, advance)
        params = {"cutoff": settings.cutoff, "encoder": rows.metadata["params"]}
        write_views(run, rows, bases, catalog.fingerprint, params, cell, advance)
    content = {basis.view: describe(basis) for basis in bases}
    artifacts.save_json(
        artifacts.SPECTRUM_STATS,
        run.target,
        {"items": catalog.fingerprint, "views": content},
        **cell,
    )
    plot = energy_svg(content, f"{dataset}, {encoder}: {len(catalog)} items")
    write_atomic(plot_path, plot, run.target / TEMPORARY)
    _remove_other_views(stats_path.parent, paths)
    _report(run, content)
    run.done(
        [*paths, stats_path, plot_path],
        ", ".join(f"{b.view} {len(b.s)} components" for b in bases),
        f"spectran train {dataset} {encoder} sasrec spectran",
        components={basis.view: len(basis.s) for basis in bases},
    )


def _needs(shape: tuple[int, int], views: int) -> tuple[int, int]:
    """Return memory and disk in bytes, estimated from above."""
    num_items, width = shape[0] - 1, shape[1]
    side = min(num_items, width)
    square = 8 * width * side
    memory = (views + 5) * square + views * 8 * width * side + (300 << 20)
    return memory, views * 4 * side * (num_items + width + 1)


def write_views(
    run: Run,
    rows: Rows,
    bases: Sequence[Basis],
    fingerprint: str,
    params: dict[str, Any],
    cell: dict[str, str],
    advance: Any,
) -> None:
    """Stream U of every view into its file, all of them from one read of the embeddings."""
    import numpy as np

    from pipeline import artifacts, tensorfile
    from pipeline.spectral.decompose import project

    with ExitStack() as stack:
        writers = []
        for basis in bases:
            width, components = basis.v.shape
            shapes = {
                "mean": (width,),
                "s": (components,),
                "u": (basis.num_items, components),
                "v": (width, components),
            }
            context = tensorfile.write(
                artifacts.SPECTRUM,
                run.target,
                shapes,
                items=fingerprint,
                params=params,
                view=basis.view,
                **cell,
            )
            writer = stack.enter_context(context)
            for name in ("mean", "s", "v"):
                writer.put(name, getattr(basis, name).astype(np.float32))
            writers.append(writer)
        for start, parts in project(rows, bases, advance):
            for writer, part in zip(writers, parts, strict=True):
                writer.put("u", part, start)


def _remove_other_views(folder: Path, paths: Sequence[Path]) -> None:
    """Delete views that are no longer in params: the folder is one output, made as a whole."""
    for file in folder.glob("*.safetensors"):
        if file not in paths:
            file.unlink()


def _report(run: Run, content: dict[str, dict[str, Any]]) -> None:
    for name, view in content.items():
        run.log(
            "view",
            name=name,
            components=view["components"],
            effective_rank=view["effective_rank"],
            participation_ratio=view["participation_ratio"],
            mean_cosine=view["mean_cosine"],
        )
        if view["zero_rows"]:
            run.warn(
                f"spectrum: {view['zero_rows']} items have a vector of zeros. They have no "
                f"direction and stay zero in the view `{name}`."
            )
