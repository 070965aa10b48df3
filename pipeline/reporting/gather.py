"""Gathering ranks into a result card, at once or cell by cell as they finish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import artifacts
from pipeline.cells import NONE, Cell, cells, finished
from pipeline.config import Params
from pipeline.errors import ArtifactError
from pipeline.evaluation.outcomes import Outcomes, load_grid, made_otherwise
from pipeline.reporting.card_analyses import KEY, gather
from pipeline.reporting.card_files import PROVENANCE, RANKS, SPECTRA, check_name
from pipeline.reporting.card_spectra import gather_spectra
from pipeline.reporting.cards import outcomes, rebuild
from pipeline.reporting.logs import minutes
from pipeline.reporting.protocol import line, own_settings, protocol, short
from pipeline.reporting.published import published_rows, published_values
from pipeline.reporting.searches import KEY as SEARCHES
from pipeline.reporting.searches import gather_searches


def collect(
    root: Path,
    target: Path,
    name: str,
    params: Params,
    revision: int,
    datasets: Sequence[str],
    logs: Path,
    recorded: Mapping[str, str],
    *,
    add: bool,
) -> list[Path]:
    """Gather the ranks of all cells of some data sets into a card and write its text.

    root: artifacts read; target: artifacts written; logs: folder of `spectran train` logs.
    revision: of `train` in revisions.yaml. recorded: facts about the machine and the libraries,
    told by the caller. add: keep the cells and data sets that the card in `target` holds beside
    those gathered now, which alone must be of this revision and of the inputs that are here. Cells
    of the grid without ranks are listed as missing.

    Raises ArtifactError when ranks are of other users or items than the rest, or were made from
    other inputs than are here now, when nothing was ranked, and when a kept cell was made with
    other settings; nothing is then written.
    """
    check_name(name)
    evaluate = params.evaluate.model_dump()
    old: Mapping[str, Any] = {"datasets": {}, "order": [], "recorded": {}, "evaluate": evaluate}
    if add:
        kept = artifacts.load_json(PROVENANCE, target, name=name)
        if lacking := sorted(old.keys() - kept.keys()):
            raise PROVENANCE.fail(target, {"name": name}, f"lacks {', '.join(lacking)}.")
        old = kept
    if old["evaluate"] != evaluate:
        raise PROVENANCE.fail(
            target, {"name": name}, "was measured with other values of `evaluate` in params.yaml."
        )
    gathered = {
        dataset: _Gathered.of(
            root, target, name, params, revision, dataset, old["datasets"].get(dataset)
        )
        for dataset in datasets
    }
    blocks = {
        dataset: _block(root, params, dataset, found, logs, old["datasets"].get(dataset))
        for dataset, found in gathered.items()
    }
    for dataset, found in gathered.items():
        header = {"items": found.items}
        outcomes(target, name, dataset, blocks[dataset], found.ranks, header)
    written = [
        RANKS.save(target, found.ranks, items=found.items, params={}, name=name, dataset=dataset)
        for dataset, found in gathered.items()
    ]
    written += [
        SPECTRA.save(
            target, found.spectra, items=found.items, params={}, name=name, dataset=dataset
        )
        for dataset, found in gathered.items()
    ]
    content = {
        "datasets": old["datasets"] | blocks,
        "order": list(dict.fromkeys([*old["order"], *datasets])),
        "evaluate": evaluate,
        "recorded": _joined(old["recorded"], recorded),
    }
    written.append(artifacts.save_json(PROVENANCE, target, content, name=name))
    return [*written, *rebuild(target, target, name)]


@dataclass(frozen=True)
class _Gathered:
    """The cells of one data set: ranked now, kept from the card, missing."""

    found: Sequence[Outcomes]
    kept: Sequence[Mapping[str, Any]]
    """Entries of the card's provenance."""
    missing: Sequence[Cell]
    ranks: pa.Table
    spectra: pa.Table
    items: str
    """Fingerprint of the catalogue."""

    @classmethod
    def of(
        cls,
        root: Path,
        target: Path,
        name: str,
        params: Params,
        revision: int,
        dataset: str,
        block: Mapping[str, Any] | None,
    ) -> _Gathered:
        """Read ranks below root, and the cells of the card's block that are not among them."""
        wanted = cells(params.grid, dataset)
        ranked = [cell for cell in wanted if finished(root, params, cell)]
        found = load_grid(root, params, revision, ranked or wanted)
        fresh = {str(cell) for cell in ranked}
        seen_items = params.evaluate.seen_items
        tables = [_compact(root, c.cell, s, seen_items) for c in found for s in c.seeds]
        kept = [entry for entry in (block or {"cells": ()})["cells"] if entry["cell"] not in fresh]
        measured = [gather_spectra(root, [(c.cell, c.seeds) for c in found])]
        if kept:
            table, header = RANKS.load(target, name=name, dataset=dataset)
            if header["items"] != found[0].items:
                raise RANKS.fail(
                    target,
                    {"name": name, "dataset": dataset},
                    f"is about other items than ranks/{found[0].cell}.",
                )
            for entry in kept:
                _refuse_unlike(entry, found[0], params)
            old = pa.array([entry["cell"] for entry in kept])
            tables.insert(0, table.filter(pc.is_in(table["cell"], value_set=old)))
            where = {"name": name, "dataset": dataset}
            if SPECTRA.path(target, **where).exists():  # older cards have none
                table, _ = SPECTRA.load(target, items=found[0].items, **where)
                measured.insert(0, table.filter(pc.is_in(table["cell"], value_set=old)))
        ranks = pa.concat_tables(tables)
        if "test" not in ranks["split"].unique().to_pylist():
            raise ArtifactError(f"ranks of {dataset} hold no test users; a card would be empty.")
        held = fresh | {entry["cell"] for entry in kept}
        missing = [cell for cell in wanted if str(cell) not in held]
        spectra = pa.concat_tables(measured)
        return cls(found, kept, missing, ranks, spectra, found[0].items)


def _refuse_unlike(entry: Mapping[str, Any], fresh: Outcomes, params: Params) -> None:
    """Raise unless a kept cell read the sequences of a fresh one and params.yaml describes it.

    The protocol line of all is written from params.yaml.

    Raises ConfigError for a name that params.yaml lacks, ArtifactError for other settings.
    """
    cell, made_from = Cell.parse(entry["cell"]), entry["params"]
    here, there = (
        p.get("inputs", {}).get("sequences") for p in (made_from, fresh.provenance["params"])
    )
    if here != there:
        raise ArtifactError(
            f"the card holds {cell} trained on other sequences than ranks/{fresh.cell}. "
            f"Run: {cell.command}   (or gather without --add)"
        )
    if cell.encoder != NONE:
        params.encoder(cell.encoder)
    if changed := made_otherwise(cell, made_from, params):
        raise ArtifactError(
            f"the card holds {cell} made with {changed.told(params)} Run: {cell.command}   (or "
            f"gather without --add)"
        )


def _block(
    root: Path,
    params: Params,
    dataset: str,
    gathered: _Gathered,
    logs: Path,
    old: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what provenance.json holds of one data set; cells in the order of the grid, if it
    names all.
    """
    monitor = f"valid/ndcg@{params.train_for(dataset).monitor_k}"
    entries = [*gathered.kept] + [
        {
            "cell": str(cell.cell),
            "seeds": list(cell.seeds),
            "minutes": minutes(logs, cell.cell, cell.seeds),
            KEY: gather(root, logs, cell.cell, cell.seeds, monitor),
            **cell.provenance,
        }
        for cell in gathered.found
    ]
    before = [entry["cell"] for entry in (old or {"cells": ()})["cells"]]
    order = [str(cell) for cell in cells(params.grid, dataset)]
    if not set(before) <= set(order):  # a grid of new cells only
        order = list(dict.fromkeys([*before, *order]))
    entries.sort(key=lambda entry: order.index(entry["cell"]))
    shown = [Cell.parse(entry["cell"]) for entry in entries]
    topics = protocol(params, dataset, shown)
    backbones = {cell.backbone for cell in shown}
    return {
        "protocol": line(topics),
        "protocol_short": short(topics),
        "settings": own_settings(params, shown),
        "reference": published_rows(dataset, backbones),
        "published": published_values(dataset, backbones, params),
        "controls": sorted({cell.encoder for cell in shown} & params.transformed),
        "control_of": {c: b for c, b in params.controls.items() if c in {s.encoder for s in shown}},
        "missing": [str(cell) for cell in gathered.missing],
        SEARCHES: gather_searches(root, [*shown, *gathered.missing], (old or {}).get(SEARCHES, {})),
        "cells": entries,
    }


def _joined(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Return the facts of both, where they differ one beside the other."""
    return {
        key: " and ".join(dict.fromkeys([*old.get(key, value).split(" and "), value]))
        for key, value in {**old, **new}.items()
    }


def _compact(root: Path, cell: Cell, seed: int, seen_items: str) -> pa.Table:
    table, _ = artifacts.RANKS.load(root, **cell.fields, seed=seed)
    table = table.sort_by([("split", "ascending"), ("user", "ascending")])
    suffix = "" if seen_items == "candidates" else "_unseen"
    schema = RANKS.schema
    assert schema is not None
    return pa.table(
        {
            "cell": pa.array([str(cell)] * len(table), pa.string()),
            "seed": pa.array(np.full(len(table), seed), pa.uint32()),
            "split": table["split"],
            "user": table["user"],
            "greater": table[f"greater{suffix}"],
            "equal": table[f"equal{suffix}"],
            "target_train_count": table["target_train_count"],
        },
        schema=schema,
    )
