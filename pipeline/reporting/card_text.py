"""The words and tables of a result card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cells import Cell
from pipeline.reporting.best import hardly_trained
from pipeline.reporting.card_analyses import (
    CSV_COLUMNS,
    KEY,
    analyses_markdown,
    analyses_rows,
)
from pipeline.reporting.card_figures import (
    figure_pictures,
    sizes_markdown,
    variants_markdown,
    widths_markdown,
)
from pipeline.reporting.card_files import SCORES, SPECTRA_PICTURE
from pipeline.reporting.card_spectra import not_kept, spectra_picture
from pipeline.reporting.exports import (
    escape,
    legend,
    results_csv,
    results_markdown,
    settings_markdown,
    strata_heading,
    strata_legend,
    table_csv,
    table_row,
)
from pipeline.reporting.findings import findings
from pipeline.reporting.orderings import COLUMNS, Group, ordering_rows, orderings_markdown
from pipeline.reporting.overview import scores_picture
from pipeline.reporting.replication import COLUMNS as REPLICATION_COLUMNS
from pipeline.reporting.replication import Replicated, replication_markdown, replication_rows
from pipeline.reporting.searches import COLUMNS as SEARCHES_COLUMNS
from pipeline.reporting.searches import searches_markdown, searches_rows
from pipeline.reporting.tables import Numbers, column_title, number, p_value

BESIDE_RESULTS = (
    "valid: the same on the validation users, whom early stopping watches. Best epoch: mean over "
    "seeds. Minutes: all seeds of the cell."
)


AGAINST = {
    "id": "the ID-only cell",
    "plain": "the strongest model without text, chosen on validation users",
    "control": "the same method on text without meaning",
}
"""Reference of COMPARISONS -> its words in a heading."""


@dataclass(frozen=True)
class Chapter:
    """What the card shows of one data set."""

    numbers: Numbers
    block: Mapping[str, Any]
    """Of provenance.json."""
    orderings: Sequence[Group]
    """The paper's, compared with ours; empty where the paper reports nothing."""
    replications: Sequence[Replicated]
    """Published values of models without text, compared with ours."""
    spectra: Sequence[Mapping[str, Any]]
    """Rows of SPECTRA."""


def card_csv(chapters: Sequence[Chapter]) -> str:
    """Return every metric of the held-out users with tests and protocol."""
    return results_csv((c.numbers, c.block["protocol_short"]) for c in chapters)


def card_orderings(chapters: Sequence[Chapter]) -> str:
    """Return every pair of methods that the paper orders."""
    rows = [row for c in chapters for row in ordering_rows(c.numbers.dataset, c.orderings)]
    return table_csv(rows, COLUMNS)


def card_replication(chapters: Sequence[Chapter]) -> str:
    """Return every published value of a model without text beside ours."""
    rows = [row for c in chapters for row in replication_rows(c.numbers.dataset, c.replications)]
    return table_csv(rows, REPLICATION_COLUMNS)


def card_analyses(chapters: Sequence[Chapter]) -> str:
    """Return what was measured on the models."""
    rows = [dict.fromkeys(CSV_COLUMNS) | row for c in chapters for row in analyses_rows(c.block)]
    return table_csv(rows, CSV_COLUMNS)


def card_searches(chapters: Sequence[Chapter]) -> str:
    """Return every trial of the searches that the card keeps."""
    rows = [row for c in chapters for row in searches_rows(c.block)]
    return table_csv(rows, SEARCHES_COLUMNS)


def pictures(chapter: Chapter) -> dict[str, str]:
    """Return a data set's pictures by their file names."""
    numbers = chapter.numbers
    found = {SCORES.format(dataset=numbers.dataset): scores_picture(numbers)}
    found |= figure_pictures(numbers, chapter.block)
    if chapter.spectra:
        drawn = spectra_picture(numbers, chapter.block, chapter.spectra)
        found[SPECTRA_PICTURE.format(dataset=numbers.dataset)] = drawn
    return found


def card_markdown(name: str, facts: Mapping[str, Any], chapters: Sequence[Chapter]) -> str:
    """Return the card."""
    recorded = ", ".join(f"{k} {v}" for k, v in sorted(facts["recorded"].items()))
    lines = [
        f"# Result card: {escape(name)}",
        "",
        f"Made with {escape(recorded)}. Everything below follows from the per-user ranks in this "
        f"folder: `spectran report --card {name}` writes the same bytes again. Settings and input "
        "hashes of every cell: `provenance.json`.",
        "",
    ]
    for chapter in chapters:
        lines += _chapter(chapter)
    return "\n".join(lines)


def _chapter(chapter: Chapter) -> list[str]:
    numbers, block = chapter.numbers, chapter.block
    protocol = ["", f"Protocol. {escape(block['protocol'])}", ""]
    spent = {entry["cell"]: entry["minutes"] for entry in block["cells"]}
    taken = [spent[str(cell)] for cell in numbers.cells]
    told = {entry["cell"]: entry.get(KEY, {}).get("best_epoch") for entry in block["cells"]}
    best = {cell: told[str(cell)] for cell in numbers.cells}
    early = {numbers.label(cell): epoch for cell, epoch in best.items() if epoch is not None}
    table = numbers.results()
    valid = [number(v.mean) for v in numbers.column("ndcg", numbers.main_k, split="valid")]
    lines = [
        f"## {escape(numbers.dataset)}",
        "",
        *(f"- {escape(s)}" for s in [*findings(numbers), *hardly_trained(early)]),
        "",
    ]
    lines += [f"### {numbers.sizes()['all']} test users", ""]
    name = f"{column_title('ndcg', numbers.main_k)} of all cells, {numbers.level} intervals"
    lines += [f"![{name}]({SCORES.format(dataset=numbers.dataset)})", ""]
    lines += results_markdown(
        table,
        deviation=True,
        extra={
            f"valid {column_title('ndcg', numbers.main_k)}": valid,
            "best epoch": ["-" if epoch is None else f"{epoch:.0f}" for epoch in best.values()],
            "minutes": [_minutes(m) for m in taken],
        },
    )
    for missing in block.get("missing", []):  # not yet measured, and so not told by `numbers`
        cell = Cell.parse(missing)
        rest = ["-"] * (len(table.columns) - 1)
        lines.append(table_row([escape(cell.full_name), "missing", *rest, "-", "-", "-"]))
    for row in block["reference"]:
        values = [number(row.get(column)) for column in table.columns]
        label = f"{escape(row['name'])} ({escape(row['source'])})"
        lines.append(table_row([label, *values, "-", "-", "-"]))
    lines += ["", legend(numbers), BESIDE_RESULTS, *protocol]
    lines += [f"### {strata_heading(numbers)}", ""]
    lines += results_markdown(numbers.strata(), deviation=False)
    lines += ["", strata_legend(numbers), *protocol]
    for against, title in AGAINST.items():
        if tests := _tests(numbers, against):
            lines += [f"### Paired tests over users against {title}", "", *tests, ""]
            lines += ["p values: t test and Wilcoxon, corrected by Holm over the cells.", *protocol]
    lines += replication_markdown(chapter.replications, numbers.level, protocol)
    lines += orderings_markdown(chapter.orderings, numbers.alpha, protocol)
    lines += variants_markdown(numbers, block, protocol)
    lines += widths_markdown(numbers, block, protocol)
    if chapter.spectra:
        name = "Cumulative share of the spread of the item vectors, before and after training"
        picture = SPECTRA_PICTURE.format(dataset=numbers.dataset)
        lines += ["### Spectral collapse", "", f"![{name}]({picture})", ""]
        lines += ["Means over seeds of the covariance of the item vectors, as in the table below."]
        if names := not_kept(numbers, block, chapter.spectra):
            lines += ["", f"Measured, but the curves were not kept: {escape(', '.join(names))}."]
        lines += protocol
    lines += analyses_markdown(numbers, block, sizes_markdown(numbers, block), protocol)
    lines += settings_markdown(block["settings"])
    lines += searches_markdown(numbers, block, protocol)
    lines += ["### Cells", "", table_row(["cell", "seeds", "ranks, SHA-256"]), "|---|---|---|"]
    for entry in block["cells"]:
        hashes = ", ".join(value[:12] for value in entry["ranks_sha256"].values())
        seeds = ", ".join(str(seed) for seed in entry["seeds"])
        lines.append(table_row([escape(numbers.label(Cell.parse(entry["cell"]))), seeds, hashes]))
    return [*lines, ""]


def _minutes(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.1" if value < 0.05 else f"{value:.1f}"


def _tests(numbers: Numbers, against: str) -> list[str]:
    heads = ["method", "metric", "difference", f"{numbers.level} interval", "t test", "Wilcoxon"]
    lines = [table_row(heads), "|---|---|---:|---:|---:|---:|"]
    found = [
        (metric, k, row)
        for metric in ("ndcg", "hr")
        for k in numbers.shown
        for row in numbers.tests(metric, k)
        if row["against"] == against
    ]
    for metric, k, row in found:
        label = row["label"] if against == "id" else f"{row['label']} - {row['other']}"
        lines.append(
            table_row(
                [
                    escape(label),
                    column_title(metric, k),
                    number(row["difference"]),
                    f"{number(row['low'])} to {number(row['high'])}",
                    p_value(row["p_t_holm"]),
                    p_value(row["p_wilcoxon_holm"]),
                ]
            )
        )
    return lines if found else []
