"""What a text method's item table costs, SpecTran's with wide text above all, and cheaper forms.

    python benchmarks/adapter.py                                    4,096 components, Toys' items
    python benchmarks/adapter.py --items 100000 --components 1024   a larger catalogue
    python benchmarks/adapter.py --items 100000 --components 384 --method unisrec

No data are read: text, spectrum, items and negatives are drawn, in the sizes of params.yaml.
Timed are whole training steps (forward, backward, Adam) of SASRec with bare item ids, with the
table of all items, and with the rows of the batch's items alone (`training/selection.py`, exact:
the same loss and gradients), in alternated rounds; medians count. For SpecTran are told beside them
the table's product alone, the same product in chunks of rows, and as a sparse product with shares
of zeros that shrinkage could leave (columns of U^T in place, and U^T copied once beforehand).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pipeline import naming
from pipeline.checks.standin import StandIn
from pipeline.config import Params
from pipeline.experiment.parts import builder, code_of
from pipeline.methods.spectran import SpectralAttention
from pipeline.model import Method
from pipeline.params import load
from pipeline.sampling.batches import Batch, History
from pipeline.training.fit import deterministic
from pipeline.training.parameters import modules_of
from pipeline.training.selection import select
from pipeline.training.steps import adam, adapters, loss_of, thaw

TREE = Path(__file__).resolve().parents[1]
ZEROS = (0.6, 0.9, 0.97, 0.99)
CHUNK = 1024
METHODS = ("spectran", "morec", "unisrec", "whitenrec")
"""Those whose steps may compute the batch's items alone."""


class Side:
    """A model, its optimiser, and the seconds of its steps."""

    def __init__(self, params: Params, name: str, inputs: StandIn, *, selected: bool) -> None:
        made = builder(
            code_of("methods", name, params.methods),
            code_of("backbones", "sasrec", params.backbones),
            naming.settings("methods", name, params.methods),
            naming.settings("backbones", "sasrec", params.backbones),
            inputs,
            params.train,
            "train.width",
        )()
        assert isinstance(made, Method)
        self.model, (self.phase,) = made.model, made.phases
        modules = modules_of(made)
        self.optimizer = adam(thaw(modules, self.phase), modules, params.train)
        self.selected = selected
        self.seconds: list[float] = []

    def step(self, batch: Batch) -> None:
        """Take one step and time it."""
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        items, given = select(batch) if self.selected else (None, batch)
        loss_of(self.model, self.phase, given, items).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for adapter in adapters(self.model):
            adapter.after_step()
        self.seconds.append(time.perf_counter() - started)

    @property
    def median(self) -> float:
        """Seconds of a step after the warm-up."""
        return statistics.median(self.seconds[1:])


def batch_of(items: int, size: int, length: int, negatives: int) -> Batch:
    """Return a batch of items drawn uniformly: the most different ones that a batch can hold."""
    histories = torch.randint(1, items + 1, (size, length + 1))
    return Batch(
        History(histories[:, :-1]), histories[:, 1:], torch.randint(1, items + 1, (size, negatives))
    )


def timed(work: Callable[[], Tensor], rounds: int) -> float:
    """Return the median seconds of calls after the first."""
    work()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def products(adapter: SpectralAttention, rounds: int) -> None:
    """Print the seconds of the table's product in several forms."""
    u = adapter.u
    with torch.inference_mode():
        weights = torch.randn(adapter.width, u.shape[1])
        dense = timed(lambda: u @ weights.T, rounds)
        chunks = torch.split(u, CHUNK)
        parts = timed(lambda: torch.cat([chunk @ weights.T for chunk in chunks]), rounds)
        print(f"product U W^T alone: {dense:.3f} s; in chunks of {CHUNK} rows {parts:.3f} s")
        copied = u.T.contiguous()
        for share in ZEROS:
            sparse = torch.where(torch.rand_like(weights) < share, 0.0, weights).to_sparse_csr()
            place = timed(partial(torch.matmul, sparse, u.T), rounds)
            copy = timed(partial(torch.matmul, sparse, copied), rounds)
            print(f"  sparse, {share:.0%} zeros: {place:.3f} s, U^T copied beforehand {copy:.3f} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=11_757)
    parser.add_argument("--components", type=int, default=4096)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--params", type=Path, default=TREE / "params.yaml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    deterministic("cpu", arguments.threads)
    torch.manual_seed(0)
    params, items, name = load(arguments.params), arguments.items, arguments.method
    train = params.train
    inputs = StandIn(arguments.components, train.width, items)
    sides = {
        "item ids": Side(params, "id", inputs, selected=False),
        f"{name}, all items": Side(params, name, inputs, selected=False),
        f"{name}, the batch's": Side(params, name, inputs, selected=True),
    }
    length = sides["item ids"].model.length
    negatives = getattr(train.loss, "negatives", 0)
    print(
        f"{items} items, {arguments.components} components, width {train.width}, batch "
        f"{train.batch_size}, history {length}, {negatives} negatives, "
        f"{arguments.threads} of {os.cpu_count()} cores, torch {torch.__version__}"
    )
    for number in range(arguments.rounds + 1):
        batch = batch_of(items, train.batch_size, length, negatives)
        for side in sides.values():
            side.step(batch)
        if number == 0:
            touched = len(select(batch)[0])
            print(f"a batch touches {touched} rows, {touched / items:.0%} of the catalogue")
    bare = sides["item ids"].median
    print(
        f"{platform.machine()}, load {os.getloadavg()[0]:.1f}; a step, and times that of item ids:"
    )
    for told, side in sides.items():
        print(f"  {told}: {side.median:.3f} s, {side.median / bare:.1f}x")
    adapter = sides[f"{name}, all items"].model.item_tables[0]
    if isinstance(adapter, SpectralAttention):
        products(adapter, arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
