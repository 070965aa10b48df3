"""Time and peak memory of the spectral decomposition, beside its bare matrix products.

    python benchmarks/spectrum.py                          60,000 x 4,096, one view: 1.5x, 2.5 GB
    python benchmarks/spectrum.py --views unit,centred     the same with both views
    python benchmarks/spectrum.py --items 1000000 --width 1024   from and to files, under 2 GB

Compared are, in one child process each and in turn: the project's own functions, reading the
embeddings from a file, decomposing, and writing U, S, V of every view to files; and, per view,
only the two products on numbers that are already in memory and in the right dtype: the Gram matrix
in float64 and the projection on all right vectors in float32, in chunks as the file has. Two ratios
are printed: against the Gram as a matrix product, and against the symmetric update that BLAS offers
for it, which is half the work and what the project itself uses. Reading, writing, conversion,
checksums, the eigendecomposition and the first touch of memory count against the project alone.
On a machine that is shared, set OPENBLAS_NUM_THREADS=1: threads that wait for each other beside
other programs cost many times their work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CELL = {"dataset": "bench", "encoder": "bench"}


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def make(root: Path, items: int, width: int) -> None:
    """Write embeddings with a common direction and a falling spectrum, as language models give."""
    from pipeline import tensorfile
    from pipeline.artifacts import SEMANTIC

    rng = np.random.default_rng(0)
    scale = np.geomspace(1, 0.01, width).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    shapes = {"values": (items + 1, width)}
    with tensorfile.write(SEMANTIC, root, shapes, items="bench", params={}, **CELL) as writer:
        writer.put("values", np.zeros((1, width), np.float32))
        for start in range(0, items, 4096):
            count = min(4096, items - start)
            rows = (rng.standard_normal((count, width), dtype=np.float32) * scale) @ turn
            writer.put("values", rows + 3 * turn[0], start + 1)


def whole(root: Path, views: list[str]) -> dict[str, float]:
    """The project's own code, file to file."""
    from pipeline import tensorfile
    from pipeline.artifacts import SEMANTIC
    from pipeline.spectral.decompose import decompose
    from pipeline.spectral.stats import describe
    from stages.run import Run
    from stages.spectrum import write_views

    start, cpu = time.perf_counter(), time.process_time()
    rows = tensorfile.open_rows(SEMANTIC, root, "values", **CELL)
    bases = decompose(rows, views, 1e-4)
    decomposed = time.perf_counter()
    run = Run("spectrum", out=root / "out", quiet=True)
    write_views(run, rows, bases, "bench", {}, CELL, lambda n: None)
    for basis in bases:
        describe(basis)
    end = time.perf_counter()
    return {
        "seconds": end - start,
        "cpu_s": time.process_time() - cpu,
        "first_pass_and_eigen_s": decomposed - start,
        "second_pass_s": end - decomposed,
        "components": float(len(bases[0].s)),
    }


def products(items: int, width: int, views: int) -> dict[str, float]:
    """The two matrix products of every view, and nothing else."""
    from scipy.linalg.blas import dgemm, dsyrk

    from pipeline.spectral.decompose import CHUNK_BYTES

    step = max(1, CHUNK_BYTES // (width * 4))
    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((step, width))
    single, weights = chunk.astype(np.float32), rng.random((width, width), dtype=np.float32)
    gram = np.zeros((width, width), order="F")
    dsyrk(1.0, chunk.T, beta=1.0, c=gram, overwrite_c=1)
    sink = single @ weights  # threads and pages are warm
    counts = [min(step, items - first) for first in range(0, items, step)]

    def timed(work: Callable[[int], object]) -> float:
        start = time.perf_counter()
        for _ in range(views):
            for count in counts:
                work(count)
        return time.perf_counter() - start

    symmetric = timed(lambda n: dsyrk(1.0, chunk[:n].T, beta=1.0, c=gram, overwrite_c=1))
    full = timed(
        lambda n: dgemm(1.0, chunk[:n].T, chunk[:n].T, beta=1.0, c=gram, trans_b=1, overwrite_c=1)
    )
    projection = timed(lambda n: np.matmul(single[:n], weights, out=sink[:n]))
    return {
        "seconds": full + projection,
        "symmetric_seconds": symmetric + projection,
        "gram_s": full,
        "symmetric_gram_s": symmetric,
        "projection_s": projection,
    }


def child(kind: str, arguments: argparse.Namespace, folder: str) -> dict[str, float]:
    """Run one part in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--part", kind, "--folder", folder]
    command += ["--items", str(arguments.items), "--width", str(arguments.width)]
    command += ["--views", arguments.views]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--views", default="unit")
    parser.add_argument("--rounds", type=int, default=1, help="alternated pairs; the median counts")
    parser.add_argument(
        "--folder", type=Path, default=Path("scratch"), help="where a temporary one is made"
    )
    parser.add_argument("--part", choices=["make", "whole", "products"])
    arguments = parser.parse_args()
    views = arguments.views.split(",")
    if arguments.part:
        if arguments.part == "make":
            make(arguments.folder, arguments.items, arguments.width)
            found = {}
        elif arguments.part == "whole":
            found = whole(arguments.folder, views)
        else:
            found = products(arguments.items, arguments.width, len(views))
        print(json.dumps({**found, "peak_gb": peak_bytes() / 1e9}))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        child("make", arguments, folder)
        ratios: list[float] = []
        symmetric: list[float] = []
        for _ in range(arguments.rounds):
            load = os.getloadavg()[0]
            bare, own = child("products", arguments, folder), child("whole", arguments, folder)
            ratios.append(own["seconds"] / bare["seconds"])
            symmetric.append(own["seconds"] / bare["symmetric_seconds"])
            print(f"load {load:.1f}  products {rounded(bare)}")
            print(
                f"          whole    {rounded(own)}  ratio {ratios[-1]:.2f}"
                f" (symmetric {own['seconds'] / bare['symmetric_seconds']:.2f})",
                flush=True,
            )
    shape = f"{arguments.items:,} x {arguments.width:,}, views {arguments.views}"
    both = f"{np.median(ratios):.2f}x its bare products, {np.median(symmetric):.2f}x symmetric"
    print(f"{shape}: {both}, peak {own['peak_gb']:.2f} GB")


def rounded(numbers: dict[str, float]) -> str:
    return " ".join(f"{key}={value:.2f}" for key, value in numbers.items())


if __name__ == "__main__":
    main()
