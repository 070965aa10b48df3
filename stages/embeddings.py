"""The text embeddings of a data set as `spectran encode` writes, describes and names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.run import Run

if TYPE_CHECKING:
    import numpy as np

    from pipeline.config import Transform
    from pipeline.config.text import AnyEncoder
    from pipeline.data.text import ItemText


def embedding_paths(run: Run, dataset: str, encoder: str) -> list[Path]:
    """Return the files that the stage writes."""
    from pipeline import artifacts

    cell = {"dataset": dataset, "encoder": encoder}
    return [a.path(run.target, **cell) for a in (artifacts.SEMANTIC, artifacts.SEMANTIC_STATS)]


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


def write_embeddings(
    run: Run,
    chunks: Iterable[np.ndarray],
    text: ItemText,
    spec: AnyEncoder,
    identity: Mapping[str, Any],
    dataset: str,
    encoder: str,
) -> None:
    """Write the rows in the order of the items, below a row of zeros."""
    import numpy as np

    from pipeline import artifacts, tensorfile

    if spec.transform is not None:
        chunks = _transformed(run, chunks, spec.transform)
    # Absent where nothing is transformed: the plain file's bytes do not know of controls.
    block = spec.model_dump(mode="json", exclude={"transform"} if spec.transform is None else set())
    with tensorfile.write(
        artifacts.SEMANTIC,
        run.target,
        {"values": (len(text) + 1, spec.width)},
        items=text.fingerprint,
        params={"encoder": block, "identity": identity},
        dataset=dataset,
        encoder=encoder,
    ) as writer:
        writer.put("values", np.zeros((1, spec.width), np.float32))
        row = 1
        for chunk in chunks:
            writer.put("values", chunk, row)
            row += len(chunk)


def describe_embeddings(
    run: Run,
    text: ItemText,
    origin: Mapping[str, Any],
    done: str,
    dataset: str,
    encoder: str,
    **numbers: int,
) -> None:
    """Write what the vectors look like, and say it."""
    from pipeline import artifacts, tensorfile
    from pipeline.encoders.diagnostics import neighbours, norms, sample

    cell = {"dataset": dataset, "encoder": encoder}
    rows = tensorfile.open_rows(artifacts.SEMANTIC, run.target, "values", **cell)
    chosen = sample(len(text))
    near = neighbours(rows, chosen)
    names = text.describe([*chosen, *(row for found in near for row, _ in found)])

    def named(row: int) -> dict[str, str]:
        raw, shown = names[row]
        return {"raw_item": raw, "text": shown}

    content = {
        "items": len(text),
        "width": rows.shape[1],
        **origin,
        "rows": norms(rows),
        "neighbours": [
            {
                **named(row),
                "nearest": [{**named(other), "cosine": cosine} for other, cosine in found],
            }
            for row, found in zip(chosen, near, strict=True)
        ],
    }
    artifacts.save_json(artifacts.SEMANTIC_STATS, run.target, content, **cell)
    run.say(_summary(content))
    run.done(
        embedding_paths(run, dataset, encoder),
        f"{len(text)} items x {rows.shape[1]}, {done}",
        f"spectran spectrum {dataset} {encoder}",
        items=len(text),
        diagnostics=content,
        **numbers,
    )


def _summary(content: Mapping[str, Any]) -> str:
    """Return what the vectors look like, for a person."""
    norm, cosine = content["rows"]["norm"], content["rows"]["mean_cosine"]
    parts = [
        f"norms {norm['min']:.3g} to {norm['max']:.3g}",
        "mean cosine -" if cosine is None else f"mean cosine {cosine:.3f}",
    ]
    if texts := content.get("texts"):
        parts.append(f"{texts['distinct']} distinct texts")
        if tokens := texts["tokens"]:
            parts.append(f"{tokens['median']} tokens in the median, {tokens['max']} at most")
        parts.append(f"{texts['cut']} cut")
    lines = ["encode: " + ", ".join(parts)]
    for item in content["neighbours"]:
        if item["nearest"]:
            nearest = item["nearest"][0]
            lines.append(
                f"  nearest to {item['text'][:50]!r}: {nearest['text'][:50]!r} "
                f"(cosine {nearest['cosine']:.2f})"
            )
    return "\n".join(lines)
