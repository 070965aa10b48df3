"""How fast and how large `spectran encode` is.

    python benchmarks/encode.py speed  [--titles 12000] [--repeats 5]
        the stage against SentenceTransformer.encode alone, model loaded in both, alternated
    python benchmarks/encode.py again  [--titles 12000]
        a second run with nothing new, and one with ten new items
    python benchmarks/encode.py memory [--titles 100000 1000000 3000000]
        peak memory of the stage with the hash engine
    python benchmarks/encode.py model --shape 0.5b [--device cuda:0] [--peak-tflops 989]
        titles and tokens per second of a randomly initialised decoder of that shape

Titles are those of Toys where SPECTRAN_DATA is set, repeated with numbers when more are asked for;
generated ones elsewhere. Each part prints one line of JSON and exits 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
TOYS = "amazon2014_toys_5core_all/items.parquet"
SPEED_LIMIT = 0.97
AGAIN_LIMIT_S = 2.0
FLAT_LIMIT = 1.1
"""Peak memory of the largest run over that of the smallest."""

SHAPES = {
    # hidden, layers, heads, key-value heads, inner, vocabulary: as Qwen2.5-0.5B and -7B
    "0.5b": (896, 24, 14, 2, 4864, 151936),
    "7b": (3584, 28, 28, 4, 18944, 152064),
    "tiny": (64, 2, 2, 1, 128, 1000),
}


def titles(count: int) -> Iterator[str]:
    """Yield distinct titles."""
    folder = os.environ.get("SPECTRAN_DATA")
    if folder and (Path(folder) / TOYS).is_file():
        known = [t for t in pq.read_table(Path(folder) / TOYS)["title"].to_pylist() if t]
    else:
        words = [
            "red",
            "blue",
            "wooden",
            "train",
            "castle",
            "card",
            "puzzle",
            "building",
            "set",
            "game",
            "with",
            "pieces",
            "for",
        ]
        draw = np.random.default_rng(0)
        known = [" ".join(draw.choice(words, draw.integers(3, 20))) for _ in range(5000)]
    known = list(dict.fromkeys(known))
    for number in range(count):
        again = number // len(known)
        yield known[number % len(known)] + (f" {again}" if again else "")


def project(folder: Path, count: int, extra: int = 0) -> Path:
    """A folder with parameters and a catalogue `demo`, written in pieces."""
    from pipeline import artifacts
    from pipeline.codecs import KEY, _provenance
    from pipeline.values import catalog_fingerprint

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "revisions.yaml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    path = artifacts.ITEMS.path(folder / "artifacts", dataset="demo")
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = artifacts.ITEMS.schema
    assert schema is not None

    def pieces() -> Iterator[pa.Table]:
        part: list[str] = []
        start = 0
        source = titles(count)
        for number in range(count + extra):
            part.append(next(source) if number < count else f"a new title {number}")
            if len(part) == 1 << 16 or number == count + extra - 1:
                numbers = range(start + 1, start + len(part) + 1)
                blank = [""] * len(part)
                ids = [f"i{n:09d}" for n in numbers]
                columns = [pa.array(numbers, pa.uint32()), ids, part, blank, blank, blank]
                yield pa.table(dict(zip(schema.names, columns, strict=True))).cast(schema)
                start += len(part)
                part = []

    fingerprint = catalog_fingerprint(lambda name: (t[name].chunk(0) for t in pieces()))
    described = schema.with_metadata({KEY: _provenance(artifacts.ITEMS, fingerprint, {})})
    with pq.ParquetWriter(path, described, compression="zstd", write_page_checksum=True) as writer:
        for piece in pieces():
            writer.write_table(piece.cast(described))
    return folder


def stage(base: Path, encoder: str) -> float:
    """Run the stage in this process; return its seconds."""
    from stages.encode import encode
    from stages.run import Run

    started = time.monotonic()
    encode(Run("encode", base / "params.yaml", quiet=True, threads=None), "demo", encoder)
    return time.monotonic() - started


def speed(arguments: argparse.Namespace) -> int:
    """Compare the stage with the library, both with a loaded model."""
    import torch

    from pipeline.encoders import open_encoder
    from pipeline.params import load

    count = arguments.titles[0]
    torch.set_num_threads(arguments.threads)
    spec = load(ROOT / "params.yaml", {}).encoder("minilm")
    engine: Any = open_encoder(spec, ROOT, "cpu", arguments.threads)  # type: ignore[arg-type]
    engine.encode(["loads the model"])
    texts = list(titles(count))
    ours, library = [], []
    for number in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            base = project(Path(folder) / "p", count)
            with mock.patch("pipeline.encoders.open_encoder", lambda *_: engine):
                ours.append(stage(base, "minilm"))
        started = time.monotonic()
        engine._model.encode(texts, batch_size=64, show_progress_bar=False)
        library.append(time.monotonic() - started)
        print(f"{number}: stage {ours[-1]:.1f} s, library {library[-1]:.1f} s", file=sys.stderr)
    ratio = statistics.median(library) / statistics.median(ours)
    numbers = {
        "titles": count,
        "threads": arguments.threads,
        "stage_titles_per_s": round(count / statistics.median(ours), 1),
        "library_titles_per_s": round(count / statistics.median(library), 1),
        "stage_over_library": round(ratio, 3),
        "limit": SPEED_LIMIT,
    }
    print(json.dumps(numbers))
    return int(ratio < SPEED_LIMIT)


def again(arguments: argparse.Namespace) -> int:
    """Time the program when all rows are cached, and when ten are not."""
    count = arguments.titles[0]
    with tempfile.TemporaryDirectory() as folder:
        base = project(Path(folder) / "p", count)
        _program(base, "minilm")
        nothing, _ = _program(base, "minilm")
        project(base, count, extra=10)
        ten, said = _program(base, "minilm")
    start_up = statistics.median(_seconds("import stages.encode, torch") for _ in range(3))
    numbers = {
        "titles": count,
        "start_up_s": round(start_up, 2),
        "nothing_new_s": round(nothing, 2),
        "beyond_start_up_s": round(nothing - start_up, 2),
        "limit_s": AGAIN_LIMIT_S,
        "ten_new_s": round(ten, 2),
        "ten_new_texts": said["encoded"],
    }
    print(json.dumps(numbers))
    return int(nothing - start_up > AGAIN_LIMIT_S or said["encoded"] != 10)


def memory(arguments: argparse.Namespace) -> int:
    """Print the peak memory of the program for catalogues of growing size."""
    found = []
    for count in sorted(arguments.titles):  # the system tells the largest child so far only
        with tempfile.TemporaryDirectory() as folder:
            base = project(Path(folder) / "p", count)
            seconds, _ = _program(base, "hash")
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            found.append({"titles": count, "peak_mb": round(peak / 1024), "s": round(seconds, 1)})
            print(json.dumps(found[-1]), file=sys.stderr)
    ratio = found[-1]["peak_mb"] / found[0]["peak_mb"]
    print(json.dumps({"runs": found, "last_over_first": round(ratio, 3), "limit": FLAT_LIMIT}))
    return int(ratio > FLAT_LIMIT)


def model(arguments: argparse.Namespace) -> int:
    """Print the speed of the transformers engine on a random decoder of a real one's shape."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

    from pipeline.config import Transformers
    from pipeline.encoders import open_encoder
    from pipeline.encoders.batches import plan

    hidden, layers, heads, shared, inner, vocabulary = SHAPES[arguments.shape]
    texts = list(titles(arguments.titles[0]))
    cuda = arguments.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
        config = Qwen2Config(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=shared,
            intermediate_size=inner,
            vocab_size=vocabulary,
        )
        with torch.device(arguments.device):
            made = Qwen2Model(config)
        made.save_pretrained(folder)
        # What every token multiplies with: all but the embedding table, which is looked up.
        weights = sum(p.numel() for n, p in made.named_parameters() if "embed" not in n)
        del made
        torch.set_default_dtype(torch.float32)
        trained = Tokenizer(models.BPE(unk_token="<unk>"))
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=min(vocabulary, 30000), special_tokens=["<unk>", "<eos>"]
        )
        trained.train_from_iterator(texts, trainer)
        PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=trained, unk_token="<unk>", eos_token="<eos>"
        ).save_pretrained(folder)
        spec = Transformers(
            engine="transformers",
            model=folder,
            revision=None,
            weights_sha256=None,
            width=hidden,
            normalize=False,
            max_tokens=128,
            dtype="bfloat16" if cuda else "float32",
            batch_size=4096,
            batch_tokens=arguments.batch_tokens,
            template="{title}",
            transform=None,
            layer=-1,
            norm="post",
            pooling="last",
            bidirectional=False,
            adapters=[],
            trust_remote_code=False,
        )
        engine = open_encoder(spec, ROOT, arguments.device, arguments.threads)
        started = time.monotonic()
        ready = engine.prepare(texts)
        preparing = time.monotonic() - started
        batches = list(plan(ready.tokens, engine.batch_tokens, engine.batch_size))
        engine.encode([ready.inputs[i] for i in batches[0]])  # warms up
        started = time.monotonic()
        for batch in batches:
            engine.encode([ready.inputs[i] for i in batch])
        seconds = time.monotonic() - started
    tokens = int(ready.tokens.sum())
    reached = 2 * weights * tokens / seconds / 1e12
    numbers = {
        "shape": arguments.shape,
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "titles": len(texts),
        "prepare_s": round(preparing, 2),
        "titles_per_s": round(len(texts) / seconds, 1),
        "tokens_per_s": round(tokens / seconds, 1),
        "tflops": round(reached, 3),
        "share_of_peak": round(reached / arguments.peak_tflops, 3)
        if arguments.peak_tflops
        else None,
    }
    print(json.dumps(numbers))
    return 0


def _program(base: Path, encoder: str) -> tuple[float, dict[str, Any]]:
    """Run the real program; return its seconds and what it said."""
    words = [sys.executable, "-m", "stages.cli", "encode", "demo", encoder, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    done = subprocess.run(
        [*words, "--params", str(base / "params.yaml")],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return time.monotonic() - started, json.loads(done.stdout.splitlines()[-1])


def _seconds(code: str) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.monotonic() - started


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["speed", "again", "memory", "model"])
    parser.add_argument("--titles", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    parser.add_argument("--peak-tflops", type=float, help="of the device, for the share")
    arguments = parser.parse_args()
    large = [100_000, 1_000_000, 3_000_000]
    arguments.titles = arguments.titles or (large if arguments.part == "memory" else [12_000])
    # Each project has a cache of its own: in a shared one all rows would be there already.
    os.environ.pop("SPECTRAN_CACHE", None)
    # The model lies on this disk: nothing is asked of a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(ROOT))
    return {"speed": speed, "again": again, "memory": memory, "model": model}[arguments.part](
        arguments
    )


if __name__ == "__main__":
    sys.exit(main())
