"""What methods cost: trained parameters, seconds of an epoch, seconds to rank all test users.

    python benchmarks/efficiency.py --dataset toys --encoder minilm --csv efficiency.csv

Source: SpecTran, Table 5. Reads a preprocessed data set, and the text or spectrum of --encoder,
below --root. Models are freshly initialised: speed does not depend on the weights. Zeros that
SpecTran's shrinkage leaves would matter to sparse products only, and its products are dense.

- epoch: a whole one, with validation and copies of the state; of the last phase where a method has
  several. Its steps stand beside it (on CUDA up to the launch of the last).
- ranking: one pass over the test users against the whole catalogue, the item table built first.

Methods alternate, the first round of each warms up, and medians of the others count. Where other
programs run, ratios say more than seconds: the load average is printed with every round.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from clock import Clock, one_more_epoch

TREE = Path(__file__).resolve().parents[1]
METHODS = ("id", "unisrec", "rlmrec", "llm_esr", "whitenrec", "spectran")


def sides(arguments: argparse.Namespace) -> list[Any]:
    """Return the cells, ready to be timed."""
    import torch
    import yaml

    from pipeline import naming
    from pipeline.cells import NONE
    from pipeline.evaluation.ranks import count, questions
    from pipeline.experiment.prepared import Experiment
    from pipeline.model import Method
    from pipeline.params import load
    from pipeline.sampling.batches import held_out
    from pipeline.training.fit import fit, initialised
    from pipeline.training.parameters import trained_numbers

    class Side:
        """One method."""

        def __init__(self, name: str, work: Experiment) -> None:
            self.name, self.work = name, work
            method = initialised(work.build, 0)  # type: ignore[arg-type]
            assert isinstance(method, Method)
            self.method, self.memory, self.clock = method, one_more_epoch(), Clock()
            self.numbers = trained_numbers(method)
            self.ranking: list[float] = []
            model, data = method.model.to(arguments.device).eval(), work.inputs.sequences
            held = held_out(data, "test", times=model.reads_times)
            self.users = len(held)
            self.asked = list(questions(held, model.length, data.num_items, arguments.device))

        def rank(self) -> None:
            """Rank all test users once."""
            self.wait()
            started = time.perf_counter()
            with torch.inference_mode():
                count(self.method.model.ranker(self.work.train.ranking), self.asked)
            self.wait()
            self.ranking.append(time.perf_counter() - started)

        def train(self, number: int) -> None:
            """Train one more epoch; never stop early."""
            update = {"max_epochs": number, "patience": number + 1}
            self.clock.begin()
            fit(
                self.method,
                self.work.inputs.sequences,
                self.work.train.model_copy(update=update),
                0,
                device=arguments.device,
                checkpoint=self.memory,
                log=self.clock.log,
                advance=self.clock.advance,
            )

        def wait(self) -> None:
            if arguments.device != "cpu":
                torch.cuda.synchronize()

    changes = dict(pair.split("=", 1) for pair in arguments.set)
    params = load(arguments.params, {k: yaml.safe_load(v) for k, v in changes.items()})
    found = []
    for name in arguments.methods:
        file = naming.file_of("methods", name, params.methods)
        settings: Any = naming.settings("methods", name, params.methods)
        reads_text = bool(naming.needs(naming.module("methods", file), settings))
        names = {"dataset": arguments.dataset, "encoder": arguments.encoder if reads_text else NONE}
        names |= {"backbone": arguments.backbone, "method": name}
        found.append(Side(name, Experiment.prepare(params, arguments.root, 0, names)))
    return found


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all methods in turn; return a row for each."""
    import torch

    from pipeline.training.fit import deterministic

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if arguments.device == "auto":
        arguments.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    deterministic(arguments.device, arguments.threads)
    timed = sides(arguments)
    # First, since training changes the models.
    for number in range(arguments.passes + 1):
        told(f"ranking {number}" if number else "ranking, warm-up")
        for side in timed:
            side.rank()
    for number in range(arguments.epochs + 1):
        told(f"epoch {number}" if number else "epoch, warm-up")
        for side in timed:
            side.train(number + 1)
    print(
        f"\n{arguments.dataset}, {arguments.encoder}, {arguments.backbone}, {timed[0].users} test "
        f"users, width {timed[0].work.train.width}, {arguments.device}, {arguments.threads} of "
        f"{os.cpu_count()} cores, torch {torch.__version__}\n"
    )
    return [
        {
            "method": side.name,
            "method_parameters": side.numbers.method,
            "backbone_parameters": side.numbers.backbone,
            "parameters": sum(side.numbers),
            "epoch_s": statistics.median(side.clock.whole[-arguments.epochs :]),
            "steps_s": statistics.median(side.clock.steps[-arguments.epochs :]),
            "rank_s": statistics.median(side.ranking[1:]),
        }
        for side in timed
    ]


def told(what: str) -> None:
    """Print what begins, and the load before it."""
    print(f"{what}: load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table; ratios are to the first method."""
    first = rows[0]
    titles = ["method", "parameters", "epoch (s)", "ratio", "its steps (s)", "ranking (s)", "ratio"]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for row in rows:
        epoch, ranking = (f"{row[name] / first[name]:.2f}x" for name in ("epoch_s", "rank_s"))
        line = [f"`{row['method']}`", f"{row['parameters']:,}", f"{row['epoch_s']:.3f}", epoch]
        lines.append([*line, f"{row['steps_s']:.3f}", f"{row['rank_s']:.4f}", ranking])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--encoder", default="minilm", help="for the methods that read text")
    parser.add_argument("--backbone", default="sasrec")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="ratios are to the first")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:N")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--params", type=Path, default=TREE / "params.yaml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="timed, after one more to warm up")
    parser.add_argument("--passes", type=int, default=5, help="rankings, likewise")
    parser.add_argument("--csv", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    rows = compare(arguments)
    print(markdown(rows))
    if arguments.csv:
        with arguments.csv.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
