"""`spectran train`: all seeds of one cell, from stored sequences and text to ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run, pick_device

if TYPE_CHECKING:
    from pipeline.experiment import Experiment
    from pipeline.training.store import SeedStore

TOLD = ("seconds", "best_epoch", "epochs", "rank_seconds", "rank_users")
"""What the log says of a finished seed. The report reads its times there: a clock has no place in
artifacts."""


@command(
    "spectran train demo none sasrec id",
    "spectran train demo minilm sasrec spectran",
    "spectran train demo none none popularity",
    "spectran train demo none sasrec id --seeds-together",
    "spectran train demo minilm sasrec spectran --set train.seeds=[0] --out scratch/one",
    stage=True,
    compute=True,
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
            "launches; one by one on a CPU, where that is faster.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train every seed of one cell and rank the whole catalogue for every held-out user.

    Finished seeds and the state of those under way survive a kill: run the same command again.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable sums on CUDA
    from pipeline.experiment import Experiment
    from pipeline.training.fit import deterministic

    device = pick_device(run.device)
    cell = {"dataset": dataset, "encoder": encoder, "backbone": backbone, "method": method}
    work = Experiment.prepare(run.params, run.root, run.revisions["train"], cell)
    threads = run.threads or work.train.threads
    outputs = {seed: work.outputs(run.target, seed) for seed in work.seeds}
    written = [path for files in outputs.values() for path in files.values()]
    if together is None:
        together = device != "cpu" and len(outputs) > 1
    if run.plan(
        reads=work.reads,
        writes=written,
        memory_bytes=work.memory_bytes(len(outputs) if together else 1),
        disk_bytes=work.disk_bytes(),
        device=device if work.trained else None,
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
    else:
        for seed, store in stores.items():
            _seed(run, work, seed, outputs[seed], store, device)
    run.done(
        written,
        f"{len(outputs)} seeds" if work.trained else "ranks",
        f"spectran evaluate {dataset}",
        seeds=list(outputs),
    )


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
        _keep(run, work, seed, result, files, store)


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
                _keep(run, work, seed, found, outputs[seed], stores[seed])
    if diverged:
        raise diverged[0]


def _keep(
    run: Run,
    work: Experiment,
    seed: int,
    result: Mapping[str, Any],
    files: Mapping[str, Path],
    store: SeedStore,
) -> None:
    """Write a finished seed's artifacts, and a copy that later runs can reuse."""
    work.save(run.target, seed, result)
    told = {
        "seconds": round(result["seconds"], 3),
        "best_epoch": result["best_epoch"],
        "epochs": result["epochs"],
        "rank_seconds": round(result["rank_seconds"], 4),
        "rank_users": len(result["ranks"]),
    }
    store.finish(files, **told)
    run.log("done", seed=seed, **told)
