"""Result cards: measured tables kept in the repository with the ranks they are computed from.

A card folder holds the per-user ranks of the held-out targets (`ranks-DATASET.parquet`), what made
them (`provenance.json`) and the spectra of the item vectors (`spectra-DATASET.parquet`). `card.md`,
the CSV files and the pictures follow from these alone, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import artifacts
from pipeline.cells import Cell
from pipeline.config import EvaluateConfig
from pipeline.evaluation.comparisons import compare
from pipeline.evaluation.metrics import measure
from pipeline.evaluation.outcomes import Outcomes, rank_of
from pipeline.files import TEMPORARY, write_atomic
from pipeline.reporting.card_analyses import KEY
from pipeline.reporting.card_figures import variants_of
from pipeline.reporting.card_files import (
    FOLDER,
    PICTURES,
    PROVENANCE,
    RANKS,
    SPECTRA,
    TEXTS,
    check_name,
)
from pipeline.reporting.card_text import (
    Chapter,
    card_analyses,
    card_csv,
    card_markdown,
    card_orderings,
    card_replication,
    card_searches,
    pictures,
)
from pipeline.reporting.orderings import orderings
from pipeline.reporting.replication import replications
from pipeline.reporting.tables import Numbers
from pipeline.strict import build


def rebuild(root: Path, target: Path, name: str) -> list[Path]:
    """Write the card's texts and pictures from what else it holds; return their paths."""
    facts, chapters = read(root, name)
    folder = target / FOLDER.format(name=check_name(name))
    texts = (
        card_markdown(name, facts, chapters),
        card_csv(chapters),
        card_orderings(chapters),
        card_replication(chapters),
        card_analyses(chapters),
        card_searches(chapters),
    )
    files = dict(zip(TEXTS, texts, strict=True))
    for chapter in chapters:
        drawn = pictures(chapter)
        for picture in PICTURES:  # that of an earlier gathering would stay
            file = picture.format(dataset=chapter.numbers.dataset)
            if file not in drawn:
                (folder / file).unlink(missing_ok=True)
        files |= drawn
    for file, text in files.items():
        write_atomic(folder / file, text.encode(), target / TEMPORARY)
    return [folder / file for file in files]


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
        table, header = RANKS.load(root, name=name, dataset=dataset)
        found = outcomes(root, name, dataset, block, table, header)
        metrics = measure(found, config)
        # Older cards do not say what their controls were made from; they have no such tests.
        pairs = variants_of(block, [one.cell for one in found])
        tests = compare(found, config, block.get("control_of", {}), pairs)
        # Cards gathered before orderings were compared lack both keys; they show none.
        published, controls = block.get("published", {}), block.get("controls", [])
        rows = metrics.to_pylist(), tests.to_pylist()
        numbers = Numbers(dataset, *rows, config.alpha, controls)
        orders = orderings(found, published, controls, config.alpha)
        known = replications(found, block["reference"], numbers.shown, config.alpha)
        spectra = _spectra(root, name, dataset, block, header["items"])
        chapters.append(Chapter(numbers, block, orders, known, spectra))
    return facts, chapters


def _spectra(
    root: Path, name: str, dataset: str, block: Mapping[str, Any], items: str
) -> list[dict[str, Any]]:
    """Return the spectra of a data set; none in cards gathered before they were kept.

    Raises ArtifactError for cells that the card does not hold or did not measure.
    """
    where = {"name": name, "dataset": dataset}
    if not SPECTRA.path(root, **where).exists():
        return []
    rows: list[dict[str, Any]] = SPECTRA.load(root, items=items, **where)[0].to_pylist()
    known = {entry["cell"] for entry in block["cells"] if entry.get(KEY, {}).get("collapse")}
    if strange := {row["cell"] for row in rows} - known:
        raise SPECTRA.fail(
            root, where, f"holds spectra of {min(strange)}, of which provenance.json tells none."
        )
    return rows


def outcomes(
    root: Path,
    name: str,
    dataset: str,
    block: Mapping[str, Any],
    table: pa.Table,
    header: Mapping[str, Any],
) -> list[Outcomes]:
    """Return the ranks of a card's cells of one data set.

    Raises ArtifactError unless all are about the same users.
    """
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
