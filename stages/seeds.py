"""The seeds of one cell: which are finished, how the others train, what is kept of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.run import Run, warn

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.experiment.prepared import Experiment
    from pipeline.training.progress import Log
    from pipeline.training.store import SeedStore

TOLD = ("seconds", "best_epoch", "epochs", "rank_seconds", "rank_users")
"""What the log says of a finished seed. The report reads its times there: a clock has no place in
artifacts."""


def unfinished_seeds(
    run: Run,
    work: Experiment,
    outputs: Mapping[int, dict[str, Path]],
    device: str,
    threads: int,
    *,
    stacked: bool,
) -> dict[int, SeedStore]:
    """Hand out the files of finished seeds; return where the others keep their state.

    Seeds together take what a separate run finished, whose result is theirs but for rounding, so
    that a seed added to one that trained alone trains only itself. A separate run, to which others
    are compared, takes nothing from seeds together.
    """
    from pipeline.files import TEMPORARY
    from pipeline.params import save_every_s
    from pipeline.training.store import SeedStore

    place: dict[str, Any] = {"device": device.split(":")[0], "threads": threads}
    # Sums differ in the last bit, so each way keeps its own; the first is where it goes on.
    ways: list[dict[str, Any]] = [{"together": True}, {}] if stacked else [{}]
    stores = {}
    for seed, files in outputs.items():
        made_by = {**work.identity(seed), **place}
        kept = [SeedStore(run.cache / "train", {**made_by, **w}, save_every_s()) for w in ways]
        if run.force:
            for store in kept:
                store.forget()
        done = next(((s, record) for s in kept if (record := s.finished()) is not None), None)
        if done is None:
            stores[seed] = kept[0]
            continue
        store, record = done
        store.give(files, run.target / TEMPORARY)
        run.log("reuse", seed=seed, **{n: record[n] for n in TOLD if n in record})
    return stores


def train_alone(
    run: Run,
    work: Experiment,
    seed: int,
    files: dict[str, Path],
    store: SeedStore,
    device: str,
) -> None:
    """Train one seed, or rank by a method that is not trained."""
    from pipeline.errors import DivergedError

    total = work.train.max_epochs * work.histories if work.trained else None
    with run.progress(f"{work.cell['method']} seed {seed}", total, "histories") as advance:
        try:
            result: dict[str, Any] = work.run_seed(
                seed, device=device, checkpoint=store, log=run.log, advance=advance
            )
        except DivergedError:
            run.log("diverged", seed=seed)
            raise
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


def train_side_by_side(
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


def train_together(
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
