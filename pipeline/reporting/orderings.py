"""Which orderings of the paper hold here: every pair of methods that both report, on our users.

Two cells are compared when they share encoder and backbone and the paper prints both methods with
that backbone; the ID-only cell, which has no encoder, belongs to every encoder. A backbone with
other settings is compared with the paper's values for the one it is made from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from pipeline.cells import NONE, Cell
from pipeline.evaluation.comparisons import Paired, paired
from pipeline.evaluation.metrics import ndcg
from pipeline.evaluation.outcomes import Outcomes
from pipeline.reporting.exports import escape, table_row
from pipeline.reporting.tables import number

K = 20
"""Cut-off of the published values that are compared."""

MAIN = "spectran"
"""The paper's own method; its ablations carry the name and an underscore."""

COLUMNS = (
    "dataset",
    "encoder",
    "backbone",
    "higher_in_paper",
    "lower_in_paper",
    "paper_higher",
    "paper_lower",
    "paper_difference",
    "users",
    "difference",
    "low",
    "high",
    "verdict",
)
"""Of orderings.csv; differences are those of the higher less the lower method of the paper."""

Verdict = Literal["holds", "reversed", "not told"]
Published = Mapping[str, Mapping[str, float]]
"""Backbone -> method -> NDCG@20 as printed."""


@dataclass(frozen=True)
class Pair:
    """Two methods in the order of the paper, and our difference between them."""

    higher: str
    lower: str
    paper: tuple[float, float]
    """NDCG@20 of both, as printed; the first is larger."""
    test: Paired
    """Ours, higher less lower."""

    @property
    def verdict(self) -> Verdict:
        """Which side of zero our interval lies on; not told where it touches zero."""
        if self.test.low is not None and self.test.low > 0:
            return "holds"
        if self.test.high is not None and self.test.high < 0:
            return "reversed"
        return "not told"


@dataclass(frozen=True)
class Group:
    """The cells of one encoder and backbone whose methods the paper reports."""

    encoder: str
    backbone: str
    methods: tuple[str, ...]
    pairs: tuple[Pair, ...]
    equal: int
    """Pairs that the paper prints as equal; they have no order."""
    tau: float | None
    """Kendall's tau-b between the paper's values and ours; None where one side is constant."""


def orderings(
    outcomes: Sequence[Outcomes], published: Published, controls: Collection[str], alpha: float
) -> list[Group]:
    """Compare the test users' NDCG@20 of one data set with published values.

    controls: encoders on changed text, which the paper does not have. A user's value is the mean
    over seeds; the interval, of level 1 - alpha, is that of the paired t test.
    """
    values = {o.cell: ndcg(o.of_split("test").rank, K).mean(axis=0) for o in outcomes}
    places = dict.fromkeys((cell.encoder, cell.backbone) for cell in values)
    groups = []
    for encoder, backbone in places:
        known = published.get(backbone, {})
        if encoder == NONE or encoder in controls:
            continue
        mine = {
            cell.method: value
            for cell, value in values.items()
            if _belongs(cell, encoder, backbone) and cell.method in known
        }
        if len(mine) > 1:
            groups.append(_group(encoder, backbone, mine, known, alpha))
    return groups


def _belongs(cell: Cell, encoder: str, backbone: str) -> bool:
    return cell.backbone == backbone and cell.encoder in (NONE, encoder)


def _group(
    encoder: str,
    backbone: str,
    values: Mapping[str, np.ndarray],
    known: Mapping[str, float],
    alpha: float,
) -> Group:
    from scipy.stats import kendalltau

    pairs, equal = [], 0
    for first, second in combinations(values, 2):
        if known[first] == known[second]:
            equal += 1
            continue
        high, low = (first, second) if known[first] > known[second] else (second, first)
        test = paired(values[high], values[low], alpha)
        pairs.append(Pair(high, low, (known[high], known[low]), test))
    means = [float(value.mean()) if len(value) else 0.0 for value in values.values()]
    tau = float(kendalltau([known[method] for method in values], means).statistic)
    return Group(
        encoder,
        backbone,
        tuple(values),
        tuple(pairs),
        equal,
        None if np.isnan(tau) else tau,
    )


def ordering_rows(dataset: str, groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield a row of COLUMNS for every pair."""
    for group in groups:
        for pair in group.pairs:
            row = (
                dataset,
                group.encoder,
                group.backbone,
                pair.higher,
                pair.lower,
                *pair.paper,
                pair.paper[0] - pair.paper[1],
                pair.test.users,
                pair.test.difference,
                pair.test.low,
                pair.test.high,
                pair.verdict,
            )
            yield dict(zip(COLUMNS, row, strict=True))


def orderings_markdown(groups: Sequence[Group], alpha: float, protocol: Sequence[str]) -> list[str]:
    """Return the lines of the section, none without groups; protocol: lines below each table."""
    if not groups:
        return []
    lines = ["### Orderings of the paper", "", *(f"- {_counts(g, alpha)}" for g in groups), ""]
    lines += [_legend(alpha), ""]
    for title, ablation in (
        (f"{MAIN} and the other methods (SpecTran Table 2)", False),
        (f"{MAIN} and its ablations (SpecTran Table 3)", True),
    ):
        rows = [
            _row(group, pair)
            for group in groups
            for pair in group.pairs
            if MAIN in (pair.higher, pair.lower) and _ablation(pair) == ablation
        ]
        if rows:
            lines += [f"#### {title}", "", *_head(alpha), *rows, *protocol]
    return lines


def _ablation(pair: Pair) -> bool:
    return any(name.startswith(f"{MAIN}_") for name in (pair.higher, pair.lower))


def _counts(group: Group, alpha: float) -> str:
    verdicts = Counter(pair.verdict for pair in group.pairs)
    count = len(group.pairs)
    chance = alpha * count
    text = (
        f"{escape(group.encoder)}, {escape(group.backbone)}: {count} pairs of "
        f"{len(group.methods)} methods: {verdicts['holds']} hold, {verdicts['reversed']} reversed, "
        f"{verdicts['not told']} not told; if no two methods differed, {chance:.1f} would be "
        f"expected to hold or to be reversed by chance. Kendall's tau between the paper's and our "
        f"NDCG@{K} over the methods: {'-' if group.tau is None else f'{group.tau:.2f}'}."
    )
    if group.equal:
        text += f" The paper prints {group.equal} more as equal; they are not counted."
    return text


def _legend(alpha: float) -> str:
    level = f"{100 * (1 - alpha):g}%"
    return (
        f"holds: our {level} interval lies on the paper's side of zero; reversed: on the other "
        "side; not told: it contains zero. Differences are of the method that is higher in the "
        f"paper less the other one, in NDCG@{K} on the test users: ours paired over users, mean "
        "over seeds, so the interval holds no spread over seeds. The paper prints no intervals: a "
        "small difference of its own may be chance. Nothing is corrected for the number of pairs. "
        "A variant of a backbone, such as one with another loss, is compared with the paper's "
        "values for that backbone. Encoders on changed text, and backbones and methods that the "
        "paper does not report, are left out. All pairs: `orderings.csv`."
    )


def _head(alpha: float) -> list[str]:
    heads = ["encoder", "backbone", "higher in the paper", "lower", "paper", "here"]
    heads += [f"{100 * (1 - alpha):g}% interval", "verdict"]
    return [table_row(heads), "|---|---|---|---|---:|---:|---:|---|"]


def _row(group: Group, pair: Pair) -> str:
    test = pair.test
    return table_row(
        [
            *map(escape, (group.encoder, group.backbone, pair.higher, pair.lower)),
            number(pair.paper[0] - pair.paper[1]),
            number(test.difference),
            f"{number(test.low)} to {number(test.high)}",
            pair.verdict,
        ]
    )
