"""Whether what an earlier stage left was made with the values that params.yaml holds now.

And from the files that are here now. Every file's header records what made it. A value changed
since then, or laid over params.yaml for a later stage only, would otherwise be claimed and have no
effect. Values that one side lacks are not compared, unless their setting says what stood for it
before (`pipeline.model.Before`), nor those that change no number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from pipeline import artifacts
from pipeline.cells import Cell, input_path
from pipeline.config import Params, Source
from pipeline.config.text import Adapter, Mark
from pipeline.encoders.hub import is_commit
from pipeline.errors import ArtifactError

OTHER = {artifacts.SEMANTIC.name: "other vectors", artifacts.SPECTRUM.name: "another spectrum"}
"""How inputs of a cell are told that are not other items or other sequences."""


class Difference(NamedTuple):
    """A value that was changed."""

    key: str
    """Dotted, in params.yaml."""
    was: Any
    now: Any

    def told(self, params: Params) -> str:
        """Return what made a file and what the parameters say: `KEY = 5, params.yaml says 3.`"""
        was, now = (json.dumps(value, ensure_ascii=False) for value in (self.was, self.now))
        here = f"{self.key}."
        if not any(here.startswith(f"{k}.") or f"{k}.".startswith(here) for k in params.changes):
            return f"{self.key} = {was}, params.yaml says {now}."
        return (
            f"{self.key} = {was}, --set says {now}, which only the stage that reads it heeds. To "
            f"try it, change params.yaml, best in a copy of its folder."
        )


def difference(was: Any, now: Any, key: str) -> Difference | None:
    """Return the first value that two blocks both hold and that is not the same.

    key: where they stand, dotted; empty at the top.
    """
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return None if was == now else Difference(key, was, now)
    names = [name for name in was if name in now]
    pairs = (difference(was[name], now[name], f"{key}.{name}".lstrip(".")) for name in names)
    return next((found for found in pairs if found), None)


def reading(source: Source) -> dict[str, Any]:
    """Return how the raw files of a data set are read, as its statistics record it."""
    return source.model_dump(mode="json", include={"format", "columns", "time_unit"})


def refuse_other_preprocess(root: Path, params: Params, dataset: str) -> None:
    """Raise ArtifactError when the sequences of a data set were made with other values.

    Where there are no sequences on this machine, nothing can be told.
    """
    if not artifacts.SEQUENCES.path(root, dataset=dataset).exists():
        return
    _, header = artifacts.SEQUENCES.open(root, dataset=dataset)
    now = params.dataset(dataset).preprocess.model_dump(mode="json")
    if now["ties"] == "source":
        del now["ties_seed"]
    if found := difference(header["params"], now, f"datasets.{dataset}.preprocess"):
        raise artifacts.SEQUENCES.fail(
            root, {"dataset": dataset}, f"was made with {found.told(params)}"
        )
    if not artifacts.DATA_STATS.path(root, dataset=dataset).exists():
        return
    read = artifacts.load_json(artifacts.DATA_STATS, root, dataset=dataset).get("reading", {})
    source = params.dataset(dataset).source
    if found := difference(read, reading(source), f"datasets.{dataset}.source"):
        raise artifacts.DATA_STATS.fail(
            root, {"dataset": dataset}, f"is of data read with {found.told(params)}"
        )


def refuse_other_inputs(
    root: Path, params: Params, dataset: str, encoder: str, needs: Iterable[str]
) -> None:
    """Raise ArtifactError when an input of a cell was made with other values, or from another.

    needs: what its method reads, such as `semantic` and `spectrum:unit`. Of a file that is not on
    this machine nothing can be told.
    """
    refuse_other_preprocess(root, params, dataset)
    cell = {"dataset": dataset, "encoder": encoder}
    for need in needs:
        if not input_path(root, dataset, encoder, need).exists():
            continue
        kind, _, view = need.partition(":")
        if kind == artifacts.SEMANTIC.name:
            header = artifacts.SEMANTIC.header(root, **cell)
            refuse_other_text(root, params, dataset, encoder, header["params"])
        elif kind == artifacts.SPECTRUM.name:
            header = artifacts.SPECTRUM.header(root, **cell, view=view)
            place = {**cell, "view": view}
            _refuse_other_spectrum(root, params, place, header["params"])
            _refuse_other_vectors(root, place, header["params"])


def outdated(
    root: Path, revision: int, cell: Cell, made: Mapping[str, Any], digest: Callable[[Path], str]
) -> str | None:
    """Return how ranks were made otherwise than they would be here now, None where they were not.

    revision: of `train` in revisions.yaml. made: params in their header. digest: SHA-256 of a file.
    What the header does not name, and inputs that are not on this machine, are not compared.
    """
    was = made.get("revision", revision)
    if was != revision:
        return f"made with revision {was} of `train`, revisions.yaml says {revision}."
    for name, read in made.get("inputs", {}).items():
        path = input_path(root, cell.dataset, cell.encoder, name)
        if path.exists() and digest(path) != read:
            kind = name.partition(":")[0]
            return f"made from {OTHER.get(kind, f'other {kind}')} than {path} holds now."
    return None


def refuse_other_models(
    artifact: artifacts.Table,
    root: Path,
    dataset: str,
    measured: Mapping[str, Any],
    ranked: Mapping[str, Any],
) -> None:
    """Raise ArtifactError when the models that were measured are not those that ranked.

    measured, ranked: cell -> what made its models, and its ranks; of a cell that `measured` lacks
    nothing can be told.
    """
    for cell, made in ranked.items():
        if cell in measured and (found := difference(measured[cell], made, "")):
            was, now = (json.dumps(value, ensure_ascii=False) for value in (found.was, found.now))
            models = f"models of {cell} with {found.key} = {was}"
            raise artifact.fail(
                root, {"dataset": dataset}, f"was measured on {models}, its ranks have {now}."
            )


def refuse_other_text(
    root: Path, params: Params, dataset: str, encoder: str, made: Mapping[str, Any]
) -> None:
    """Raise ArtifactError when vectors were made with another block of `encoders`.

    made: params in their header.
    """
    if found := _other_encoder(params, encoder, made):
        raise artifacts.SEMANTIC.fail(
            root,
            {"dataset": dataset, "encoder": encoder},
            f"was made with {found.told(params)}",
        )


def _refuse_other_spectrum(
    root: Path, params: Params, cell: Mapping[str, str], made: Mapping[str, Any]
) -> None:
    """Raise ArtifactError when a spectrum is of other vectors or was cut elsewhere."""
    if found := _other_encoder(params, cell["encoder"], made.get("encoder", {})):
        place = f"{cell['dataset']} {cell['encoder']}"
        raise ArtifactError(
            f"{artifacts.SPECTRUM.path(root, **cell)} is of vectors made with "
            f"{found.told(params)} Run: spectran encode {place}   and then: "
            f"spectran spectrum {place}"
        )
    now = {"cutoff": params.spectrum.cutoff}
    if found := difference(made, now, "spectrum"):
        raise artifacts.SPECTRUM.fail(root, cell, f"was made with {found.told(params)}")


def _refuse_other_vectors(root: Path, cell: Mapping[str, str], made: Mapping[str, Any]) -> None:
    """Raise ArtifactError when a spectrum is of other vectors than lie here now.

    Their blocks are compared with params.yaml, which may leave open what files are behind them: a
    table of vectors, or a model, that was replaced under its name. Where there are no vectors on
    this machine, nothing can be told.
    """
    path = artifacts.SEMANTIC.path(root, **cell)
    if not path.exists():
        return
    held = artifacts.SEMANTIC.header(root, **cell)["params"]
    was, now = (block.get("identity", {}) for block in (made.get("encoder", {}), held))
    if found := difference(was, now, "identity"):
        raise artifacts.SPECTRUM.fail(
            root,
            cell,
            f"is of other vectors than {path} holds now: {found.key} = "
            f"{json.dumps(found.was)} in its header, {json.dumps(found.now)} there.",
        )


def _other_encoder(params: Params, name: str, made: Mapping[str, Any]) -> Difference | None:
    """Return what changed in an encoder's block, if it would give other vectors.

    made: `encoder`, the block that made them, and `identity`, what the engine said of its files.
    """
    block, identity = made.get("encoder"), made.get("identity", {})
    if not block:
        return None
    read = params.encoder(name)
    now = read.model_dump(mode="json")
    # The engine decides which other keys there are; `transform` is left out where there is none.
    was = {"engine": None, "transform": None, **block}
    # Of vectors made elsewhere; it was taken whether the block asked or not.
    if "sha256" in identity:
        was["sha256"] = identity["sha256"]
    was, now = _comparable(type(read), was, now, identity.get("model"))
    if "sha256" in now:
        del now["path"]
    if "base_url" in was and "base_url" in now:
        was["base_url"], now["base_url"] = (b["base_url"].rstrip("/") for b in (was, now))
    if len(was.get("adapters", ())) == len(now.get("adapters", ())) > 0:
        parts = zip(was["adapters"], now["adapters"], identity.get("adapters", ()), strict=False)
        pairs = [_comparable(Adapter, *part) for part in parts]
        was["adapters"], now["adapters"] = ([pair[side] for pair in pairs] for side in (0, 1))
    return difference(was, now, f"encoders.{name}")


def _comparable(
    kind: type[BaseModel], was: Mapping[str, Any], now: Mapping[str, Any], found: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both blocks without the keys that change no vector, or that either leaves open.

    kind: what the block is read as; found: what the engine said of the model, or of the adapter.
    """
    commit = found.get("commit") if isinstance(found, Mapping) else None
    if commit and is_commit(now.get("revision")):
        was = {**was, "revision": commit}
    skipped = set()
    for name, info in kind.model_fields.items():
        left_open = Mark.PIN in info.metadata and None in (was.get(name), now.get(name))
        if left_open or Mark.IDLE in info.metadata:
            skipped.add(name)
    kept = ({k: v for k, v in block.items() if k not in skipped} for block in (was, now))
    return next(kept), next(kept)
