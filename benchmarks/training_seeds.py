"""What several seeds cost in one training beside a single one: on CUDA at most 1.5x for five.

    python benchmarks/training_seeds.py --dataset toys

Reads a preprocessed data set below --root, and the spectrum of --encoder where --method needs it.
Times an epoch of --seeds seeds together (`pipeline/training/stacked.py`), one after another, and in
--processes single-thread processes side by side (`pipeline/training/side_by_side.py`), beside an
epoch of one seed, on --device; processes on a CPU only. Whole epochs count, validation included;
the first epoch together, in which a step is recorded, is printed apart, and the start of processes
is left out. Rounds alternate, medians count, and the load average is printed beside every round.

`--set train.width=4 --set train.batch_size=8` leaves little but the cost of launching, also on a
CPU. The limit holds for up to five seeds on CUDA devices; on a CPU seeds train one by one.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[1]
LIMIT = 1.5


class Epochs:
    """Sums the seconds of every epoch over seeds; `log` is a callback of `fit`."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.cpu: dict[int, float] = {}
        self.last = time.process_time()

    def log(self, event: str, **numbers: Any) -> None:
        """An epoch of a seed is done; seeds that train together share its time."""
        if event == "epoch":
            epoch = numbers["epoch"]
            now = time.process_time()
            self.seconds[epoch] = self.seconds.get(epoch, 0.0) + numbers["seconds"]
            self.cpu[epoch] = self.cpu.get(epoch, 0.0) + now - self.last
            self.last = now

    @property
    def first(self) -> float:
        """Seconds of the warm-up."""
        return self.seconds[1]

    @property
    def medians(self) -> tuple[float, float]:
        """Seconds and CPU seconds of an epoch after it."""
        wall, own = (list(kept.values())[1:] for kept in (self.seconds, self.cpu))
        return statistics.median(wall), statistics.median(own)


def cell(arguments: argparse.Namespace) -> Any:
    """Return the cell, whose training never stops early."""
    import yaml

    from pipeline.experiment.prepared import Experiment
    from pipeline.params import load

    changes = dict(pair.split("=", 1) for pair in arguments.set)
    params = load(arguments.params, {k: yaml.safe_load(v) for k, v in changes.items()})
    names = {
        name: getattr(arguments, name) for name in ("dataset", "encoder", "backbone", "method")
    }
    work = Experiment.prepare(params, arguments.root, 0, names)
    epochs = arguments.epochs + 1
    train = {"max_epochs": epochs, "patience": epochs, "seeds": list(range(arguments.seeds))}
    return dataclasses.replace(work, train=work.train.model_copy(update=train))


def one_seed(arguments: argparse.Namespace, seed: int, *, log: Any, advance: Any) -> None:
    """Be a child: train one seed."""
    from pipeline.training.fit import deterministic
    from pipeline.training.progress import Checkpoint

    work = cell(arguments)
    deterministic(arguments.device, 1)
    work.fit_seed(seed, device=arguments.device, checkpoint=Checkpoint(), log=log, advance=advance)


def in_processes(arguments: argparse.Namespace) -> float:
    """Return the seconds of an epoch of all seeds, each in a process of its own."""
    from pipeline.training.side_by_side import side_by_side

    took: list[float] = []

    def log(event: str, **numbers: Any) -> None:
        if event == "epoch" and numbers["epoch"] > 1:
            took.append(numbers["seconds"])

    jobs = {seed: partial(one_seed, arguments, seed) for seed in range(arguments.seeds)}
    side_by_side(jobs, arguments.processes, log=log, advance=lambda n: None)
    turns: int = math.ceil(arguments.seeds / arguments.processes)
    return statistics.median(took) * turns


def compare(arguments: argparse.Namespace) -> int:
    """Alternate the ways to train several seeds; on CUDA return 1 beyond the limit."""
    import torch

    from pipeline.training.fit import deterministic
    from pipeline.training.progress import Checkpoint
    from pipeline.training.stacked import fit_together

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if arguments.device == "auto":
        arguments.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    work = cell(arguments)
    deterministic(arguments.device, arguments.threads)
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}

    def alone(seeds: range) -> Epochs:
        clock = Epochs()
        for seed in seeds:
            work.fit_seed(
                seed,
                device=arguments.device,
                checkpoint=Checkpoint(),
                log=clock.log,
                advance=lambda n: None,
            )
        return clock

    def stacked() -> Epochs:
        clock = Epochs()
        methods = {seed: work._start(seed) for seed in work.seeds}
        found = fit_together(
            methods, work.inputs.sequences, work.train, device=arguments.device, log=clock.log
        )
        assert len(list(found)) == arguments.seeds
        return clock

    for number in range(arguments.rounds):
        load_before = os.getloadavg()[0]
        clocks = {"one seed": alone(range(1)), "together": stacked()}
        clocks["one after another"] = alone(range(arguments.seeds))
        found = {name: clock.medians[0] for name, clock in clocks.items()}
        for name, clock in clocks.items():
            cpu.setdefault(name, []).append(clock.medians[1])
        if arguments.device == "cpu":
            found["side by side"] = in_processes(arguments)
        for name, took in found.items():
            seconds.setdefault(name, []).append(took)
        told = ", ".join(f"{name} {value:.3f} s" for name, value in found.items())
        first = clocks["together"].first
        print(
            f"round {number + 1} load {load_before:.1f}: {told}; "
            f"first epoch together {first:.3f} s",
            flush=True,
        )
    base = statistics.median(seconds["one seed"])
    ratios = {name: statistics.median(took) / base for name, took in seconds.items()}
    own = statistics.median(cpu["one seed"])
    lighter = {name: statistics.median(took) / own for name, took in cpu.items()}
    print(
        f"{arguments.dataset}, {arguments.method} on {arguments.backbone}, {arguments.device}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}: an epoch of {arguments.seeds} seeds "
        f"costs, in epochs of one ({base:.3f} s):"
    )
    del ratios["one seed"]
    for name, ratio in ratios.items():
        also = f", {lighter[name]:.2f}x in CPU time" if name in lighter else ""
        print(f"  {name}: {ratio:.2f}x{also}")
    limited = arguments.device != "cpu" and arguments.seeds <= 5
    return int(limited and ratios["together"] > LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--encoder", default="none", help="whose spectrum is read")
    parser.add_argument("--backbone", default="sasrec")
    parser.add_argument("--method", default="id")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:N")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--params", type=Path, default=TREE / "params.yaml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="timed, after one more to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="how often")
    parser.add_argument("--processes", type=int, help="side by side; default: one per core")
    arguments = parser.parse_args()
    cores = arguments.processes or os.cpu_count() or 1
    arguments.processes = min(cores, arguments.seeds)
    return compare(arguments)


if __name__ == "__main__":
    sys.exit(main())
