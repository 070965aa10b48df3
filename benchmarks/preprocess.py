"""Time and peak memory of `spectran preprocess` on 20 million interactions.

The table is generated in a temporary folder: Parquet, string ids, Zipf items, users with geometric
activity, rows in random order, all with times. The real program runs in a subprocess.

    python benchmarks/preprocess.py [--rows 20000000] [--folder KEEP_THE_DATA_HERE]

Target: 30 s and 4 GB of peak memory on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 20_000_000

PARAMS = """
grid:
  dataset: [big]
  encoder: [hash]
  text: {encoder: [], backbone: [], method: []}
  plain: {backbone: [], method: []}
  baseline: {backbone: [], method: []}
  baseline_text: {encoder: [], backbone: [], method: []}
  ablation: {encoder: [], backbone: [], method: []}
  control: {encoder: [], backbone: [], method: []}
  protocol: {encoder: [], backbone: [], method: []}
  protocol_plain: {backbone: [], method: []}
datasets:
  big:
    source:
      format: table
      origin:
        kind: local
        files: {interactions: interactions.parquet, items: items.parquet}
      columns: {user: user_id, item: item_id, time: timestamp, position: null, rating: null,
                item_id: item_id, title: title, brand: null, categories: null, description: null}
      time_unit: s
      max_rejected_share: 0.01
    preprocess:
      core: 5
      min_rating: null
      require_title: true
      repeats: keep
      keep_last: null
      ties: source
      ties_seed: 0
      split: {kind: user_time, train: 0.8, valid: 0.1}
      short_users: drop
    train: {}
"""


def names(prefix: str, count: int, width: int, rng: np.random.Generator) -> pa.Array:
    """`count` distinct ids of `width` characters in random order."""
    numbers = rng.permutation(count).astype(np.int64) * 7919 % (1 << 40) + 3
    numbers = np.unique(numbers)
    assert len(numbers) == count
    rng.shuffle(numbers)
    return pa.array([f"{prefix}{n:0{width - len(prefix)}X}" for n in numbers.tolist()])


def generate(folder: Path, rows: int, seed: int = 0) -> None:
    """Write interactions.parquet, items.parquet and params.yaml below `folder`."""
    rng = np.random.default_rng(seed)
    num_users, num_items = rows // 5, max(rows // 25, 10)
    activity = rng.pareto(1.6, num_users) + 0.3
    users = rng.choice(num_users, rows, p=activity / activity.sum()).astype(np.int32)
    weight = 1.0 / np.arange(1, num_items + 1) ** 0.9
    items = rng.choice(num_items, rows, p=weight / weight.sum()).astype(np.int32)
    times = rng.integers(900_000_000, 1_400_000_000, rows)
    user_names = names("A", num_users, 14, rng)
    item_names = names("B", num_items, 10, rng)
    schema = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())]
    )
    with pq.ParquetWriter(folder / "interactions.parquet", schema) as writer:
        for start in range(0, rows, 1_000_000):
            part = slice(start, start + 1_000_000)
            columns = [
                user_names.take(pa.array(users[part])),
                item_names.take(pa.array(items[part])),
                pa.array(times[part]),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    titled = rng.random(num_items) > 0.005
    titles = [
        f"Product {n} of kind {n % 997}" if has else None for n, has in enumerate(titled.tolist())
    ]
    pq.write_table(pa.table({"item_id": item_names, "title": titles}), folder / "items.parquet")


def full_params(folder: Path) -> None:
    """Write params.yaml: the project's own, with this data set alone."""
    import yaml

    own = yaml.safe_load((Path(__file__).parent.parent / "params.yaml").read_text())
    own.update(yaml.safe_load(PARAMS))
    (folder / "params.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    text = (Path(__file__).parent.parent / "revisions.yaml").read_text()
    (folder / "revisions.yaml").write_text(text)


def spectran(folder: Path, *words: str) -> tuple[float, float, float]:
    """Run one command in `folder`; return seconds, CPU seconds and peak resident bytes."""
    program = [sys.executable, "-m", "stages.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.resolve())}
    started = time.monotonic()
    child = subprocess.Popen(program, cwd=folder, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(
            f"{' '.join(words)} failed with status {os.waitstatus_to_exitcode(status)}"
        )
    cpu = usage.ru_utime + usage.ru_stime
    return time.monotonic() - started, cpu, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help=f"{ROWS:,}, or what --folder holds already")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "items.parquet").exists():
            generate(folder, options.rows or ROWS)
        held = pq.read_metadata(folder / "interactions.parquet").num_rows
        if options.rows not in (None, held):
            said = f"{folder} holds {held} rows, not {options.rows}"
            raise SystemExit(f"{said}. Name another folder.")
        full_params(folder)
        spectran(folder, "download", "big", "--quiet")
        for _ in range(options.repeat):
            load = os.getloadavg()[0]
            seconds, cpu, peak = spectran(folder, "preprocess", "big")
            stats = json.loads((folder / "artifacts/data/big/stats.json").read_text())
            steps = stats["steps"]
            first, last = steps[0]["interactions"], steps[-1]["interactions"]
            rounds = sum(step.get("rounds", 0) for step in steps)
            print(
                f"rows={first} kept={last} removed={1 - last / first:.1%} rounds={rounds} "
                f"seconds={seconds:.1f} cpu_seconds={cpu:.1f} "
                f"peak_gb={peak / 1e9:.2f} load_before={load:.1f} "
                f"cores={len(os.sched_getaffinity(0))}"
            )
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"(the generator itself peaked at {own / 1e9:.2f} GB)")


if __name__ == "__main__":
    main()
