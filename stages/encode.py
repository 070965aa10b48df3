"""`spectran encode`: text embeddings of every item."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run, pick_device

if TYPE_CHECKING:
    import numpy as np

    from pipeline.config import Transform
    from pipeline.config.text import AnyEncoder, TextEncoder
    from pipeline.data.text import ItemText
    from pipeline.encoders.stream import Encoding

LOG_SECONDS = 30.0
"""Between two lines about progress in the log."""
WINDOW_BYTES = 200_000_000
"""Texts of one window with their hashes and token ids, and a chunk of rows."""


@command(
    "spectran encode demo minilm",
    "spectran encode demo hash --json",
    "spectran encode demo minilm --device cuda:0",
    "spectran encode demo minilm --workers 2",
    stage=True,
    compute=True,
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
    from pipeline.data.text import ItemText
    from pipeline.encoders import open_encoder
    from pipeline.encoders.rows import RowCache
    from pipeline.encoders.stream import Encoding
    from pipeline.files import TEMPORARY, remove_orphans

    run.params.dataset(dataset)
    spec = run.params.encoder(encoder)
    text = ItemText(run.root, dataset, spec.template)
    text.check()
    device = "cpu" if spec.engine in ("hash", "openai") else pick_device(run.device)
    engine = open_encoder(spec, run.base, device, run.threads)
    meaning = {**engine.identity(), "revision": run.revisions["encode"]}
    with RowCache(run.cache, meaning, engine.width) as cache:
        encoding = Encoding(text, engine, cache, fresh=run.force)
        survey = encoding.survey()
        if run.plan(
            reads=[_items(run, dataset)],
            writes=_paths(run, dataset, encoder),
            memory_bytes=(engine.memory_bytes() if survey.missing else 0) + WINDOW_BYTES,
            disk_bytes=(len(text) + 1 + survey.missing) * engine.width * 4,
            device=device,
        ):
            return
        remove_orphans(run.target / TEMPORARY)
        run.log_to(dataset, encoder)
        _warn(run, dataset, encoder, spec, meaning, survey.blank, len(text))
        chunks = _chunks(run, encoding, spec, survey.missing, workers, device)
        if spec.transform is not None:
            chunks = _transformed(run, chunks, spec.transform)
        provenance = {"encoder": _described(spec), "identity": meaning}
        _write(run, chunks, text, engine.width, provenance, dataset, encoder)
        found = {**encoding.texts(), "blank": survey.blank}
    _finish(run, text, found, encoding.encoded, dataset, encoder)


def _items(run: Run, dataset: str) -> Path:
    from pipeline import artifacts

    return artifacts.ITEMS.path(run.root, dataset=dataset)


def _paths(run: Run, dataset: str, encoder: str) -> list[Path]:
    from pipeline import artifacts

    cell = {"dataset": dataset, "encoder": encoder}
    return [a.path(run.target, **cell) for a in (artifacts.SEMANTIC, artifacts.SEMANTIC_STATS)]


def _described(spec: AnyEncoder) -> dict[str, Any]:
    """Return the block as the file keeps it."""
    # Absent where nothing is transformed: the plain file's bytes do not know of controls.
    return spec.model_dump(mode="json", exclude={"transform"} if spec.transform is None else set())


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
    model = meaning.get("model")
    commit = model.get("commit") if isinstance(model, dict) else None
    if isinstance(model, dict) and commit is not None and commit != getattr(spec, "revision", None):
        run.warn(
            f"params.yaml: encoders.{encoder}: {model['name']} is at commit {commit}, and may move."
            f" Write `revision: {commit}` to keep it."
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


def _transformed(
    run: Run, chunks: Iterable[np.ndarray], transform: Transform
) -> Iterator[np.ndarray]:
    """Yield all rows at once, changed into a control."""
    import numpy as np

    from pipeline.encoders.transform import apply, mean_cosine

    rows = np.concatenate(list(chunks))
    changed = apply(rows, transform)
    before, after = mean_cosine(rows), mean_cosine(changed)
    run.log("transform", kind=transform.kind, mean_cosine=after, mean_cosine_before=before)
    yield changed


def _write(
    run: Run,
    chunks: Iterable[np.ndarray],
    text: ItemText,
    width: int,
    provenance: Mapping[str, Any],
    dataset: str,
    encoder: str,
) -> None:
    """Write the rows in the order of the items, below a row of zeros."""
    import numpy as np

    from pipeline import artifacts, tensorfile

    with tensorfile.write(
        artifacts.SEMANTIC,
        run.target,
        {"values": (len(text) + 1, width)},
        items=text.fingerprint,
        params=provenance,
        dataset=dataset,
        encoder=encoder,
    ) as writer:
        writer.put("values", np.zeros((1, width), np.float32))
        row = 1
        for chunk in chunks:
            writer.put("values", chunk, row)
            row += len(chunk)


def _finish(
    run: Run, text: ItemText, texts: Mapping[str, Any], encoded: int, dataset: str, encoder: str
) -> None:
    """Write what the vectors look like, and say it."""
    from pipeline import artifacts, tensorfile
    from pipeline.encoders.diagnostics import neighbours, norms, sample

    cell = {"dataset": dataset, "encoder": encoder}
    rows = tensorfile.open_rows(artifacts.SEMANTIC, run.target, "values", **cell)
    chosen = sample(len(text))
    near = neighbours(rows, chosen)
    names = text.describe([*chosen, *(row for found in near for row, _ in found)])
    content = {
        "items": len(text),
        "width": rows.shape[1],
        "texts": dict(texts),
        "rows": norms(rows),
        "neighbours": [
            {
                "raw_item": names[row][0],
                "text": names[row][1],
                "nearest": [
                    {"raw_item": names[other][0], "text": names[other][1], "cosine": cosine}
                    for other, cosine in found
                ],
            }
            for row, found in zip(chosen, near, strict=True)
        ],
    }
    artifacts.save_json(artifacts.SEMANTIC_STATS, run.target, content, **cell)
    run.log("rows", items=len(text), distinct=texts["distinct"], encoded=encoded)
    run.say(_summary(content))
    run.done(
        _paths(run, dataset, encoder),
        f"{len(text)} items x {rows.shape[1]}, {encoded} texts encoded",
        f"spectran spectrum {dataset} {encoder}",
        items=len(text),
        encoded=encoded,
        diagnostics=content,
    )


def _summary(content: Mapping[str, Any]) -> str:
    """Return what the vectors look like, for a person."""
    texts, rows = content["texts"], content["rows"]
    norm, cosine, tokens = rows["norm"], rows["mean_cosine"], texts["tokens"]
    parts = [
        f"{texts['distinct']} distinct texts",
        f"norms {norm['min']:.3g} to {norm['max']:.3g}",
        "mean cosine -" if cosine is None else f"mean cosine {cosine:.3f}",
    ]
    if tokens is not None:
        parts.append(f"tokens {tokens['median']} median, {tokens['max']} longest")
    parts.append(f"{texts['cut']} texts cut")
    lines = ["encode: " + ", ".join(parts)]
    for item in content["neighbours"][:3]:
        if item["nearest"]:
            nearest = item["nearest"][0]
            lines.append(
                f"  {item['text'][:50]!r} is nearest to {nearest['text'][:50]!r} "
                f"(cosine {nearest['cosine']:.2f})"
            )
    return "\n".join(lines)
