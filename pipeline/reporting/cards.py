"""Result cards: measured tables kept in the repository with the ranks they are computed from.

A card folder holds the per-user ranks of the held-out targets (`ranks-DATASET.parquet`) and what
made them (`provenance.json`). `card.md`, `card.csv` and `orderings.csv` follow from these two
alone, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import artifacts
from pipeline.artifacts import Artifact, Table
from pipeline.cells import Cell, cells
from pipeline.config import EvaluateConfig, Params
from pipeline.errors import ArtifactError, ConfigError
from pipeline.evaluation.comparisons import compare
from pipeline.evaluation.metrics import measure
from pipeline.evaluation.outcomes import Outcomes, load_grid, rank_of
from pipeline.files import TEMPORARY, write_atomic
from pipeline.params import NAME, read_yaml
from pipeline.reporting.card_text import Chapter, card_csv, card_markdown, card_orderings
from pipeline.reporting.logs import minutes
from pipeline.reporting.orderings import K, orderings
from pipeline.reporting.protocol import line, protocol, short
from pipeline.reporting.tables import Numbers
from pipeline.strict import build

FOLDER = "report/cards/{name}"
COLLECT = "spectran report --card {name} --collect DATASET"
PROVENANCE = Artifact("card", f"{FOLDER}/provenance.json", COLLECT)
RANKS = Table(
    "card_ranks",
    f"{FOLDER}/ranks-{{dataset}}.parquet",
    COLLECT,
    schema=pa.schema(
        [
            pa.field("cell", pa.string()),
            pa.field("seed", pa.uint32()),
            pa.field("split", pa.string()),
            pa.field("user", pa.uint32()),
            pa.field("greater", pa.uint32()),
            pa.field("equal", pa.uint32()),
            pa.field("target_train_count", pa.uint32()),
        ]
    ),
)
"""Both held-out splits: what was chosen on validation can be checked.

greater and equal are counted with or without seen items, as `evaluate.seen_items` says.
"""

REFERENCE = Path(__file__).parent / "reference.yaml"
PUBLISHED = f"NDCG@{K}"
"""Key of the values in it that orderings are compared with."""


def check_name(name: str) -> str:
    """Return the name of a card. Raises ConfigError unless it can be a folder."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"--card {name}: a name is small letters, digits and _.")
    return name


def collect(
    root: Path,
    target: Path,
    name: str,
    params: Params,
    datasets: Sequence[str],
    logs: Path,
    recorded: Mapping[str, str],
) -> list[Path]:
    """Gather the ranks of all cells of some data sets into a card and write its text.

    root: artifacts read; target: artifacts written; logs: folder of `spectran train` logs.
    recorded: facts about the machine and the libraries, told by the caller.
    """
    check_name(name)
    references = read_yaml(REFERENCE)
    controls = [name for name, encoder in params.encoders.items() if encoder.transform is not None]
    written, blocks = [], {}
    for dataset in datasets:
        found = load_grid(root, params, cells(params.grid, dataset))
        table = pa.concat_tables(
            _compact(root, cell.cell, seed, params.evaluate.seen_items)
            for cell in found
            for seed in cell.seeds
        )
        if "test" not in table["split"].unique().to_pylist():
            raise ArtifactError(f"ranks of {dataset} hold no test users; a card would be empty.")
        written.append(
            RANKS.save(target, table, items=found[0].items, params={}, name=name, dataset=dataset)
        )
        topics = protocol(params, dataset)
        blocks[dataset] = {
            "protocol": line(topics),
            "protocol_short": short(topics),
            "reference": references.get(dataset, {}).get("rows", []),
            "published": references.get(dataset, {}).get(PUBLISHED, {}),
            "controls": sorted({cell.cell.encoder for cell in found} & set(controls)),
            "cells": [
                {
                    "cell": str(cell.cell),
                    "seeds": list(cell.seeds),
                    "minutes": minutes(logs, cell.cell, cell.seeds),
                    **cell.provenance,
                }
                for cell in found
            ],
        }
    content = {
        "datasets": blocks,
        "order": list(datasets),
        "evaluate": params.evaluate.model_dump(),
        "recorded": dict(recorded),
    }
    written.append(artifacts.save_json(PROVENANCE, target, content, name=name))
    return [*written, *rebuild(target, target, name)]


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


def rebuild(root: Path, target: Path, name: str) -> list[Path]:
    """Write the card's texts from its own ranks and provenance; return their paths."""
    facts, chapters = read(root, name)
    folder = target / FOLDER.format(name=check_name(name))
    written = []
    for file, text in (
        ("card.md", card_markdown(name, facts, chapters)),
        ("card.csv", card_csv(chapters)),
        ("orderings.csv", card_orderings(chapters)),
    ):
        write_atomic(folder / file, text.encode(), target / TEMPORARY)
        written.append(folder / file)
    return written


def read(root: Path, name: str) -> tuple[dict[str, Any], list[Chapter]]:
    """Return a card's provenance, and what it shows of every data set."""
    facts = artifacts.load_json(PROVENANCE, root, name=check_name(name))
    try:
        blocks = [(dataset, facts["datasets"][dataset]) for dataset in facts["order"]]
        config = build(EvaluateConfig, facts["evaluate"], f"{name}/provenance.json: evaluate")
    except (KeyError, TypeError) as error:
        raise PROVENANCE.fail(root, {"name": name}, f"lacks {error}.") from None
    chapters = []
    for dataset, block in blocks:
        outcomes = _outcomes(root, name, dataset, block)
        metrics, tests = measure(outcomes, config), compare(outcomes, config)
        numbers = Numbers(dataset, metrics.to_pylist(), tests.to_pylist(), config.alpha)
        # Cards gathered before orderings were compared lack both keys; they show none.
        published, controls = block.get("published", {}), block.get("controls", [])
        orders = orderings(outcomes, published, controls, config.alpha)
        chapters.append(Chapter(numbers, block, orders))
    return facts, chapters


def _outcomes(root: Path, name: str, dataset: str, block: Mapping[str, Any]) -> list[Outcomes]:
    table, header = RANKS.load(root, name=name, dataset=dataset)
    words = {name: np.asarray(table[name].to_pylist(), np.str_) for name in ("cell", "split")}
    columns = {f: table[f].to_numpy() for f in table.column_names if f not in words}
    found: list[Outcomes] = []
    for entry in block["cells"]:
        ranks = []
        for seed in entry["seeds"]:
            rows = np.flatnonzero((words["cell"] == entry["cell"]) & (columns["seed"] == seed))
            users, split = columns["user"][rows].astype(np.int64), words["split"][rows]
            same = not found or (
                np.array_equal(users, found[0].user) and np.array_equal(split, found[0].split)
            )
            if not len(rows) or not same:
                raise RANKS.fail(
                    root,
                    {"name": name, "dataset": dataset},
                    f"holds other users for {entry['cell']} seed {seed} than for the first cell.",
                )
            ranks.append(rank_of(columns["greater"][rows], columns["equal"][rows]))
        found.append(
            Outcomes(
                cell=Cell.parse(entry["cell"]),
                seeds=tuple(entry["seeds"]),
                user=users,
                split=split,
                target=np.zeros(len(users), dtype=np.int64),
                train_count=columns["target_train_count"][rows].astype(np.int64),
                rank=np.stack(ranks),
                items=str(header["items"]),
                provenance={},
            )
        )
    return found
