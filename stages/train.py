"""`spectran train`: all seeds of one cell, from stored sequences and text to ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run, pick_device, warn

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.experiment.prepared import Experiment
    from pipeline.training.progress import Log
    from pipeline.training.store import SeedStore

TOLD = ("seconds", "best_epoch", "epochs", "rank_seconds", "rank_users")
"""What the log says of a finished seed. The report reads its times there: a clock has no place in
artifacts."""
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
    if run.plan(
        reads=work.reads,
        writes=written,
        memory_bytes=work.memory_bytes(len(outputs) if together else 1, processes),
        disk_bytes=work.disk_bytes(),
        device=device if work.trained else None,
        more={"processes": processes},
        text=f"trains {processes} seeds at once" if processes > 1 else "",
    ):
        return
    deterministic(device, threads)
    run.log_to(dataset, encoder, backbone, method)
    if together and work.trained and not work.stackable:
        run.log("one by one", reason=f"{method} on {backbone} cannot be batched over seeds")
    stacked = together and work.stackable
    stores = _unfinished(run, work, outputs, device, threads, stacked=stacked)
    if stacked:
        _together(run, work, outputs, stores, device)
    elif min(processes, len(stores)) > 1:
        _side_by_side(run, work, outputs, stores, threads, processes)
    else:
        for seed, store in stores.items():
            _seed(run, work, seed, outputs[seed], store, device)
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
    from pipeline.cells import Cell, cells, unfinished
    from pipeline.errors import ConfigError

    cell = Cell(**work.cell)
    if cell.dataset not in run.params.grid.dataset:
        return f"add {cell.dataset} to grid.dataset in params.yaml, and run: dvc repro"
    try:
        if cell not in cells(run.params.grid, cell.dataset):
            return f"put {cell} into a group of `grid` in params.yaml, and run: dvc repro"
    except ConfigError:  # a mistake in the grid is no reason to fail what has been trained
        return "spectran check"
    missing = next(unfinished(run.root, run.params, cell.dataset), None)
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


def _unfinished(
    run: Run,
    work: Experiment,
    outputs: Mapping[int, dict[str, Path]],
    device: str,
    threads: int,
    *,
    stacked: bool,
) -> dict[int, SeedStore]:
    """Hand out the files of finished seeds; return where the others keep their state."""
    from pipeline.files import TEMPORARY
    from pipeline.params import save_every_s
    from pipeline.training.store import SeedStore, key

    place: dict[str, Any] = {"device": device.split(":")[0], "threads": threads}
    if stacked:
        place["together"] = True  # sums differ in the last bit
    stores = {}
    for seed, files in outputs.items():
        folder = run.cache / "train" / key({**work.identity(seed), **place})
        store = SeedStore(folder, save_every_s())
        if run.force:
            store.forget()
        record = store.finished()
        if record is None:
            stores[seed] = store
            continue
        store.give(files, run.target / TEMPORARY)
        run.log("reuse", seed=seed, **{n: record[n] for n in TOLD if n in record})
    return stores


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


def _seed(
    run: Run,
    work: Experiment,
    seed: int,
    files: dict[str, Path],
    store: SeedStore,
    device: str,
) -> None:
    total = work.train.max_epochs * work.histories if work.trained else None
    with run.progress(f"{work.cell['method']} seed {seed}", total, "histories") as advance:
        result: dict[str, Any] = work.run_seed(
            seed, device=device, checkpoint=store, log=run.log, advance=advance
        )
        _keep(work, seed, result, run.target, files, store, run.log)


@dataclass(frozen=True)
class _Alone:
    """One seed, trained and kept by a process of its own, which reads the inputs anew."""

    params: Params
    root: Path
    revision: int
    cell: Mapping[str, str]
    threads: int
    seed: int
    target: Path
    files: Mapping[str, Path]
    store: SeedStore

    def __call__(self, *, log: Log, advance: Callable[[int], None]) -> None:
        from pipeline.errors import DivergedError
        from pipeline.experiment.prepared import Experiment
        from pipeline.training.fit import deterministic

        deterministic("cpu", self.threads)
        work = Experiment.prepare(self.params, self.root, self.revision, self.cell)
        try:
            result = work.run_seed(
                self.seed, device="cpu", checkpoint=self.store, log=log, advance=advance
            )
        except DivergedError:
            log("diverged", seed=self.seed)
            raise
        _keep(work, self.seed, result, self.target, self.files, self.store, log)


def _side_by_side(
    run: Run,
    work: Experiment,
    outputs: Mapping[int, dict[str, Path]],
    stores: Mapping[int, SeedStore],
    threads: int,
    processes: int,
) -> None:
    """Train these seeds in processes. Raises an error of a seed when the others are done."""
    from pipeline.training.side_by_side import side_by_side

    fixed = (run.params, run.root, work.revision, work.cell, threads)
    jobs = {s: _Alone(*fixed, s, run.target, outputs[s], store) for s, store in stores.items()}
    run.log("side by side", seeds=len(jobs), processes=min(processes, len(jobs)))
    title = f"{work.cell['method']} seeds {', '.join(map(str, jobs))}"
    total = work.train.max_epochs * work.histories * len(jobs)
    with run.progress(title, total, "histories") as advance:
        side_by_side(jobs, processes, log=run.log, advance=advance)


def _together(
    run: Run,
    work: Experiment,
    outputs: Mapping[int, dict[str, Path]],
    stores: Mapping[int, SeedStore],
    device: str,
) -> None:
    """Train these seeds in one batched pass. Raises DivergedError when the others are done."""
    if not stores:
        return
    from pipeline.errors import DivergedError

    total = work.train.max_epochs * work.histories * len(stores)
    title = f"{work.cell['method']} seeds {', '.join(map(str, stores))}"
    diverged: list[DivergedError] = []
    with run.progress(title, total, "histories") as advance:
        for seed, found in work.run_together(stores, device=device, log=run.log, advance=advance):
            if isinstance(found, DivergedError):
                run.log("diverged", seed=seed)
                diverged.append(found)
            else:
                _keep(work, seed, found, run.target, outputs[seed], stores[seed], run.log)
    if diverged:
        raise diverged[0]


def _keep(
    work: Experiment,
    seed: int,
    result: Mapping[str, Any],
    target: Path,
    files: Mapping[str, Path],
    store: SeedStore,
    log: Log,
) -> None:
    """Write a finished seed's artifacts, and a copy that later runs can reuse.

    Without the copy the results are whole all the same, so that is a warning.
    """
    from pipeline.errors import ResourceError

    work.save(target, seed, result)
    told = {
        "seconds": round(result["seconds"], 3),
        "best_epoch": result["best_epoch"],
        "epochs": result["epochs"],
        "rank_seconds": round(result["rank_seconds"], 4),
        "rank_users": len(result["ranks"]),
    }
    try:
        store.finish(files, **told)
    except (OSError, ResourceError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        warn(
            f"train: seed {seed} is done and its results are whole, but no copy of them could be "
            f"kept in {store.folder}: {reason}. A later run of this cell may train it again. Make "
            f"room there, or let SPECTRAN_CACHE name another folder."
        )
    log("done", seed=seed, **told)
