"""What a cell achieved for every user: the ranks of its seeds, aligned, and checked against others.

Metrics, tests and cards all start from here, whether the ranks come from `artifacts/` or a card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline import artifacts, naming
from pipeline.agreement import Difference, difference, outdated, refuse_other_inputs
from pipeline.cells import Cell, cells
from pipeline.config import Params
from pipeline.errors import ArtifactError
from pipeline.files import sha256_file

SPLITS = ("valid", "test")

SeenItems = Literal["candidates", "excluded"]


@dataclass(frozen=True)
class Outcomes:
    """Ranks of one cell: U held-out targets by S seeds, ordered by split and user."""

    cell: Cell
    seeds: tuple[int, ...]
    user: np.ndarray
    """[U] int64."""
    split: np.ndarray
    """[U] str, `valid` or `test`."""
    target: np.ndarray
    """[U] int64, item."""
    train_count: np.ndarray
    """[U] int64: training events of the target."""
    rank: np.ndarray
    """[S, U] float64, from 1, ties counted half."""
    items: str
    """Fingerprint of the catalogue."""
    provenance: Mapping[str, Any]
    """What made the ranks: params of the first seed, and the hash of every seed's file."""

    def of_split(self, split: str) -> Outcomes:
        """Return the outcomes of one split."""
        keep = self.split == split
        return replace(
            self,
            user=self.user[keep],
            split=self.split[keep],
            target=self.target[keep],
            train_count=self.train_count[keep],
            rank=self.rank[:, keep],
        )


def rank_of(greater: np.ndarray, equal: np.ndarray) -> np.ndarray:
    """Rank of a target with `greater` candidates strictly better and `equal` as good.

    Ties count half, so that a model which scores everything alike is no perfect one.
    """
    rank: np.ndarray = 1.0 + greater.astype(np.float64) + equal.astype(np.float64) / 2
    return rank


def load(root: Path, cell: Cell, seeds: Sequence[int], seen_items: SeenItems) -> Outcomes:
    """Read the ranks of all seeds of a cell.

    Raises ArtifactError when one is missing, damaged, about other users than the first, or made
    otherwise: what is told of a cell is told of all its seeds.
    """
    first: Outcomes | None = None
    ranks, hashes = [], {}
    for seed in seeds:
        table, header = artifacts.RANKS.load(root, **cell.fields, seed=seed)
        found = _one_seed(root, cell, seed, table, header, seen_items)
        if first is None:
            first = found
        else:
            _refuse_other_seed(first, found)
            refuse_other_users(first, found, f"{cell} seed {seed}")
        ranks.append(found.rank)
        hashes[str(seed)] = sha256_file(artifacts.RANKS.path(root, **cell.fields, seed=seed))
    assert first is not None
    return replace(
        first,
        seeds=tuple(seeds),
        rank=np.concatenate(ranks),
        provenance={"params": first.provenance, "ranks_sha256": hashes},
    )


def _one_seed(
    root: Path,
    cell: Cell,
    seed: int,
    table: pa.Table,
    header: Mapping[str, Any],
    seen_items: SeenItems,
) -> Outcomes:
    where = {**cell.fields, "seed": seed}
    for name in table.column_names:
        if table[name].null_count:
            raise artifacts.RANKS.fail(root, where, f"holds nulls in `{name}`.")
    table = table.sort_by([("split", "ascending"), ("user", "ascending")])
    split = np.asarray(table["split"].to_pylist(), dtype=np.str_)
    unknown = sorted(set(split) - set(SPLITS))
    if unknown:
        raise artifacts.RANKS.fail(
            root, where, f"has the split {unknown[0]!r}; allowed: {', '.join(SPLITS)}."
        )
    user = table["user"].to_numpy().astype(np.int64)
    twice = (user[1:] == user[:-1]) & (split[1:] == split[:-1])
    if twice.any():
        raise artifacts.RANKS.fail(root, where, f"holds user {user[1:][twice][0]} twice.")
    suffix = "" if seen_items == "candidates" else "_unseen"
    greater, equal, candidates = (
        table[f"{name}{suffix}"].to_numpy().astype(np.int64)
        for name in ("greater", "equal", "candidates")
    )
    # The target is one of the candidates, so at most candidates - 1 others precede or equal it.
    if (greater + equal >= candidates).any():
        raise artifacts.RANKS.fail(root, where, "counts more rivals than there are candidates.")
    return Outcomes(
        cell=cell,
        seeds=(seed,),
        user=user,
        split=split,
        target=table["target"].to_numpy().astype(np.int64),
        train_count=table["target_train_count"].to_numpy().astype(np.int64),
        rank=rank_of(greater, equal)[None],
        items=str(header["items"]),
        provenance=dict(header["params"]),
    )


def _refuse_other_seed(first: Outcomes, other: Outcomes) -> None:
    """Raise ArtifactError when two seeds of a cell were made with other values or inputs."""
    made = {**other.provenance, "seed": first.provenance.get("seed")}
    if found := difference(first.provenance, made, ""):
        was, now = (json.dumps(value, ensure_ascii=False) for value in (found.was, found.now))
        raise ArtifactError(
            f"ranks/{other.cell} seed {other.seeds[0]} was made otherwise than seed "
            f"{first.seeds[0]}: {found.key} = {now}, not {was}. Run: {other.cell.command}"
        )


def refuse_other_users(first: Outcomes, other: Outcomes, name: str) -> None:
    """Raise ArtifactError unless both hold the same targets of the same users and catalogue."""
    if first.items != other.items:
        raise ArtifactError(
            f"ranks/{name} was made from other items than {first.cell} ({other.items[:8]}.. "
            f"vs {first.items[:8]}..). Run: {other.cell.command}"
        )
    if len(first.user) != len(other.user):
        raise ArtifactError(
            f"ranks/{name} holds {len(other.user)} held-out targets but {first.cell} holds "
            f"{len(first.user)}; both must rank the same ones. Run: {other.cell.command}"
        )
    for field in ("split", "user", "target", "train_count"):
        differ = np.flatnonzero(getattr(first, field) != getattr(other, field))
        if len(differ):
            raise ArtifactError(
                f"ranks/{name} differs from {first.cell} in `{field}` of {len(differ)} of "
                f"{len(first.user)} held-out targets (first: user {other.user[differ[0]]}); both "
                f"must rank the same ones. Run: {other.cell.command}"
            )


def load_grid(root: Path, params: Params, revision: int, wanted: Sequence[Cell]) -> list[Outcomes]:
    """Read cells of one data set with the seeds that params give them.

    revision: of `train` in revisions.yaml. Raises ArtifactError unless all are about the same
    targets and made with these params, from the inputs that are there now and were made with them
    too.
    """
    found = [load(root, cell, cell.seeds(params), params.evaluate.seen_items) for cell in wanted]
    digest = cache(sha256_file)
    for other in found:
        cell, made = other.cell, other.provenance["params"]
        refuse_other_inputs(root, params, cell.dataset, cell.encoder, made.get("inputs", ()))
        if changed := made_otherwise(cell, made, params):
            raise ArtifactError(
                f"ranks/{cell} was made with {changed.told(params)} Run: {cell.command}"
            )
        if told := outdated(root, revision, cell, made, digest):
            raise ArtifactError(f"ranks/{cell} was {told} Run: {cell.command}")
    for other in found:
        refuse_other_users(found[0], other, str(other.cell))
    return found


def unfinished(root: Path, params: Params, revision: int, dataset: str) -> Iterator[Cell]:
    """Yield the cells of a data set that are to be trained, in the order of the grid.

    A seed has no ranks yet, damaged ones, or those of other inputs or of another revision.
    """
    digest = cache(sha256_file)
    for cell in cells(params.grid, dataset):
        if not all(_trained(root, revision, cell, s, digest) for s in cell.seeds(params)):
            yield cell


def _trained(
    root: Path, revision: int, cell: Cell, seed: int, digest: Callable[[Path], str]
) -> bool:
    """Whether a seed has ranks, made from what is there now."""
    try:
        _, header = artifacts.RANKS.open(root, **cell.fields, seed=seed)
    except ArtifactError:
        return False
    return outdated(root, revision, cell, header["params"], digest) is None


def completed(cell: Cell, made_from: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Return what made ranks, with the settings of method and backbone that came later.

    made_from: params of the ranks. Raises ConfigError for a name that params.yaml lacks.
    """
    blocks = {
        "method": naming.settings("methods", cell.method, params.methods),
        "backbone": naming.settings("backbones", cell.backbone, params.backbones),
    }
    then = {kind: block.completed(made_from.get(kind) or {}) for kind, block in blocks.items()}
    return {**made_from, **then}


def made_otherwise(cell: Cell, made_from: Mapping[str, Any], params: Params) -> Difference | None:
    """Return the first value of method, backbone or `train` that ranks were made without.

    The protocol line, written from params.yaml, would describe another training. made_from: params
    of the ranks. Raises ConfigError for a method or backbone that params.yaml lacks.
    """
    made_from = completed(cell, made_from, params)
    for kind, name in (("methods", cell.method), ("backbones", cell.backbone)):
        now = naming.settings(kind, name, getattr(params, kind)).model_dump(mode="json")
        if found := difference(made_from[kind.removesuffix("s")], now, f"{kind}.{name}"):
            return found
    made_with = made_from.get("train")
    if made_with is not None and cell.trained:
        now = cell.train(params).model_dump(mode="json", exclude={"seeds"})
        for key, value in now.items():
            if made_with.get(key) != value:
                return Difference(f"train.{key}", made_with.get(key), value)
    return None
