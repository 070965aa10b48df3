"""Blocks of params.yaml that only their own module can read, and revisions.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline import naming
from pipeline.config import Params
from pipeline.config.text import FromText, Model, Transformers
from pipeline.data.sources import reader
from pipeline.data.text import parse_template
from pipeline.encoders.hub import is_commit, on_hub
from pipeline.errors import ConfigError
from pipeline.params import read_revisions


def blocks(params: Params) -> Iterator[str]:
    """Yield what is wrong with the blocks that only their own module can read."""
    for kind in ("methods", "backbones"):
        written = getattr(params, kind)
        for name in written:
            try:
                naming.settings(kind, name, written)
            except ConfigError as error:
                yield from str(error).splitlines()
                continue
            yield from _own_train(params, kind, name)
            file = naming.file_of(kind, name, written)
            parts = ("Config", "build") + (("NEEDS",) if kind == "methods" else ())
            for part in parts:
                if not hasattr(naming.module(kind, file), part):
                    yield f"pipeline/{kind}/{file}.py: `{part}` is missing. See its neighbours."
    for name, dataset in params.datasets.items():
        try:
            reader(name, dataset.source)
        except ConfigError as error:
            yield str(error)


def _own_train(params: Params, kind: str, name: str) -> Iterator[str]:
    """Yield what is wrong with a block's own values of `train`, if no data set can use them."""
    said: list[str] = []
    for dataset in params.datasets:
        try:
            params.train_for(dataset, **{kind.removesuffix("s"): name})
        except ConfigError as error:
            said.append(str(error))
        else:
            return
    yield from said[0].splitlines() if said else ()


def templates(params: Params) -> Iterator[str]:
    """Yield templates of item text that `spectran encode` would refuse."""
    for name, encoder in params.encoders.items():
        if isinstance(encoder, FromText):
            try:
                parse_template(encoder.template)
            except ConfigError as error:
                yield f"params.yaml: encoders.{name}: {error}"


def unpinned(params: Params, base: Path) -> dict[str, str]:
    """Return what to say of each encoder whose hub model may change under the same name."""
    said = {}
    for name, encoder in params.encoders.items():
        if not isinstance(encoder, Model):
            continue
        parts = [encoder, *(encoder.adapters if isinstance(encoder, Transformers) else ())]
        loose = [p for p in parts if on_hub(p.model, base) and not is_commit(p.revision)]
        if loose:
            models = " and ".join(f"{p.model} (revision: {p.revision or 'null'})" for p in loose)
            said[name] = (
                f"params.yaml: encoders.{name}: the hub may serve another {models} tomorrow. "
                f"Write the commit as `revision`; `spectran encode` tells it."
            )
    return said


def revisions(base: Path) -> Iterator[str]:
    """Yield what is wrong with revisions.yaml."""
    try:
        read_revisions(base)
    except ConfigError as error:
        yield from str(error).splitlines()
