"""Training speed of SASRec on item ids beside RecTools'.

    python benchmarks/training_rectools.py --dataset toys

Reads a preprocessed data set below --root. Epochs are timed after a warm-up, in alternated rounds,
and medians count. Where other programs run, ratios say more than speeds: the load average is
printed beside every round.

Counted are target positions (events that are predicted once per epoch) per second of the training
steps, drawing and collating of batches included; preparation, validation and the writing of state
are not. Both sides get the same sequences (every user's last L + 1 training events, items numbered
anew, so that both tables have the same rows), the same sizes (params.yaml; RecTools' layer has the
same parts and its feed-forward is D wide too), batch, dropout, optimiser (Adam), cosine,
temperature and number of negatives per target, and one process with --threads threads. What is
left: `spectran` draws negatives once per history, RecTools once per position; RecTools is also
timed with its softmax over the whole catalogue, which `spectran` is compared with as it is.

RecTools runs in an environment of its own, made by venv and pip at first use in --environment (2
GB). On Toys an epoch of its softmax took 79 s of CPU, one of the two others together 25 s:
--losses sampled_softmax leaves the softmax out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from clock import Clock

TREE = Path(__file__).resolve().parents[1]
RECTOOLS = "0.19.0"
LOSSES = ("sampled_softmax", "softmax")


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
    from pipeline.model import Parts, single
    from pipeline.objectives.ranking import ranking_loss
    from pipeline.params import load
    from pipeline.sampling.batches import windows
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


def child(python: Path, folder: Path, part: str, threads: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    limits = {name: str(threads) for name in names}
    # RecTools' Python must not find this project's packages, nor the caller's.
    paths = {"PYTHONPATH": str(TREE)} if part == "spectran" else {"PYTHONPATH": ""}
    command = [str(python), __file__, "--part", part, "--folder", str(folder)]
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
    if name == "spectran":
        found = ours(folder, settings)
    else:
        import rectools_side  # only its own environment can

        found = rectools_side.train(folder, settings, name)
    print(json.dumps(found))


def compare(arguments: argparse.Namespace) -> int:
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--params", type=Path, default=TREE / "params.yaml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="timed, after one more to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="how often")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES, help="of RecTools")
    parser.add_argument("--environment", type=Path, default=TREE / ".cache" / "rectools")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part(arguments.part, arguments.folder)
        return 0
    return compare(arguments)


if __name__ == "__main__":
    sys.exit(main())
