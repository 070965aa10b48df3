"""What text costs in training: an epoch of `spectran` beside one of `id`, at most 1.5x.

    python benchmarks/training_text.py --dataset toys

Reads a preprocessed data set and the spectrum of --encoder below --root. Epochs are timed after a
warm-up, one of each in turn, and medians count. Where other programs run, ratios say more than
seconds: the load average is printed beside every epoch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from clock import Clock, one_more_epoch

TREE = Path(__file__).resolve().parents[1]
LIMIT = 1.5


def compare(arguments: argparse.Namespace) -> int:
    """Alternate epochs of `spectran` and `id`; return 1 when text costs more than its limit."""
    from pipeline.experiment.prepared import Experiment
    from pipeline.model import Method
    from pipeline.params import load
    from pipeline.training.fit import deterministic, fit, initialised

    params = load(arguments.params)
    deterministic("cpu", arguments.threads)
    cells = []
    for encoder, name in (("none", "id"), (arguments.encoder, "spectran")):
        names = {"dataset": arguments.dataset, "encoder": encoder, "backbone": "sasrec"}
        work = Experiment.prepare(params, arguments.root, 0, {**names, "method": name})
        method = initialised(work.build, 0)  # type: ignore[arg-type]
        assert isinstance(method, Method)
        cells.append((name, work, method, one_more_epoch(), Clock()))
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
        f"id; its training steps alone {steps:.2f}x, {cpu:.2f}x in CPU time. Limit {LIMIT}x."
    )
    return int(whole > LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--encoder", default="minilm", help="whose spectrum is read")
    parser.add_argument("--root", type=Path, default=Path("artifacts"))
    parser.add_argument("--params", type=Path, default=TREE / "params.yaml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="timed, after one more to warm up")
    return compare(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
