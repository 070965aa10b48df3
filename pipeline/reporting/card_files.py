"""Where a result card keeps what, and what of it is written from the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.artifacts import Artifact, Table
from pipeline.errors import ConfigError
from pipeline.params import NAME

FOLDER = "report/cards/{name}"
TEXTS = (
    "card.md",
    "card.csv",
    "orderings.csv",
    "replication.csv",
    "analyses.csv",
    "searches.csv",
)
SCORES = "scores-{dataset}.svg"
SPECTRA_PICTURE = "spectra-{dataset}.svg"
VARIANTS = "variants-{dataset}.svg"
WIDTHS = "widths-{dataset}.svg"
COSTS = "costs-{dataset}.svg"
PICTURES = (SCORES, SPECTRA_PICTURE, VARIANTS, WIDTHS, COSTS)
"""Of a data set; all but the first only where the card holds what they show."""
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
SPECTRA = Table(
    "card_spectra",
    f"{FOLDER}/spectra-{{dataset}}.parquet",
    COLLECT,
    schema=pa.schema(
        [
            pa.field("cell", pa.string()),
            pa.field("view", pa.string()),
            pa.field("part", pa.string()),
            pa.field("state", pa.string()),
            pa.field("cumulative", pa.list_(pa.float32())),
        ]
    ),
)
"""Mean over seeds of COLLAPSE's cumulative shares; view, part and state as there."""


def check_name(name: str) -> str:
    """Return the name of a card. Raises ConfigError unless it can be a folder."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"--card {name}: a name is small letters, digits and _.")
    return name


def to_write(folder: Path, datasets: Sequence[str]) -> list[Path]:
    """Return what a card about some data sets, and those it holds already, may write."""
    before, after = Path(RANKS.template).name.split("{dataset}")
    held = [
        path.name.removeprefix(before).removesuffix(after)
        for path in sorted(folder.glob(f"{before}*{after}"))
    ]
    pictures = [
        name.format(dataset=dataset)
        for dataset in dict.fromkeys([*held, *datasets])
        for name in PICTURES
    ]
    return [folder / name for name in (*TEXTS, *pictures)]
