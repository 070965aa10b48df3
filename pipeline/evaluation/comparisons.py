"""Paired tests over users: each cell against the ID-only one and against the best one; those that
read text also against the strongest trained model without text, and against the same method on
text that says nothing about its items; variants of a method against that method.

A user's value is the mean over seeds. The t test decides, since its interval is the one shown;
Wilcoxon's signed ranks stand beside it. Corrected by Holm's step-down rule, which holds under any
dependence: all tests of a family share their users and their reference. A family is one data set,
split, metric, K and reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import artifacts
from pipeline.cells import NONE, Cell
from pipeline.config import EvaluateConfig
from pipeline.evaluation.metrics import METRICS, interval
from pipeline.evaluation.outcomes import SPLITS, Outcomes

ID_ONLY = "id"
"""The method without text that every other one is compared with."""


@dataclass(frozen=True)
class Paired:
    """Mean difference of paired values, its interval, and two p values."""

    users: int
    difference: float
    low: float | None
    high: float | None
    p_t: float | None
    p_wilcoxon: float | None


def paired(first: np.ndarray, second: np.ndarray, alpha: float) -> Paired:
    """Compare [U] values of the same users; positive when `first` is larger.

    Wilcoxon's p is the normal approximation with correction for ties, which are many: most users
    miss in both cells. With fewer than two users there is no test. Equal differences everywhere
    leave nothing to chance: p is 1 when all are zero, else 0 for the t test.
    """
    from scipy import stats

    gaps = first - second
    if len(gaps) < 2:
        return Paired(len(gaps), float(gaps.mean()) if len(gaps) else 0.0, None, None, None, None)
    bounds = interval(gaps, alpha)
    assert bounds is not None
    if not gaps.any():
        p_t = p_wilcoxon = 1.0
    else:
        constant = bool(np.ptp(gaps) == 0)
        p_t = 0.0 if constant else float(stats.ttest_rel(first, second).pvalue)
        p_wilcoxon = float(stats.wilcoxon(gaps[gaps != 0], method="approx").pvalue)
    return Paired(len(gaps), float(gaps.mean()), bounds[0], bounds[1], p_t, p_wilcoxon)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979): the i-th smallest of m is multiplied
    by m - i + 1, made non-decreasing and cut at 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def id_only(cell: Cell, known: Sequence[Cell]) -> Cell | None:
    """Return the ID-only cell of the same backbone; for an untrained cell the first one."""
    found = [other for other in known if other.method == ID_ONLY]
    same = [other for other in found if other.backbone == cell.backbone]
    if same:
        return same[0]
    return found[0] if found and not cell.trained else None


def strongest_plain(cell: Cell, strength: Mapping[Cell, float]) -> Cell | None:
    """Return what a text cell should beat: the strongest trained one of its backbone without text.

    None for cells without text, and where that is the ID-only cell, which all are compared with
    anyway. A gain over a weak ID model says nothing about the text.
    strength: a metric's mean on the validation users, so that test users choose nothing.
    """
    if cell.encoder == NONE or not cell.trained:
        return None
    plain = [
        other for other in strength if other.encoder == NONE and other.backbone == cell.backbone
    ]
    found = max(plain, key=lambda other: strength[other], default=None)
    return found if found is not None and found.method != ID_ONLY else None


def compare(
    outcomes: Sequence[Outcomes],
    config: EvaluateConfig,
    controls: Mapping[str, str],
    bases: Mapping[Cell, Cell],
) -> pa.Table:
    """Return the rows of COMPARISONS for cells of one data set.

    controls: encoders without meaning -> the encoder they are made from, see `Params.controls`.
    bases: variants of a method -> the cell of that method, see `cells.bases`.

    The best cell is the one with the highest mean of the same split, metric and K; chosen on the
    users it is then tested on, its lead is somewhat flattered.
    """
    rows: list[dict[str, Any]] = []
    valid = {cell.cell: cell.of_split("valid") for cell in outcomes}
    for split in SPLITS:
        parts = {cell.cell: cell.of_split(split) for cell in outcomes}
        if not parts or not len(next(iter(parts.values())).user):
            continue
        for metric, function in METRICS.items():
            for k in config.ks:
                values = {c: function(part.rank, k).mean(axis=0) for c, part in parts.items()}
                strength = {
                    c: float(function(part.rank, k).mean())
                    for c, part in valid.items()
                    if len(part.user)
                }
                for row in _families(values, strength, controls, bases, config.alpha):
                    rows.append({**row, "split": split, "metric": metric, "k": k})
    return pa.Table.from_pylist(rows, schema=artifacts.COMPARISONS.schema)


def _families(
    values: dict[Cell, np.ndarray],
    strength: Mapping[Cell, float],
    controls: Mapping[str, str],
    bases: Mapping[Cell, Cell],
    alpha: float,
) -> Iterator[dict[str, Any]]:
    best = max(values, key=lambda cell: float(values[cell].mean()))
    references: dict[str, list[tuple[Cell, Cell | None]]] = {
        "id": [(cell, id_only(cell, list(values))) for cell in values],
        "best": [(cell, best) for cell in values],
        "plain": [(cell, strongest_plain(cell, strength)) for cell in values],
        "control": [
            (replace(other, encoder=controls[other.encoder]), other)
            for other in values
            if other.encoder in controls
        ],
        "base": [(cell, bases.get(cell)) for cell in values],
    }
    for name, reference in references.items():
        pairs = [
            (cell, other)
            for cell, other in reference
            if other is not None and other != cell and cell in values
        ]
        tests = [paired(values[cell], values[other], alpha) for cell, other in pairs]
        ready = [test for test in tests if test.p_t is not None]
        t = iter(holm([test.p_t for test in ready if test.p_t is not None]))
        w = iter(holm([test.p_wilcoxon for test in ready if test.p_wilcoxon is not None]))
        for (cell, other), test in zip(pairs, tests, strict=True):
            tested = test.p_t is not None
            yield {
                "encoder": cell.encoder,
                "backbone": cell.backbone,
                "method": cell.method,
                "against": name,
                "other_encoder": other.encoder,
                "other_backbone": other.backbone,
                "other_method": other.method,
                "users": test.users,
                "difference": test.difference,
                "low": test.low,
                "high": test.high,
                "p_t": test.p_t,
                "p_t_holm": next(t) if tested else None,
                "p_wilcoxon": test.p_wilcoxon,
                "p_wilcoxon_holm": next(w) if tested else None,
            }
