"""`spectran report`: one page and its tables from everything measured; result cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.artifacts import Table
    from pipeline.cells import Cell
    from pipeline.reporting.logs import Times
    from pipeline.reporting.page import Chapter

FILES = (
    "index.html",
    "results.csv",
    "results.md",
    "efficiency.csv",
    "spectral_weights.csv",
    "spectral_summary.csv",
    "ablations.csv",
    "widths.csv",
)


@command(
    "spectran report",
    "spectran report --card my_results --collect office toys",
    "spectran report --card my_results --collect --add beauty",
    "spectran report --card toys_searched",
    stage=True,
)
def report(
    run: Run,
    datasets: Annotated[
        list[str] | None, typer.Argument(help="Data sets of the card, after --collect.")
    ] = None,
    card: Annotated[
        str | None, typer.Option("--card", help="Rebuild the card of this name.")
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Gather the ranks of DATASETS into the card first.")
    ] = False,
    add: Annotated[
        bool,
        typer.Option("--add", help="With --collect: keep the cells that the card holds already."),
    ] = False,
) -> None:
    """Write the report: a self-contained HTML page, results.csv and results.md, and the numbers
    of its figures as CSV: efficiency, spectral_weights, spectral_summary, ablations, widths.

    With --card: write a result card instead, a folder that is kept in the repository.
    """
    from pipeline.errors import ConfigError

    names = datasets or []
    if card is not None:
        if bool(names) != collect:
            raise ConfigError(
                "--collect takes the data sets to gather, and a rebuild takes none. "
                f"Run: spectran report --card {card} --collect DATASET"
            )
        if add and not collect:
            raise ConfigError("--add says how to gather; it needs --collect and data sets.")
        _card(run, card, names, add)
    elif names or collect or add:
        raise ConfigError(
            "data sets are named for a card only; the report shows all of grid.dataset. "
            "Run: spectran report   (or: spectran report --card NAME --collect DATASET)"
        )
    else:
        _page(run)


def _page(run: Run) -> None:
    from pipeline import artifacts
    from pipeline.cells import all_cells
    from pipeline.files import TEMPORARY, write_atomic
    from pipeline.reporting.exports import report_markdown, results_csv
    from pipeline.reporting.figure_tables import figure_tables
    from pipeline.reporting.methods import origins
    from pipeline.reporting.page import render

    grid = run.params.grid
    folder = run.target / "report"
    paths = [folder / name for name in FILES]
    reads = [
        artifact.path(run.root, dataset=dataset)
        for dataset in grid.dataset
        for artifact in (
            artifacts.METRICS,
            artifacts.COMPARISONS,
            artifacts.COLLAPSE,
            artifacts.SIZES,
            artifacts.DATA_STATS,
        )
    ]
    for dataset in grid.dataset:
        where = {"dataset": dataset}
        reads.append(artifacts.SEQUENCES.path(run.root, **where))
        reads += [artifacts.SPECTRUM_STATS.path(run.root, **where, encoder=e) for e in grid.encoder]
    for cell in (cell for cell in all_cells(grid) if cell.trained):
        seeds = cell.seeds(run.params)
        reads += [artifacts.CURVES.path(run.root, **cell.fields, seed=seed) for seed in seeds]
    if run.plan(reads=reads, writes=paths, memory_bytes=3 * 10**8, disk_bytes=5 * 10**6):
        return
    chapters = [_chapter(run, dataset) for dataset in grid.dataset]
    texts = (
        render(chapters, origins(run.params)),
        results_csv((c.numbers, c.protocol_short) for c in chapters),
        report_markdown((c.numbers, c.protocol, c.findings, c.settings) for c in chapters),
        *figure_tables(chapters),
    )
    for path, text in zip(paths, texts, strict=True):
        write_atomic(path, text.encode(), run.target / TEMPORARY)
    run.say(f"report: {paths[0].absolute().as_uri()}")
    of = "1 data set" if len(chapters) == 1 else f"{len(chapters)} data sets"
    run.done(paths, of, f"open {paths[0]}", report=str(paths[0]))


def _chapter(run: Run, dataset: str) -> Chapter:
    from pipeline import artifacts, naming
    from pipeline.cells import Cell, cells
    from pipeline.evaluation.outcomes import completed
    from pipeline.reporting.ablations import ablations, refuse_untested
    from pipeline.reporting.page import Chapter
    from pipeline.reporting.protocol import (
        is_quick,
        is_synthetic,
        line,
        own_settings,
        protocol,
        short,
    )
    from pipeline.reporting.published import published_values
    from pipeline.reporting.tables import Numbers

    params = run.params
    wanted = cells(params.grid, dataset)
    metrics, header = artifacts.METRICS.load(run.root, dataset=dataset)
    items = header["items"]
    comparisons, _ = artifacts.COMPARISONS.load(run.root, items=items, dataset=dataset)
    rows = metrics.to_pylist(), comparisons.to_pylist()
    numbers = Numbers(dataset, *rows, params.evaluate.alpha, params.transformed)
    _refuse_other_cells(run, dataset, numbers, header)
    spectra = {}
    for encoder in params.grid.encoder:
        spectra[encoder] = artifacts.load_json(
            artifacts.SPECTRUM_STATS, run.root, dataset=dataset, encoder=encoder
        )
    curves: dict[Any, dict[int, list[dict[str, Any]]]] = {}
    for cell in wanted:
        if cell.trained:
            curves[cell] = {
                seed: artifacts.CURVES.load(run.root, items=items, **cell.fields, seed=seed)[
                    0
                ].to_pylist()
                for seed in cell.seeds(params)
            }
    backbones = {cell.backbone for cell in wanted}
    variants = ablations(params, wanted, published_values(dataset, backbones, params))
    refuse_untested(run.root, numbers, variants)
    topics = protocol(params, dataset, wanted)
    provenance = {
        name: {**made, "params": completed(Cell.parse(name), made["params"], params)}
        for name, made in header["params"]["cells"].items()
    }
    return Chapter(
        numbers=numbers,
        protocol=line(topics),
        protocol_short=short(topics),
        settings=own_settings(params, wanted),
        strata=topics["strata"],
        synthetic=is_synthetic(params, dataset),
        quick=is_quick(params, dataset),
        data=artifacts.load_json(artifacts.DATA_STATS, run.root, dataset=dataset),
        spectra=spectra,
        curves=curves,
        collapse=_of_models(run, artifacts.COLLAPSE, dataset, header),
        sizes=_of_models(run, artifacts.SIZES, dataset, header),
        times=_times(run, wanted),
        files={name: naming.file_of("backbones", name, params.backbones) for name in backbones},
        provenance=provenance,
        ablations=variants,
        monitor=f"valid/ndcg@{params.train_for(dataset).monitor_k}",
    )


def _times(run: Run, wanted: Sequence[Cell]) -> dict[Cell, Times]:
    """Return the times of the cells whose logs tell them."""
    from pipeline.reporting.logs import times

    found = {cell: times(_logs(run), cell, cell.seeds(run.params)) for cell in wanted}
    return {cell: told for cell, told in found.items() if told}


def _logs(run: Run) -> Path:
    return run.base / "logs" / "train"


def _of_models(
    run: Run, artifact: Table, dataset: str, metrics: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of what was measured on models; metrics: the header of METRICS.

    Raises ArtifactError when they are of another grid, or of other models than the metrics.
    """
    from pipeline.agreement import refuse_other_models
    from pipeline.cells import cells

    table, header = artifact.load(run.root, items=metrics["items"], dataset=dataset)
    wanted = {
        str(cell): list(cell.seeds(run.params))
        for cell in cells(run.params.grid, dataset)
        if cell.trained
    }
    if header["params"]["models"] != wanted:
        raise artifact.fail(
            run.root,
            {"dataset": dataset},
            "was measured on other cells or seeds than params.yaml names.",
        )
    ranked = {cell: made["params"] for cell, made in metrics["params"]["cells"].items()}
    refuse_other_models(artifact, run.root, dataset, header["params"].get("made", {}), ranked)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _refuse_other_cells(run: Run, dataset: str, numbers: Any, header: dict[str, Any]) -> None:
    """Raise ArtifactError when metrics are of another grid, other settings or other inputs.

    The page describes how they were made from params.yaml.
    """
    from functools import cache

    from pipeline import artifacts
    from pipeline.agreement import outdated, refuse_other_preprocess
    from pipeline.cells import cells
    from pipeline.errors import ArtifactError
    from pipeline.evaluation.outcomes import made_otherwise
    from pipeline.files import sha256_file

    if set(numbers.cells) != set(cells(run.params.grid, dataset)):
        raise artifacts.METRICS.fail(
            run.root, {"dataset": dataset}, "holds other cells than params.yaml names under grid."
        )
    if header["params"]["evaluate"] != run.params.evaluate.model_dump():
        raise artifacts.METRICS.fail(
            run.root, {"dataset": dataset}, "was computed with other values of evaluate."
        )
    refuse_other_preprocess(run.root, run.params, dataset)
    digest = cache(sha256_file)
    for cell in numbers.cells:
        made = header["params"]["cells"].get(str(cell), {}).get("params", {})
        changed = made_otherwise(cell, made, run.params)
        told = f"made with {changed.told(run.params)}" if changed else None
        if told := told or outdated(run.root, run.revisions["train"], cell, made, digest):
            raise ArtifactError(
                f"{artifacts.METRICS.path(run.root, dataset=dataset)} holds {cell}, {told} "
                f"Run: {cell.command}   and then: spectran evaluate {dataset}"
            )


def _card(run: Run, name: str, datasets: list[str], add: bool) -> None:
    from pipeline.reporting.card_files import FOLDER, check_name, to_write
    from pipeline.reporting.cards import rebuild
    from pipeline.reporting.gather import collect

    folder = run.target / FOLDER.format(name=check_name(name))
    if run.plan(
        reads=[], writes=to_write(folder, datasets), memory_bytes=3 * 10**8, disk_bytes=10**7
    ):
        return
    if datasets:
        facts, logs = _versions(), _logs(run)
        settings = (run.params, run.revisions["train"])
        written = collect(run.root, run.target, name, *settings, datasets, logs, facts, add=add)
    else:
        written = rebuild(run.root, run.target, name)
    show = _shown(folder)
    run.done(written, f"card {name}", f"git add {show}", card=str(folder))


def _shown(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _versions() -> dict[str, str]:
    """Return what the numbers may depend on beside params: libraries and kind of machine."""
    import platform
    from importlib.metadata import version

    libraries = ("numpy", "scipy", "spectran", "torch")
    return {
        "Python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in libraries},
    }
