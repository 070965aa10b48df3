"""What a card tells of its models beside their ranks: sizes, times, collapse, spectral weights.

Measured on models, which a card does not keep: gathered with a cell's ranks and kept with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline import artifacts
from pipeline.agreement import difference
from pipeline.cells import PARTS, Cell
from pipeline.reporting.best import at_best, best_epoch
from pipeline.reporting.collapse import PARTS as MEASURED
from pipeline.reporting.collapse import STATES, STATISTICS
from pipeline.reporting.efficiency import seconds
from pipeline.reporting.exports import escape, table_row
from pipeline.reporting.logs import times
from pipeline.reporting.tables import Numbers
from pipeline.reporting.weights import COEFFICIENT, COLUMNS

KEY = "analyses"
"""Of a cell's entry in provenance.json."""
CSV_COLUMNS = (*PARTS, "quantity", "view", "part", "state", "value")
WEIGHTS = ("principal", "subordinate", "zeros", "std_text", "std_id")
"""Curves in the card's table; analyses.csv holds all."""


def gather(
    root: Path, logs: Path, cell: Cell, seeds: Sequence[int], monitor: str
) -> dict[str, Any]:
    """Return what is there of a cell, means over its seeds; nothing for untrained cells.

    root: artifacts; logs: of `spectran train`; monitor: the curve that early stopping watched.
    """
    if not cell.trained:
        return {}
    found: dict[str, Any] = {}
    if sizes := _rows(root, artifacts.SIZES, cell, seeds):
        found["parameters"] = sizes[0]["method_parameters"] + sizes[0]["backbone_parameters"]
    if told := times(logs, cell, seeds):
        found |= {"epoch_s": told.epoch_s, "rank_s_per_1000_users": told.rank_s}
    if rows := collapse_rows(root, cell, seeds):
        found["collapse"] = _means(rows)
    curves = [artifacts.CURVES.path(root, **cell.fields, seed=seed) for seed in seeds]
    if all(path.exists() for path in curves):
        tables = [artifacts.CURVES.load(root, **cell.fields, seed=seed)[0] for seed in seeds]
        histories = [table.to_pylist() for table in tables]
        found["best_epoch"] = best_epoch(histories, monitor)
        best = [at_best(history, monitor) for history in histories]
        names = [n for n in best[0] if n in COLUMNS or n.startswith(COEFFICIENT)]
        weights = {n: fmean(values[n] for values in best) for n in names}
        if weights:
            found["weights"] = weights
    return found


def collapse_rows(root: Path, cell: Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a cell's rows of COLLAPSE; none unless all its seeds were measured."""
    if not cell.trained:
        return []
    found = _rows(root, artifacts.COLLAPSE, cell, seeds)
    rows = [row for row in found if row["seed"] in seeds]
    return rows if {row["seed"] for row in rows} == set(seeds) else []


def _rows(
    root: Path, artifact: artifacts.Table, cell: Cell, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a cell's rows of what was measured on the models of its data set.

    None where these models were made otherwise than the cell's ranks.
    """
    if not artifact.path(root, dataset=cell.dataset).exists():
        return []
    table, header = artifact.load(root, dataset=cell.dataset)
    if (made := header["params"].get("made", {}).get(str(cell))) is not None:
        _, ranks = artifacts.RANKS.open(root, **cell.fields, seed=seeds[0])
        if difference(made, ranks["params"], ""):
            return []
    own = {name: value for name, value in cell.fields.items() if name != "dataset"}
    return [row for row in table.to_pylist() if own.items() <= row.items()]


def _means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["view"], row["part"], row["state"]), []).append(row)
    found = []
    for (view, part, state), own in groups.items():
        values: dict[str, Any] = {"view": view, "part": part, "state": state}
        for name in STATISTICS:
            known = [row[name] for row in own if row[name] is not None]
            values[name] = fmean(known) if known else None
        found.append(values)
    return found


def analyses_rows(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of analyses.csv; block: a data set's part of provenance.json."""
    for entry in block["cells"]:
        fields = Cell.parse(entry["cell"]).fields
        told = entry.get(KEY, {})
        for name in ("parameters", "best_epoch", "epoch_s", "rank_s_per_1000_users"):
            if told.get(name) is not None:
                yield {**fields, "quantity": name, "value": told[name]}
        for row in told.get("collapse", []):
            where = {name: row[name] for name in ("view", "part", "state")}
            for name in STATISTICS:
                yield {**fields, **where, "quantity": name, "value": row[name]}
        for name, value in told.get("weights", {}).items():
            yield {**fields, "quantity": name, "state": "trained", "value": value}


def analyses_markdown(
    numbers: Numbers, block: Mapping[str, Any], picture: Sequence[str], protocol: Sequence[str]
) -> list[str]:
    """Return the lines of the section; none where nothing was measured.

    picture: lines below its heading.
    """
    told = {Cell.parse(e["cell"]): e[KEY] for e in block["cells"] if e.get(KEY)}
    if not told:
        return []
    heads = ["vectors", "measured"]
    heads += [f"{STATISTICS[n][0]} {w}" for n in STATISTICS for w in STATES.values()]
    heads += [COLUMNS[name] for name in WEIGHTS] + ["parameters", "s per epoch"]
    lines = ["### Models: spectra of the item vectors, sizes and times", "", *picture]
    lines.append(table_row(heads))
    lines.append("|---|---|" + "---:|" * (len(heads) - 2))
    for cell, found in told.items():
        lines += [table_row(row) for row in _table(numbers.label(cell), found)]
    legend = (
        "Means over seeds. Effective rank, participation ratio and the share of the ten strongest "
        "directions are of the covariance of the item vectors, before and after training: of the "
        "text part where there is one, before ID vectors join. principal: mean of |A_ii + f(s_i)|; "
        "subordinate: mean of sum |A_ij| over components beyond the width. Seconds are of the "
        "machine that trained. All values: `analyses.csv`."
    )
    return [*lines, "", legend, *protocol]


def _table(label: str, found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield one row per part of a view of a cell."""
    views: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in found.get("collapse", []):
        views.setdefault((row["view"], row["part"]), {})[row["state"]] = row
    weights = [found.get("weights", {}).get(name) for name in WEIGHTS]
    size, epoch = found.get("parameters"), found.get("epoch_s")
    rest = ["-" if value is None else f"{value:.3g}" for value in weights]
    rest += ["-" if size is None else f"{size:,}", seconds(epoch)]
    for (view, part), states in views.items() or {("", ""): {}}.items():
        name = f"{label}, {view}" if len({v for v, _ in views}) > 1 else label
        values = []
        for statistic, (_, form) in STATISTICS.items():
            for state in STATES:
                value = states.get(state, {}).get(statistic)
                values.append("-" if value is None else form.format(value))
        yield [escape(name), MEASURED.get(part, "-"), *values, *rest]
        rest = ["-"] * len(rest)
