"""`spectran encode`: text embeddings of every item."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.embeddings import describe_embeddings, embedding_paths, write_embeddings
from stages.run import Run, pick_device

if TYPE_CHECKING:
    import numpy as np

    from pipeline.config import Vectors
    from pipeline.config.text import AnyEncoder, TextEncoder
    from pipeline.data.text import ItemText
    from pipeline.encoders.stream import Encoding

TITLE = "{title}"
"""Names items where vectors were made elsewhere, from text that is not known here."""
LOG_SECONDS = 30.0
"""Between two lines about progress in the log."""
WINDOW_BYTES = 200_000_000
"""Texts of one window with their hashes and token ids, and a chunk of rows."""
NO_MODEL = ("hash", "openai", "vectors")
"""Engines that compute nothing on a device."""
THREADED = ("sbert", "transformers")
"""Engines whose model runs with --threads."""


@command(
    "spectran encode demo minilm",
    "spectran encode demo hash --json",
    "spectran encode demo minilm --device cuda:0",
    "spectran encode demo minilm --workers 2",
    stage=True,
    compute=True,
    resumes=True,
    memory="Where the encoder's block has them, set a smaller batch_tokens, max_tokens or dtype.",
)
def encode(
    run: Run,
    dataset: Annotated[str, typer.Argument(help="A block of `datasets`.")],
    encoder: Annotated[str, typer.Argument(help="A block of `encoders`.")],
    workers: Annotated[
        int, typer.Option(min=0, help="Engines side by side through Ray, with a GPU each.")
    ] = 0,
) -> None:
    """Embed the text of every item of DATASET with ENCODER.

    Rows are cached by what they mean and by their text: a run that was stopped goes on where it
    was, equal titles are encoded once, and ten new items cost ten texts. What the vectors look
    like (norms, neighbours, lengths of texts) is written beside them.
    """
    from pipeline.agreement import refuse_other_preprocess
    from pipeline.config import Vectors
    from pipeline.data.text import ItemText

    run.params.dataset(dataset)
    spec = run.params.encoder(encoder)
    text = ItemText(run.root, dataset, TITLE if isinstance(spec, Vectors) else spec.template)
    text.check()
    refuse_other_preprocess(run.root, run.params, dataset)
    _fits(run, spec, workers)
    if isinstance(spec, Vectors):
        _join(run, spec, text, dataset, encoder)
    else:
        _encode(run, spec, text, dataset, encoder, workers)


def _fits(run: Run, spec: AnyEncoder, workers: int) -> None:
    """Raise ConfigError for options that the engine would not heed."""
    from pipeline.errors import ConfigError

    if workers and spec.engine == "vectors":
        raise ConfigError("--workers: vectors made elsewhere are not encoded. Leave it out.")
    if workers and spec.engine == "openai":
        raise ConfigError(
            "--workers: each worker would send requests_per_minute for itself. Leave it out: the "
            "server decides how much it does at a time."
        )
    if spec.engine == "vllm" and run.device != "auto":
        raise ConfigError(
            f"--device {run.device}: vLLM takes the GPUs it sees. Leave --device out; "
            f"CUDA_VISIBLE_DEVICES chooses which these are."
        )
    if spec.engine in NO_MODEL and run.device not in ("auto", "cpu"):
        raise ConfigError(
            f"--device {run.device}: the engine {spec.engine} runs no model here. Leave it out."
        )
    if run.threads is not None and spec.engine not in THREADED:
        raise ConfigError(
            f"--threads {run.threads}: the engine {spec.engine} does not heed it. Leave it out."
        )
    if workers and run.device not in ("auto", "cpu", "cuda", "cuda:0"):
        raise ConfigError(
            f"--device {run.device}: with --workers every engine has the GPU that Ray gives it. "
            f"Leave --device out; CUDA_VISIBLE_DEVICES chooses which GPUs Ray has."
        )


def _encode(
    run: Run, spec: TextEncoder, text: ItemText, dataset: str, encoder: str, workers: int
) -> None:
    """Take the vectors from the row cache, and from the engine what is not there."""
    from pipeline.encoders import open_encoder
    from pipeline.encoders.rows import RowCache
    from pipeline.encoders.stream import Encoding

    device = "cpu" if spec.engine in ("hash", "openai") else pick_device(run.device)
    engine = open_encoder(spec, run.base, device, run.threads)
    meaning = {**engine.identity(), "revision": run.revisions["encode"]}
    with RowCache(run.cache, meaning, engine.width) as cache:
        encoding = Encoding(text, engine, cache, fresh=run.force)
        survey = encoding.survey()
        if run.plan(
            reads=[_items(run, dataset)],
            writes=embedding_paths(run, dataset, encoder),
            memory_bytes=(engine.memory_bytes() if survey.missing else 0) + WINDOW_BYTES,
            disk_bytes=(len(text) + 1 + survey.missing) * engine.width * 4,
            device=device,
        ):
            return
        run.log_to(dataset, encoder)
        cache.describe()
        _warn(run, dataset, encoder, spec, meaning, survey.blank, len(text))
        chunks = _chunks(run, encoding, spec, survey.missing, workers, device)
        write_embeddings(run, chunks, text, spec, meaning, dataset, encoder)
        found = {**encoding.texts(), "blank": survey.blank}
    run.log("rows", items=len(text), distinct=found["distinct"], encoded=encoding.encoded)
    done = f"{encoding.encoded} texts encoded"
    describe_embeddings(
        run, text, {"texts": found}, done, dataset, encoder, encoded=encoding.encoded
    )


def _join(run: Run, spec: Vectors, text: ItemText, dataset: str, encoder: str) -> None:
    """Take the vectors from the user's own file."""
    from pipeline.encoders.vectors import join
    from pipeline.files import TEMPORARY, write_atomic
    from pipeline.params import expand

    size_bytes = (len(text) + 1) * spec.width * 4
    if run.plan(
        reads=[_items(run, dataset), expand(spec.path, run.base)],
        writes=embedding_paths(run, dataset, encoder),
        memory_bytes=WINDOW_BYTES + 200 * len(text),
        disk_bytes=2 * size_bytes,
    ):
        return
    run.log_to(dataset, encoder)
    raw_items = [raw for window in text.raw_items() for raw in window]
    joined = join(spec, run.base, raw_items, run.target / TEMPORARY)
    found = joined.matched
    lacking = found.items - found.matched
    if lacking:
        listed = run.cache / "rejected" / f"{dataset}-{encoder}-missing.txt"
        write_atomic(listed, ("\n".join(joined.missing()) + "\n").encode("utf-8", "replace"))
        run.warn(
            f"{dataset}: {lacking} of {found.items} items have no vector in {spec.path}; they get "
            f"the mean of all others. First: {', '.join(map(repr, found.missing))}. All: {listed}"
        )
    write_embeddings(run, joined.rows(), text, spec, joined.identity, dataset, encoder)
    met = {"matched": found.matched, "missing": lacking, "unused": found.unused}
    run.log("joined", items=found.items, **met)
    share = f"{found.matched / found.items:.1%} of the items matched, {found.unused} rows unused"
    describe_embeddings(run, text, {"vectors": met}, share, dataset, encoder, **met)


def _items(run: Run, dataset: str) -> Path:
    from pipeline import artifacts

    return artifacts.ITEMS.path(run.root, dataset=dataset)


def _warn(
    run: Run,
    dataset: str,
    encoder: str,
    spec: TextEncoder,
    meaning: Mapping[str, Any],
    blank: int,
    count: int,
) -> None:
    """Tell of items without text, and of a model that nothing pins."""
    from pipeline.data.text import PLACEHOLDER

    if blank:
        run.warn(
            f"{dataset}: {blank} of {count} items have no text for {spec.template!r}; "
            f"they are encoded as {PLACEHOLDER!r}."
        )
    named = [(f"encoders.{encoder}", spec, meaning.get("model"))]
    adapters = zip(getattr(spec, "adapters", ()), meaning.get("adapters", ()), strict=True)
    named += [(f"encoders.{encoder}.adapters", block, found) for block, found in adapters]
    for where, block, found in named:
        commit = found.get("commit") if isinstance(found, dict) else None
        if isinstance(found, dict) and commit and commit != getattr(block, "revision", None):
            run.warn(
                f"params.yaml: {where}: {found['name']} is at commit {commit}, and may move. "
                f"Write `revision: {commit}` to keep it."
            )


def _chunks(
    run: Run, encoding: Encoding, spec: TextEncoder, missing: int, workers: int, device: str
) -> Iterator[np.ndarray]:
    """Yield the rows of all items in order, encoding what is missing."""
    from pipeline.encoders.batches import Store

    with _progress(run, missing) as advance:
        store = Store(encoding.cache, encoding.text.label, advance)
        if workers:
            from pipeline.encoders.distributed import fill
            from pipeline.files import TEMPORARY

            fill(
                encoding.pending(),
                store,
                spec,
                run.base,
                workers=workers,
                device=device,
                threads=run.threads,
                scratch=run.target / TEMPORARY,
            )
        yield from encoding.chunks(store)


@contextmanager
def _progress(run: Run, missing: int) -> Iterator[Callable[[int, int], None]]:
    """Yield what is told of every batch: a bar on a terminal, lines in the log, the speed."""
    started = told = time.monotonic()
    texts = tokens = 0

    def speed() -> dict[str, Any]:
        seconds = max(time.monotonic() - started, 1e-9)
        return {
            "texts": texts,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "titles_per_s": round(texts / seconds, 1),
            "tokens_per_s": round(tokens / seconds, 1) if tokens else None,
        }

    with run.progress("encode", missing, "titles", "tokens") as bar:

        def advance(more: int, counted: int) -> None:
            nonlocal texts, tokens, told
            texts, tokens = texts + more, tokens + counted
            bar(more, counted)
            if time.monotonic() - told > LOG_SECONDS:
                told = time.monotonic()
                left = (missing - texts) * (told - started) / texts
                run.log("progress", of=missing, left_s=round(left), **speed())

        yield advance
    if texts:
        run.log("speed", **speed())
