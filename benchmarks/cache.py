"""How long the first look-up in a large row cache takes, from a process that has just started.

    python benchmarks/cache.py                     10 million rows of width 8: under 2 s
    python benchmarks/cache.py --rows 1000000 --width 384 --rounds 3

Rows are made through the cache's own `append`, in a temporary folder (--folder names its parent).
Then, in a fresh process each time, the cache is opened and --queries texts are looked up, of which
half are there; those found are read. The whole process counts, start of Python and imports too;
`look-up` is opening and look-up alone. First as files lie in the system's memory after they were
written, then, as `disk`, after the system was asked to forget them; the host of a virtual machine
may still hold them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LIMIT_S = 2.0
MEANING = {"engine": "benchmark"}
BATCH = 100_000
QUERIES = "queries.npy"


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def hashes(seed: int, count: int) -> np.ndarray:
    """Numbers as evenly spread as SHA-256 gives: [n, 4] uint64."""
    return np.random.default_rng(seed).integers(0, 2**64, (count, 4), np.uint64)


def make(folder: Path, rows: int, width: int, queries: int) -> dict[str, float]:
    """Fill the cache and keep hashes to ask for: half from all over it, half never stored."""
    from pipeline.encoders.rows import RowCache

    started = time.perf_counter()
    batches = -(-rows // BATCH)
    each = -(-queries // (2 * batches))
    known = []
    with RowCache(folder, MEANING, width) as cache:
        for number in range(batches):
            texts = hashes(number, min(BATCH, rows - number * BATCH))
            values = np.repeat(texts[:, :1].astype(np.float32), width, axis=1)
            cache.append(texts, values, np.zeros(len(texts), np.uint32))
            known.append(texts[-each:].copy())
    seconds = time.perf_counter() - started
    stored = np.concatenate(known)[: queries // 2]
    np.save(folder / QUERIES, np.concatenate([stored, hashes(batches, queries - len(stored))]))
    return {"seconds": seconds}


def look_up(folder: Path, width: int) -> dict[str, float]:
    from pipeline.encoders.rows import ABSENT, RowCache

    wanted = np.load(folder / QUERIES)
    stored = len(wanted) // 2
    before = peak_bytes()
    started = time.perf_counter()
    cache = RowCache(folder, MEANING, width)
    places = cache.find(wanted)
    found = time.perf_counter()
    assert ((places != ABSENT) == (np.arange(len(wanted)) < stored)).all()
    values = cache.read(places[:stored])
    assert (values == wanted[:stored, :1].astype(np.float32)).all()
    return {
        "find_s": found - started,
        "peak_mb": peak_bytes() / 1e6,
        "peak_before_mb": before / 1e6,
    }


def forget(folder: Path) -> None:
    """Ask the system to drop the files from its memory; written pages go to the disk first."""
    for path in (p for p in folder.rglob("*") if p.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def child(part: str, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    for name in ("rows", "width", "queries"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return {"process_s": time.perf_counter() - started, **found}


def main() -> int:
    """Print one line per kind of look-up; exit 1 when the median misses the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--queries", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where a temporary one is made")
    parser.add_argument("--part", choices=["make", "look_up"])
    arguments = parser.parse_args()
    rows, width = arguments.rows, arguments.width
    if arguments.part == "make":
        print(json.dumps(make(arguments.folder, rows, width, arguments.queries)))
        return 0
    if arguments.part == "look_up":
        print(json.dumps(look_up(arguments.folder, width)))
        return 0
    worst = 0.0
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        made = child("make", arguments, folder)["seconds"]
        print(f"{rows:,} rows x {width} appended in {made:.1f} s", flush=True)
        for kind in ("memory", "disk"):
            rounds = []
            for _ in range(arguments.rounds):
                if kind == "disk":
                    forget(folder)
                rounds.append(child("look_up", arguments, folder))
            median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            worst = max(worst, median["process_s"])
            spread = " ".join(f"{one['process_s']:.2f}" for one in rounds)
            print(
                f"{kind}: median {median['process_s']:.2f} s of [{spread}], look-up "
                f"{median['find_s']:.2f} s, peak {median['peak_mb']:.0f} MB "
                f"({median['peak_before_mb']:.0f} before), load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    print(f"limit {LIMIT_S} s")
    return int(worst > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
