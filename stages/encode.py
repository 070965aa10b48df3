"""`spectran encode`: text embeddings of every item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.command import command
from stages.run import Run, pick_device

if TYPE_CHECKING:
    import numpy as np

    from pipeline.config import Transform
    from pipeline.encoders import Encoder
    from pipeline.encoders.batches import Lookup
    from pipeline.values import Catalog


@command(
    "spectran encode demo minilm",
    "spectran encode demo hash --json",
    "spectran encode demo minilm --device cuda:0",
    stage=True,
    compute=True,
)
def encode(
    run: Run,
    dataset: Annotated[str, typer.Argument(help="A block of `datasets`.")],
    encoder: Annotated[str, typer.Argument(help="A block of `encoders`.")],
) -> None:
    """Embed the text of every item of DATASET with ENCODER.

    Rows are cached by what they mean and by their text: a run that was stopped goes on where it
    was, equal titles are encoded once, and ten new items cost ten texts.
    """
    from pipeline import artifacts, encoders
    from pipeline.data.text import PLACEHOLDER, render
    from pipeline.encoders.batches import Lookup
    from pipeline.encoders.rows import RowCache
    from pipeline.files import TEMPORARY, remove_orphans
    from pipeline.values import Catalog

    run.params.dataset(dataset)
    spec = run.params.encoder(encoder)
    catalog = Catalog.load(run.root, dataset)
    texts = render(catalog, spec.template)
    device = "cpu" if spec.engine == "hash" else pick_device(run.device)
    engine = encoders.open_encoder(spec, run.base, device, run.threads)
    meaning = {**engine.identity(), "revision": run.revisions["encode"]}
    cache = RowCache(run.cache, meaning, engine.width)
    lookup = Lookup(cache, texts, fresh=run.force)
    missing = len(lookup.missing)
    size_bytes = (len(texts) + 1) * engine.width * 4
    cell = {"dataset": dataset, "encoder": encoder}
    path = artifacts.SEMANTIC.path(run.target, **cell)
    if run.plan(
        reads=[artifacts.ITEMS.path(run.root, dataset=dataset)],
        writes=[path],
        memory_bytes=(engine.memory_bytes() if missing else 0) + (64 << 20) + 300 * len(texts),
        disk_bytes=size_bytes + missing * engine.width * 4,
        device=device,
    ):
        return
    remove_orphans(run.target / TEMPORARY)
    run.log_to(dataset, encoder)
    if blank := texts.count(PLACEHOLDER):
        run.warn(
            f"{dataset}: {blank} of {len(texts)} items have no text for {spec.template!r}; "
            f"they are encoded as {PLACEHOLDER!r}."
        )
    encoded = _fill(run, engine, lookup, missing, catalog)
    run.log("rows", items=len(texts), distinct=len(lookup.distinct), encoded=encoded)
    # Absent where nothing is transformed: the plain file's bytes do not know of controls.
    plain = {"transform"} if spec.transform is None else set()
    provenance = {"encoder": spec.model_dump(mode="json", exclude=plain), "identity": meaning}
    chunks: Iterable[np.ndarray] = lookup.rows()
    if spec.transform is not None:
        chunks = _transformed(run, chunks, spec.transform)
    _write(run, chunks, engine.width, catalog, provenance, cell)
    run.done(
        [path],
        f"{len(texts)} items x {engine.width}, {encoded} texts encoded",
        f"spectran spectrum {dataset} {encoder}",
        items=len(texts),
        encoded=encoded,
    )


def _fill(run: Run, engine: Encoder, lookup: Lookup, missing: int, catalog: Catalog) -> int:
    """Encode the texts that have no row yet; return how many."""

    def label(index: int) -> str:
        raw, text = catalog.table["raw_item"][index].as_py(), lookup.texts[index]
        return f"item {index + 1} (raw id {raw!r}, text {text[:80]!r})"

    if not missing:
        return 0
    with run.progress("encode", missing, "titles") as advance:
        return lookup.encode(engine, label, advance)


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
    width: int,
    catalog: Catalog,
    provenance: Mapping[str, Any],
    cell: dict[str, str],
) -> None:
    """Write the rows in the order of the items, below a row of zeros."""
    import numpy as np

    from pipeline import artifacts, tensorfile

    with tensorfile.write(
        artifacts.SEMANTIC,
        run.target,
        {"values": (len(catalog) + 1, width)},
        items=catalog.fingerprint,
        params=provenance,
        **cell,
    ) as writer:
        writer.put("values", np.zeros((1, width), np.float32))
        row = 1
        for chunk in chunks:
            writer.put("values", chunk, row)
            row += len(chunk)
