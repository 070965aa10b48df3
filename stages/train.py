"""`spectran train`: all seeds of one cell, from stored sequences and text to ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run, pick_device

if TYPE_CHECKING:
    from pipeline.experiment import Experiment

TOLD = ("seconds", "best_epoch", "epochs", "rank_seconds", "rank_users")
"""What the log says of a finished seed. The report reads its times there: a clock has no place in
artifacts."""


@command(
    "spectran train demo none sasrec id",
    "spectran train demo minilm sasrec spectran",
    "spectran train demo none none popularity",
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
) -> None:
    """Train every seed of one cell and rank the whole catalogue for every held-out user.

    Finished seeds and the state of the seed under way survive a kill: run the same command again.
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
    if run.plan(
        reads=work.reads,
        writes=written,
        memory_bytes=work.memory_bytes(),
        disk_bytes=work.disk_bytes(),
        device=device if work.trained else None,
    ):
        return
    deterministic(device, threads)
    run.log_to(dataset, encoder, backbone, method)
    for seed, files in outputs.items():
        _seed(run, work, seed, files, device, threads)
    run.done(
        written,
        f"{len(outputs)} seeds" if work.trained else "ranks",
        f"spectran evaluate {dataset}",
        seeds=list(outputs),
    )


def _seed(
    run: Run, work: Experiment, seed: int, files: dict[str, Path], device: str, threads: int
) -> None:
    from pipeline.files import TEMPORARY
    from pipeline.params import save_every_s
    from pipeline.training.store import SeedStore, key

    name = key({**work.identity(seed), "device": device.split(":")[0], "threads": threads})
    store = SeedStore(run.cache / "train" / name, save_every_s())
    if run.force:
        store.forget()
    record = store.finished()
    if record is not None:
        store.give(files, run.target / TEMPORARY)
        run.log("reuse", seed=seed, **{n: record[n] for n in TOLD if n in record})
        return
    total = work.train.max_epochs * work.histories if work.trained else None
    with run.progress(f"{work.cell['method']} seed {seed}", total, "histories") as advance:
        result: dict[str, Any] = work.run_seed(
            seed, device=device, checkpoint=store, log=run.log, advance=advance
        )
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
