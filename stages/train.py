"""`spectran train`: all seeds of one cell, from stored sequences and text to ranks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from stages.command import command
from stages.run import Run, pick_device
from stages.seeds import train_alone, train_side_by_side, train_together, unfinished_seeds

if TYPE_CHECKING:
    from pipeline.experiment.prepared import Experiment

QUICK = 200_000
"""Histories that a seed reads at most, below which it gets no process of its own.

To start and end one takes about 3 s of a core; the demo's seeds, which read 36,000, take 5 s.
"""


@command(
    "spectran train demo none sasrec id",
    "spectran train demo minilm sasrec spectran",
    "spectran train demo none none popularity",
    "spectran train demo none sasrec id --seeds-together",
    "spectran train demo none sasrec id --processes 2",
    "spectran train demo minilm sasrec spectran --set 'train.seeds=[0]' --out scratch/one",
    stage=True,
    compute=True,
    resumes=True,
    memory="Set a smaller train.batch_size or train.width, or train fewer seeds at once: "
    "--one-by-one or --processes 1.",
)
def train(
    run: Run,
    dataset: Annotated[str, typer.Argument(help="A block of `datasets`.")],
    encoder: Annotated[str, typer.Argument(help="A block of `encoders`; none without text.")],
    backbone: Annotated[str, typer.Argument(help="A block of `backbones`; none if untrained.")],
    method: Annotated[str, typer.Argument(help="A block of `methods`.")],
    together: Annotated[
        bool | None,
        typer.Option(
            "--seeds-together/--one-by-one",
            help="Train all seeds in one batched pass, or one after another. Both give the same "
            "but for rounding. Without either: together on a CUDA device, which mostly waits for "
            "launches; on a CPU, where that does not pay, as --processes says.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            help="Seeds at once on a CPU, each in a process of its own with --threads; 1: one "
            "after another. All give the same. Without it: as many as cores and memory have room "
            f"for; 1 where a seed reads fewer than {QUICK:,} histories in all epochs, since a "
            "process takes seconds to start.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train every seed of one cell and rank the whole catalogue for every held-out user.

    Finished seeds and the state of those under way survive a kill: run the same command again.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable sums on CUDA
    from pipeline.cells import Cell
    from pipeline.experiment.prepared import Experiment
    from pipeline.precedence import warnings
    from pipeline.training.fit import deterministic

    device = pick_device(run.device)
    cell = {"dataset": dataset, "encoder": encoder, "backbone": backbone, "method": method}
    work = Experiment.prepare(run.params, run.root, run.revisions["train"], cell)
    for line in warnings(run.params, [Cell(**cell)]):
        run.warn(line)
    threads = run.threads or work.train.threads
    outputs = {seed: work.outputs(run.target, seed) for seed in work.seeds}
    written = [path for files in outputs.values() for path in files.values()]
    _compatible(together, processes, device)
    if together is None:
        together = processes is None and device != "cpu" and len(outputs) > 1
        processes = processes or (None if device == "cpu" else 1)
    else:
        processes = 1
    processes = min(processes or _room(work, threads), len(outputs)) if work.trained else 1
    memory = work.memory_bytes(len(outputs) if together else 1, processes)
    if run.plan(
        reads=work.reads,
        writes=written,
        memory_bytes=memory,
        disk_bytes=work.disk_bytes(),
        device=device if work.trained else None,
        device_bytes=memory,
        more={"processes": processes},
        text=f"trains {processes} seeds at once" if processes > 1 else "",
    ):
        return
    deterministic(device, threads)
    run.log_to(dataset, encoder, backbone, method)
    if together and work.trained and not work.stackable:
        run.log("one by one", reason=f"{method} on {backbone} cannot be batched over seeds")
    stacked = together and work.stackable
    stores = unfinished_seeds(run, work, outputs, device, threads, stacked=stacked)
    if stacked:
        train_together(run, work, outputs, stores, device)
    elif min(processes, len(stores)) > 1:
        train_side_by_side(run, work, outputs, stores, threads, processes)
    else:
        for seed, store in stores.items():
            train_alone(run, work, seed, outputs[seed], store, device)
    scores = _scores(run, work)
    run.done(
        written,
        f"{len(outputs)} seeds" if work.trained else "ranks",
        _following(run, work),
        seeds=list(outputs),
        scores=scores,
    )


def _following(run: Run, work: Experiment) -> str:
    """Return what to run next: `evaluate` reads all cells of the grid, and refuses others."""
    from pipeline.cells import Cell, cells
    from pipeline.errors import ConfigError
    from pipeline.evaluation.outcomes import unfinished

    cell = Cell(**work.cell)
    if cell.dataset not in run.params.grid.dataset:
        return f"add {cell.dataset} to grid.dataset in params.yaml, and run: dvc repro"
    try:
        if cell not in cells(run.params.grid, cell.dataset):
            return f"put {cell} into a group of `grid` in params.yaml, and run: dvc repro"
    except ConfigError:  # a mistake in the grid is no reason to fail what has been trained
        return "spectran check"
    missing = next(unfinished(run.root, run.params, work.revision, cell.dataset), None)
    return missing.command if missing else f"spectran evaluate {cell.dataset}"


def _scores(run: Run, work: Experiment) -> dict[str, float]:
    """Say what the cell reached, from the ranks just written; return it by `split/metric@k`."""
    from pipeline.cells import Cell
    from pipeline.evaluation.outcomes import load
    from pipeline.reporting.scores import scores_line, scores_of

    config = run.params.evaluate
    outcomes = load(run.target, Cell(**work.cell), work.seeds, config.seen_items)
    scores = scores_of(outcomes, config)
    count = len(work.seeds)
    seeds = f" ({count} seed{'s' if count > 1 else ''})" if work.trained else ""
    run.say(f"train: {scores_line(scores)}{seeds}")
    return scores


def _compatible(together: bool | None, processes: int | None, device: str) -> None:
    """Raise ConfigError for options that clash."""
    from pipeline.errors import ConfigError

    if together is not None and processes is not None:
        flag = "--seeds-together" if together else "--one-by-one"
        raise ConfigError(f"{flag} and --processes exclude one another. Leave one of them out.")
    if processes not in (None, 1) and device != "cpu":
        raise ConfigError(
            f"--processes {processes}: seeds train in several processes on a CPU only, found "
            f"{device}. Leave it out, or add --device cpu."
        )


def _room(work: Experiment, threads: int) -> int:
    """Return how many seeds of a cell to train at once where nobody says."""
    import psutil

    if work.train.max_epochs * work.histories < QUICK:
        return 1
    # Those that this process may use; a system that cannot tell lets it use all.
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    free = psutil.virtual_memory().available
    counts = range(min(len(allowed) // threads, len(work.seeds)), 1, -1)
    return next((n for n in counts if work.memory_bytes(processes=n) <= free), 1)
