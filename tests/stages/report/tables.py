"""What the report wrote, and the same numbers computed one user at a time."""

from __future__ import annotations

import csv
import io
import math

from pipeline import artifacts


def read(made, name):
    """Rows of a table that the report wrote."""
    return list(csv.DictReader(io.StringIO((made.root / "report" / name).read_text())))


def naive_ndcg(made, method, k, backbone="sasrec"):
    """Mean NDCG@k over seeds and test users, one user at a time."""
    (cell,) = (c for c in made.cells if (c.method, c.backbone) == (method, backbone))
    values = []
    for seed in cell.seeds(made.params):
        for row in artifacts.RANKS.load(made.root, **cell.fields, seed=seed)[0].to_pylist():
            rank = 1 + row["greater"] + row["equal"] / 2
            if row["split"] == "test":
                values.append(1 / math.log2(rank + 1) if rank <= k else 0.0)
    return sum(values) / len(values)
