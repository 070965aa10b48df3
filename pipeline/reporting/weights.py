"""What spectral attention learned, from the curves: SpecTran's Table 6, the polynomial and f."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.cells import Cell
from pipeline.errors import ArtifactError
from pipeline.reporting.best import at_best
from pipeline.reporting.charts import Panel, Series, axis, line_chart
from pipeline.reporting.tables import Numbers

COLUMNS = {
    "principal": "principal",
    "subordinate": "subordinate",
    "shrink": "lambda",
    "zeros": "exact zeros",
    "std_text": "std of text",
    "std_id": "std of IDs",
}
"""Curve -> title of its column."""

COEFFICIENT = "position_"
"""Curves of the polynomial's coefficients start so."""


def weights_table(
    numbers: Numbers,
    curves: Mapping[Cell, Mapping[int, Sequence[Mapping[str, Any]]]],
    monitor: str,
) -> list[dict[str, str]]:
    """Return one row per cell with spectral weights: means over seeds in their best states."""
    cells = {
        cell: [at_best(rows, monitor) for rows in seeds.values()] for cell, seeds in curves.items()
    }
    cells = {cell: found for cell, found in cells.items() if all("principal" in f for f in found)}
    powers = sorted(
        {n for found in cells.values() for f in found for n in f if n.startswith(COEFFICIENT)},
        key=lambda name: int(name.removeprefix(COEFFICIENT)),
    )
    titles = COLUMNS | {name: f"a{name.removeprefix(COEFFICIENT)}" for name in powers}
    table = []
    for cell, found in cells.items():
        row = {"cell": numbers.label(cell)}
        for name, title in titles.items():
            values = [f[name] for f in found if name in f]
            row[title] = f"{fmean(values):.4g}" if values else "-"
        table.append(row)
    return table


SUMMARY_COLUMNS = (
    "dataset", "encoder", "backbone", "method", "seed", "principal_mean", "principal_sum",
    "subordinate_mean", "subordinate_sum", "lambda", "zeros",
)  # fmt: skip
"""Of spectral_summary.csv, before a_0..a_K: over output dimensions, in the best state."""


def summary_rows(
    curves: Mapping[Cell, Mapping[int, Sequence[Mapping[str, Any]]]],
    monitor: str,
    provenance: Mapping[str, Any],
    spectra: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return one row per cell with spectral weights and seed; a_k of its own powers only.

    A curve is the mean over the dimensions that have such a weight: min(D', R) principal ones and
    D' subordinate ones. provenance, spectra, errors: see `positions`.
    """
    found = []
    for cell, seeds in curves.items():
        for seed, rows in seeds.items():
            best = at_best(rows, monitor)
            if "principal" not in best:
                continue
            made = provenance[str(cell)]["params"]
            width = _text_width(made)
            principal = min(width, len(_singular(cell, made, spectra)))
            row = {
                **cell.fields,
                "seed": seed,
                "principal_mean": best["principal"],
                "principal_sum": best["principal"] * principal,
                "subordinate_mean": best["subordinate"],
                "subordinate_sum": best["subordinate"] * width,
                "lambda": best.get("shrink"),
                "zeros": best.get("zeros"),
            }
            found.append(row | {f"a_{k}": a for k, a in coefficients(best).items()})
    return found


def summary_table(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the rows of `summary_rows` with all columns, None where one has no value, and these.

    a_k stand in the order of their powers.
    """
    powers = {name for row in rows for name in row} - set(SUMMARY_COLUMNS)
    ordered = sorted(powers, key=lambda name: int(name.removeprefix("a_")))
    columns = (*SUMMARY_COLUMNS, *ordered)
    return [dict.fromkeys(columns) | dict(row) for row in rows], columns


POSITION_COLUMNS = (
    "dataset", "encoder", "backbone", "method", "seed", "component", "singular_value", "start",
    "learned",
)  # fmt: skip
"""Of spectral_weights.csv; start and learned: f before training and in the best state."""


@dataclass(frozen=True)
class Position:
    """f(s_1..s_D) = scale * sum_k a_k (s / s_1)^k of one cell, D the columns of its text part."""

    cell: Cell
    name: str
    singular: tuple[float, ...]
    """s_i, [D]."""
    start: tuple[float, ...]
    """f with all a_k = 1, [D]."""
    learned: Mapping[int, tuple[float, ...]]
    """Seed -> f in the best state, [D]."""


def positions(
    numbers: Numbers,
    curves: Mapping[Cell, Mapping[int, Sequence[Mapping[str, Any]]]],
    monitor: str,
    provenance: Mapping[str, Any],
    spectra: Mapping[str, Mapping[str, Any]],
) -> list[Position]:
    """Return f of every cell that learned its polynomial.

    provenance: cell -> what made its ranks; spectra: encoder -> SPECTRUM_STATS.
    Raises ArtifactError when these lack the view that a cell was trained on.
    """
    found = []
    for cell, seeds in curves.items():
        made = provenance[str(cell)]["params"]
        learned = {seed: coefficients(at_best(rows, monitor)) for seed, rows in seeds.items()}
        if not all(learned.values()) or not made["method"].get("learn_position"):
            continue
        singular, scale = _components(made, _singular(cell, made, spectra))
        ones = dict.fromkeys(next(iter(learned.values())), 1.0)
        by_seed = {seed: polynomial(own, singular, scale) for seed, own in learned.items()}
        start = polynomial(ones, singular, scale)
        found.append(Position(cell, numbers.label(cell), singular, start, by_seed))
    return found


def polynomial(
    weights: Mapping[int, float], singular: Sequence[float], scale: Sequence[float]
) -> tuple[float, ...]:
    """Return f of descending singular values [D], as `Position` writes it; weights: k -> a_k."""
    ratios = [s / singular[0] for s in singular]
    return tuple(
        factor * sum(a * ratio**k for k, a in weights.items())
        for factor, ratio in zip(scale, ratios, strict=True)
    )


def coefficients(values: Mapping[str, float]) -> dict[int, float]:
    """Return power -> a_k of the curves' values."""
    return {
        int(name.removeprefix(COEFFICIENT)): value
        for name, value in values.items()
        if name.startswith(COEFFICIENT)
    }


def _singular(
    cell: Cell, made: Mapping[str, Any], spectra: Mapping[str, Mapping[str, Any]]
) -> Sequence[float]:
    """Return the singular values [R] that a cell was trained on.

    Raises ArtifactError when the statistics lack its view.
    """
    views, view = spectra[cell.encoder]["views"], made["method"]["view"]
    if view not in views:
        raise ArtifactError(
            f"{cell} was trained on the view `{view}`, of which there are no statistics. "
            f"Run: spectran spectrum {cell.dataset} {cell.encoder}"
        )
    values: Sequence[float] = views[view]["singular_values"]
    return values


def _text_width(made: Mapping[str, Any]) -> int:
    """Return D', the columns of the text part."""
    method, width = made["method"], int(made["train"]["width"])
    return width - round(method["id_share"] * width) if method["fusion"] == "concat" else width


def _components(
    made: Mapping[str, Any], values: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the singular values of the principal components, and what scales each one's f."""
    size = made["method"]["embed_scale"]
    singular = tuple(size * value for value in values[: _text_width(made)])
    ones = (1.0,) * len(singular)
    scales = {"s1": singular[:1] * len(singular), "si": singular, "none": ones}
    return singular, scales[made["method"]["position_scale"]]


def position_charts(found: Sequence[Position]) -> list[Panel]:
    """Return f over the components, one chart per cell: its start, Sigma, and a line per seed."""
    panels = []
    for one in found:
        named = {"start": one.start, "singular values": one.singular}
        named |= {f"seed {seed}": values for seed, values in one.learned.items()}
        lines = [
            Series(name, tuple((i + 1.0, v) for i, v in enumerate(values)))
            for name, values in named.items()
        ]
        x = axis("component", [a for a, _ in lines[0].points], log=True)
        y = axis("f", [b for line in lines for _, b in line.points], zero=True)
        panels.append(Panel(one.name, line_chart(lines, x, y, f"f of {one.name}", 420, 240)))
    return panels


def position_rows(found: Sequence[Position]) -> list[dict[str, Any]]:
    """Return f of every component and seed, for spectral_weights.csv."""
    return [
        {
            **one.cell.fields,
            "seed": seed,
            "component": place + 1,
            "singular_value": one.singular[place],
            "start": one.start[place],
            "learned": value,
        }
        for one in found
        for seed, values in one.learned.items()
        for place, value in enumerate(values)
    ]
