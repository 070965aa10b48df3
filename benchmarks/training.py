"""Training speed of SASRec on item ids beside RecTools', the cost of text, and of several seeds.

    python benchmarks/training.py rectools --dataset toys      targets per second of both
    python benchmarks/training.py text --dataset toys          `spectran` beside `id`: at most 1.5x
    python benchmarks/training.py seeds --dataset toys         five seeds beside one: at most 1.5x

All read a preprocessed data set below --root; `text` also the spectrum of --encoder. Epochs are
timed after a warm-up, in alternated rounds, and medians count. Where other programs run, ratios
say more than speeds: the load average is printed beside every round.

rectools: counted are target positions (events that are predicted once per epoch) per second of the
training steps, drawing and collating of batches included; preparation, validation and the writing
of state are not. Both sides get the same sequences (every user's last L + 1 training events, items
numbered anew, so that both tables have the same rows), the same sizes (params.yaml; RecTools' layer
has the same parts and its feed-forward is D wide too), batch, dropout, optimiser (Adam), cosine,
temperature and number of negatives per target, and one process with --threads threads. What is
left: `spectran` draws negatives once per history, RecTools once per position; RecTools is also
timed with its softmax over the whole catalogue, which `spectran` is compared with as it is.
RecTools runs in an environment of its own, made by venv and pip at first use in --environment
(2 GB). On Toys an epoch of its softmax took 79 s of CPU, one of the two others together 25 s:
--losses sampled_softmax leaves the softmax out.

seeds: an epoch of --seeds seeds together (`pipeline/training/stacked.py`), one after another, and
in single-thread processes side by side, beside an epoch of one seed, on --device. Whole epochs
count, validation and copies of the state included; the first of each, in which a step is recorded,
is told apart. `--set train.width=4 --set train.batch_size=8` leaves little but the cost of
launching, also on a CPU. The limit holds for CUDA devices; on a CPU seeds train one by one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TREE = Path(__file__).resolve().parents[1]
RECTOOLS = "0.19.0"
TEXT_LIMIT = 1.5
SEEDS_LIMIT = 1.5
LOSSES = ("sampled_softmax", "softmax")


class Clock:
    """Times the training steps of every epoch; `advance` and `log` are callbacks of `fit`."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        """Seconds from an epoch's beginning to its last step."""
        self.cpu: list[float] = []
        """CPU seconds of the same stretch: what other programs disturb least."""
        self.whole: list[float] = []
        """Seconds of whole epochs: steps, validation, copies of the state."""
        self.begin()

    def begin(self) -> None:
        """An epoch begins."""
        self.begun = self.last = (time.perf_counter(), time.process_time())

    def advance(self, histories: int) -> None:
        """A step is done."""
        self.last = (time.perf_counter(), time.process_time())

    def log(self, event: str, **numbers: Any) -> None:
        """An epoch is done, or a run resumes; in both cases the next epoch begins."""
        if event == "epoch":
            self.end()
            self.whole.append(numbers["seconds"])
        self.begin()

    def end(self) -> None:
        """Keep what the epoch took."""
        self.steps.append(self.last[0] - self.begun[0])
        self.cpu.append(self.last[1] - self.begun[1])


# ---------------------------------------------------------------- beside RecTools


def environment(folder: Path) -> Path:
    """Return the Python of RecTools' own environment; make it when it is not there."""
    import torch

    python = folder / "bin" / "python"
    packages = [f"rectools[torch]=={RECTOOLS}", f"torch=={torch.__version__.split('+')[0]}"]
    stamp = folder / ".installed"
    if stamp.exists() and stamp.read_text() == " ".join(packages):
        return python
    print(f"Installing {' '.join(packages)} into {folder}; only once.", flush=True)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-input", *packages]
    subprocess.run(install, check=True)
    stamp.write_text(" ".join(packages))
    return python


def make(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write what both sides read, sequences.npz and settings.json; return the settings."""
    from pipeline.params import load
    from pipeline.values import Catalog, Sequences

    params = load(arguments.params)
    train = params.train_for(arguments.dataset, "sasrec", "id")
    sizes = params.backbones["sasrec"]
    catalog = Catalog.load(arguments.root, arguments.dataset)
    data = Sequences.load(arguments.root, arguments.dataset, catalog)
    begin = np.maximum(data.train_end - sizes["history"] - 1, 0)
    lengths = np.where(data.train_end >= 2, data.train_end - begin, 0)
    first = (data.offsets[:-1] + begin)[lengths > 0]
    lengths = lengths[lengths > 0]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1])
    kept, items = np.unique(data.items[place], return_inverse=True)
    np.savez(folder / "sequences.npz", items=items + 1, offsets=offsets)
    settings = {
        "params": str(arguments.params.resolve()),
        "dataset": arguments.dataset,
        "threads": arguments.threads,
        "epochs": arguments.epochs,
        "num_items": len(kept),
        "targets": int((lengths - 1).sum()),
        "histories": len(lengths),
        "width": train.width,
        "dropout": train.dropout,
        "batch_size": train.batch_size,
        "learning_rate": train.learning_rate,
        "negatives": train.loss.negatives,
        "similarity": train.loss.similarity,
        "temperature": train.loss.temperature,
        **{name: sizes[name] for name in ("history", "blocks", "heads")},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return settings


def ours(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the `id` cell on sasrec."""
    import pyarrow as pa
    import torch

    from pipeline import naming
    from pipeline.adapters import IdTable
    from pipeline.backbones import sasrec
    from pipeline.data.batches import windows
    from pipeline.model import Parts, single
    from pipeline.objectives.ranking import ranking_loss
    from pipeline.params import load
    from pipeline.training.fit import deterministic, fit, initialised
    from pipeline.values import Sequences

    stored = np.load(folder / "sequences.npz")
    # One more user, whose second event validates: training must have something to watch.
    offsets = np.append(stored["offsets"], stored["offsets"][-1] + 2)
    users = len(offsets) - 1
    valid_at = np.full(users, -1)
    valid_at[-1] = 1
    train_end = np.diff(offsets)
    train_end[-1] = 0
    data = Sequences(
        raw_users=pa.array([str(n) for n in range(users)]),
        items=np.append(stored["items"], [1, 2]).astype(np.int64),
        times=None,
        offsets=offsets,
        train_end=train_end,
        valid_at=valid_at,
        test_at=np.full(users, -1),
        num_items=settings["num_items"],
        fingerprint="",
    )
    params = load(Path(settings["params"]))
    epochs = settings["epochs"] + 1
    train = params.train_for(settings["dataset"], "sasrec", "id")
    train = train.model_copy(update={"max_epochs": epochs, "patience": epochs})
    sizes = naming.settings("backbones", "sasrec", params.backbones)
    assert isinstance(sizes, sasrec.Config)
    parts = Parts(
        train,
        lambda width: sasrec.build(sizes, width, train.dropout),
        lambda: ranking_loss(train.loss, data.train_counts()),
    )
    method = initialised(
        lambda: single(IdTable(data.num_items, train.width, train.item_std), parts), 0
    )
    cut = windows(data, sizes.history, train.positions)
    targets = int((cut.take(np.arange(len(cut)))[1] > 0).sum())
    deterministic("cpu", settings["threads"])
    clock = Clock()
    fit(method, data, train, 0, log=clock.log, advance=clock.advance)
    return {
        "seconds": clock.steps[1:],
        "cpu": clock.cpu[1:],
        "targets": targets,
        "parameters": sum(p.numel() for p in method.model.parameters()),
        "versions": {"torch": torch.__version__},
    }


def theirs(folder: Path, settings: dict[str, Any], loss: str) -> dict[str, Any]:
    """Train RecTools' SASRec; runs in its environment."""
    import logging
    import warnings

    import pandas as pd
    import pytorch_lightning as lightning
    import rectools
    import torch
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel
    from rectools.models.nn.item_net import IdEmbeddingsItemNet

    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(settings["threads"])
    stored = np.load(folder / "sequences.npz")
    lengths = np.diff(stored["offsets"])
    events = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(lengths)), lengths),
            "item_id": stored["items"],
            "weight": 1.0,
            "datetime": pd.Timestamp("2020-01-01")
            + pd.to_timedelta(np.arange(len(stored["items"])), unit="s"),
        }
    )

    class Timer(lightning.Callback):
        """RecTools copies it with its trainer, so what it finds is kept outside."""

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            clock.begin()

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if trainer.current_epoch == 0:  # the warm-up
                targets.append(int((batch["y"] > 0).sum()))

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            clock.advance(0)
            clock.end()

    clock = Clock()
    targets: list[int] = []

    def trainer() -> Any:
        return lightning.Trainer(
            max_epochs=settings["epochs"] + 1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Timer()],
        )

    model = SASRecModel(
        n_blocks=settings["blocks"],
        n_heads=settings["heads"],
        n_factors=settings["width"],
        session_max_len=settings["history"],
        dropout_rate=settings["dropout"],
        loss=loss,
        n_negatives=settings["negatives"],
        lr=settings["learning_rate"],
        batch_size=settings["batch_size"],
        item_net_block_types=(IdEmbeddingsItemNet,),
        similarity_module_kwargs={"distance": settings["similarity"]},
        lightning_module_kwargs={"logits_t": settings["temperature"]},
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(events))
    network = model.lightning_model.torch_model
    return {
        "seconds": clock.steps[1:],
        "cpu": clock.cpu[1:],
        "targets": sum(targets),
        "parameters": sum(p.numel() for p in network.parameters()),
        "versions": {
            "rectools": rectools.__version__,
            "torch": torch.__version__,
            "pytorch_lightning": lightning.__version__,
        },
    }


def child(python: Path, folder: Path, part: str, threads: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    limits = {name: str(threads) for name in names}
    # RecTools' Python must not find this project's packages, nor the caller's.
    paths = {"PYTHONPATH": str(TREE)} if part == "spectran" else {"PYTHONPATH": ""}
    command = [str(python), __file__, "rectools", "--part", part, "--folder", str(folder)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits, **paths}
    )
    if done.returncode:
        raise SystemExit(f"{part} failed with status {done.returncode}; see above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def part(name: str, folder: Path) -> None:
    """Be a child: train one side and print its numbers as the last line."""
    settings = json.loads((folder / "settings.json").read_text())
    found = ours(folder, settings) if name == "spectran" else theirs(folder, settings, name)
    print(json.dumps(found))


def beside_rectools(arguments: argparse.Namespace) -> int:
    """Alternate both sides and print speeds and ratios."""
    python = environment(arguments.environment.absolute())
    sides = {"spectran": Path(sys.executable), **dict.fromkeys(arguments.losses, python)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = make(arguments, folder)
        shown = {k: v for k, v in settings.items() if k not in ("params", "dataset")}
        print(f"{arguments.dataset}:", " ".join(f"{k}={v}" for k, v in shown.items()))
        for number in range(arguments.rounds):
            for side, program in sides.items():
                load = os.getloadavg()[0]
                found = child(program, folder, side, arguments.threads)
                assert found["targets"] == settings["targets"], "both sides must see the same"
                seconds[side] += found["seconds"]
                cpu[side] += found["cpu"]
                if number == 0:
                    print(f"{side}: parameters={found['parameters']} {found['versions']}")
                pairs = zip(found["seconds"], found["cpu"], strict=True)
                took = ", ".join(f"{wall:.2f} s ({own:.2f} s of CPU)" for wall, own in pairs)
                print(f"round {number + 1} load {load:.1f} {side}: epochs {took}", flush=True)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("Target positions per second of training steps (of CPU time), medians:")
    for side in sides:
        wall, own = statistics.median(seconds[side]), statistics.median(cpu[side])
        speed = f"{settings['targets'] / wall:,.0f} ({settings['targets'] / own:,.0f})"
        if side == "spectran":
            print(f"  spectran, {settings['negatives']} negatives: {speed}")
            continue
        faster = wall / statistics.median(seconds["spectran"])
        lighter = own / statistics.median(cpu["spectran"])
        print(
            f"  RecTools, {side}: {speed}; spectran is {faster:.2f} ({lighter:.2f}) times as fast"
        )
    return 0


# ---------------------------------------------------------------- text


def with_text(arguments: argparse.Namespace) -> int:
    """Alternate epochs of `spectran` and `id`; return 1 when text costs more than its limit."""
    from pipeline.experiment import Experiment
    from pipeline.model import Method
    from pipeline.params import load
    from pipeline.training.fit import Checkpoint, Progress, deterministic, fit, initialised

    class Memory(Checkpoint):
        """Keeps progress between calls, so that each call trains one more epoch."""

        progress: Progress | None = None

        def load(self) -> Progress | None:
            return self.progress

        def save(self, progress: Progress) -> None:
            self.progress = progress

    params = load(arguments.params)
    deterministic("cpu", arguments.threads)
    cells = []
    for encoder, name in (("none", "id"), (arguments.encoder, "spectran")):
        names = {"dataset": arguments.dataset, "encoder": encoder, "backbone": "sasrec"}
        work = Experiment.prepare(params, arguments.root, 0, {**names, "method": name})
        method = initialised(work.build, 0)  # type: ignore[arg-type]
        assert isinstance(method, Method)
        cells.append((name, work, method, Memory(), Clock()))
    for number in range(arguments.epochs + 1):
        for name, work, method, memory, clock in cells:
            load_before = os.getloadavg()[0]
            # Never stop early: every call trains epoch `number` alone.
            update = {"max_epochs": number + 1, "patience": number + 2}
            train = work.train.model_copy(update=update)
            clock.begin()
            fit(
                method,
                work.inputs.sequences,
                train,
                0,
                checkpoint=memory,
                log=clock.log,
                advance=clock.advance,
            )
            print(
                f"{'epoch ' + str(number) if number else 'warm-up'} load {load_before:.1f} {name}: "
                f"steps {clock.steps[-1]:.2f} s ({clock.cpu[-1]:.2f} s of CPU), "
                f"whole {clock.whole[-1]:.2f} s",
                flush=True,
            )
    plain, text = (clock for *_, clock in cells)
    pairs = ((text.steps, plain.steps), (text.cpu, plain.cpu), (text.whole, plain.whole))
    steps, cpu, whole = (
        statistics.median(theirs[1:]) / statistics.median(own[1:]) for theirs, own in pairs
    )
    print(
        f"{arguments.dataset}, {arguments.encoder}: an epoch of spectran costs {whole:.2f}x one of "
        f"id; its training steps alone {steps:.2f}x, {cpu:.2f}x in CPU time. Limit {TEXT_LIMIT}x."
    )
    return int(whole > TEXT_LIMIT)


# ---------------------------------------------------------------- seeds


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

    from pipeline.experiment import Experiment
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


def one_seed(arguments: argparse.Namespace) -> None:
    """Be a child: train one seed; after the warm-up wait for a line."""
    from pipeline.training.fit import Checkpoint, deterministic

    work = cell(arguments)
    deterministic(arguments.device, 1)

    def log(event: str, **numbers: Any) -> None:
        if event == "epoch" and numbers["epoch"] == 1:
            print("ready", flush=True)
            sys.stdin.readline()

    work.fit_seed(
        int(arguments.part),
        device=arguments.device,
        checkpoint=Checkpoint(),
        log=log,
        advance=lambda n: None,
    )
    print("done", flush=True)


def side_by_side(arguments: argparse.Namespace) -> float:
    """Return the seconds of an epoch of all seeds, each in a process of its own."""
    command = [sys.executable, *sys.argv, "--device", arguments.device]
    environment = {**os.environ, "PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [*command, "--part", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for seed in range(arguments.seeds)
    ]

    def await_line(child: subprocess.Popen[str], expected: str) -> None:
        assert child.stdout is not None
        if child.stdout.readline().strip() != expected:
            raise SystemExit("a process of one seed failed; see above.")

    for child in children:
        await_line(child, "ready")
    started = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        await_line(child, "done")
    seconds = time.perf_counter() - started
    for child in children:
        child.wait()
    return seconds / arguments.epochs


def several_seeds(arguments: argparse.Namespace) -> int:
    """Alternate the ways to train several seeds; on CUDA return 1 beyond the limit."""
    import torch

    from pipeline.training.fit import Checkpoint, deterministic
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
        load = os.getloadavg()[0]
        clocks = {"one seed": alone(range(1)), "together": stacked()}
        clocks["one after another"] = alone(range(arguments.seeds))
        found = {name: clock.medians[0] for name, clock in clocks.items()}
        for name, clock in clocks.items():
            cpu.setdefault(name, []).append(clock.medians[1])
        found["side by side"] = side_by_side(arguments)
        for name, took in found.items():
            seconds.setdefault(name, []).append(took)
        took = ", ".join(f"{name} {value:.3f} s" for name, value in found.items())
        first = clocks["together"].first
        print(
            f"round {number + 1} load {load:.1f}: {took}; first epoch together {first:.3f} s",
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
    for name in ("together", "one after another", "side by side"):
        also = f", {lighter[name]:.2f}x in CPU time" if name in lighter else ""
        print(f"  {name}: {ratios[name]:.2f}x{also}")
    return int(arguments.device != "cpu" and ratios["together"] > SEEDS_LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", choices=["rectools", "text", "seeds"])
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--encoder", help="text, seeds: whose spectrum is read")
    parser.add_argument("--backbone", default="sasrec", help="seeds")
    parser.add_argument("--method", default="id", help="seeds")
    parser.add_argument("--seeds", type=int, default=5, help="seeds: how many")
    parser.add_argument("--device", default="auto", help="seeds: auto, cpu or cuda:N")
    parser.add_argument("--set", action="append", default=[], help="seeds: KEY=VALUE")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--params", type=Path, default=TREE / "params.yaml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="timed, after one more to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="rectools, seeds: how often")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES, help="of RecTools")
    parser.add_argument("--environment", type=Path, default=TREE / ".cache" / "rectools")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.encoder is None:
        arguments.encoder = "none" if arguments.comparison == "seeds" else "minilm"
    if arguments.part and arguments.comparison == "seeds":
        one_seed(arguments)
        return 0
    if arguments.part:
        part(arguments.part, arguments.folder)
        return 0
    comparisons = {"rectools": beside_rectools, "text": with_text, "seeds": several_seeds}
    return comparisons[arguments.comparison](arguments)


if __name__ == "__main__":
    sys.exit(main())
