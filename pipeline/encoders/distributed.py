"""Encoding on several devices or machines through Ray Data.

Batches are formed here and their rows come back here, so that the row cache has one writer and
holds what one process would have put there: the same batches, whoever encodes them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import errors
from pipeline.encoders import open_encoder
from pipeline.encoders.batches import Batch, Store
from pipeline.encoders.hub import need
from pipeline.errors import ResourceError, SpectranError

if TYPE_CHECKING:
    from pipeline.config.text import TextEncoder


PER_FILE = 16
"""Batches per file of the work list: what a worker takes at a time, and what a kill can cost."""
CPUS = 0.5
"""What an engine asks of Ray's count; a whole one each would leave none to read the work list."""


class _Worker:
    """One engine on one device, kept for all batches that come its way."""

    def __init__(self, spec: TextEncoder, base: Path, device: str, threads: int | None) -> None:
        self._engine = open_encoder(spec, base, device, threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        inputs = json.loads(row.pop("inputs"))
        try:
            rows = self._engine.encode(inputs)
        except SpectranError as error:  # raised where the command runs
            return {**row, "rows": b"", "error": f"{type(error).__name__} {error}"}
        return {**row, "rows": np.ascontiguousarray(rows, np.float32).tobytes(), "error": ""}


def fill(
    batches: Iterator[Batch],
    store: Store,
    spec: TextEncoder,
    base: Path,
    *,
    workers: int,
    device: str,
    threads: int | None,
    scratch: Path,
) -> None:
    """Encode batches on `workers` engines and store their rows.

    device: cpu, or cuda: each worker then has a GPU of its own (vllm: its tensor_parallel GPUs).
    scratch: folder for the work list, which is removed again. A Ray cluster is used where
    RAY_ADDRESS names one; its machines must see `scratch`, the models and this code.
    Raises ConfigError when Ray is not installed, ResourceError when it has too few GPUs or CPUs.
    """
    need("ray", "ray")
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home
    listed = scratch / f"{os.getpid()}-batches"
    on_gpu = device.startswith("cuda")
    try:
        if not _write(batches, listed):
            return
        try:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ResourceError(
                f"--workers: no Ray cluster answers at {os.environ.get('RAY_ADDRESS')} (RAY_ADDRESS"
                f"): {str(error).splitlines()[0]} Start it, or unset RAY_ADDRESS to work here."
            ) from None
        gpus = getattr(spec, "tensor_parallel", 1) if on_gpu else 0
        _check(workers, gpus, ray.cluster_resources())  # type: ignore[no-untyped-call]
        logging.getLogger("ray").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        # In any order: a row depends on its own batch only.
        done = ray.data.read_parquet(str(listed)).map(
            _Worker,  # type: ignore[arg-type]  # a class is made once per worker
            fn_constructor_args=(spec, base.resolve(), "cuda:0" if on_gpu else device, threads),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=CPUS,
            num_gpus=gpus or None,
        )
        for row in done.iter_rows():
            if row["error"]:
                name, _, problem = row["error"].partition(" ")
                raise getattr(errors, name)(problem)
            rows = np.frombuffer(row["rows"], np.float32)
            batch = _read(row)
            store.add(batch, rows.reshape(len(batch.items), -1))
        store.flush()
    finally:
        if ray.is_initialized():
            ray.shutdown()
        shutil.rmtree(listed, ignore_errors=True)


def _check(workers: int, gpus: int, found: Mapping[str, float]) -> None:
    """Raise ResourceError for more engines than Ray has room for: it would wait without end.

    gpus: for each engine. One CPU is left to read the work list.
    """
    wanted = {"GPU": float(workers * gpus), "CPU": workers * CPUS + 1}
    for kind, count in wanted.items():
        have = found.get(kind, 0.0)
        if count > have:
            room = have // gpus if kind == "GPU" else (have - 1) // CPUS
            raise ResourceError(
                f"--workers {workers}: Ray would need {count:g} {kind}s, it has {have:g}. "
                f"Set --workers to {max(0, int(room))} or less (0: without Ray)."
            )


_SCHEMA = pa.schema(
    [(name, pa.binary()) for name in ("items", "hashes", "tokens")] + [("inputs", pa.string())]
)


def _write(batches: Iterator[Batch], folder: Path) -> int:
    """Write one row per batch, some to a file; return the number of files."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    while part := list(islice(batches, PER_FILE)):
        rows = [
            {
                "items": batch.items.tobytes(),
                "hashes": batch.hashes.tobytes(),
                "tokens": batch.tokens.tobytes(),
                "inputs": json.dumps(list(batch.inputs)),
            }
            for batch in part
        ]
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), folder / f"{count:08d}.parquet")
        count += 1
    return count


def _read(row: dict[str, Any]) -> Batch:
    return Batch(
        np.frombuffer(row["items"], np.int64),
        np.frombuffer(row["hashes"], np.uint64).reshape(-1, 4),
        np.frombuffer(row["tokens"], np.uint32),
        (),
    )
