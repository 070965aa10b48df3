"""The same numbers as CSV, for programs, and as Markdown, for a pull request."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.reporting.tables import Numbers, Results, Value, cell_of, number

MARKS = {"above": " (+)", "below": " (-)"}
LEGEND = (
    "**bold**: highest of its column; (+) above, (-) below the id of the same backbone, no mark: "
    "not told apart from it, or such an id itself; ~ not told apart from the highest (paired t "
    "test over users, Holm over the column, level {alpha:g}). In brackets: {level} interval over "
    "users; sd: deviation over seeds."
)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    flat = " ".join(text.split())
    for character in "\\`*_{}[]<>#|~":
        flat = flat.replace(character, f"\\{character}")
    return flat


def results_csv(pages: Iterable[tuple[Numbers, str]]) -> str:
    """Return every metric of every cell with its tests and its protocol in short."""
    rows = []
    for numbers, protocol in pages:
        tests = {
            (cell_of(numbers.dataset, r), r["split"], r["metric"], r["k"], r["against"]): r
            for r in numbers.comparisons
        }
        for row in numbers.metrics:
            cell = cell_of(numbers.dataset, row)
            line = {"dataset": numbers.dataset, **row}
            for against in ("id", "best", "plain"):
                key = (cell, row["split"], row["metric"], row["k"], against)
                test: Mapping[str, Any] = tests.get(key, {}) if row["slice"] == "all" else {}
                for name in ("difference", "p_t_holm", "p_wilcoxon_holm"):
                    line[f"{name}_{against}"] = test.get(name)
            rows.append({**line, "protocol": protocol})
    return table_csv(rows)


def table_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Return rows of equal keys as CSV; floats in six significant digits, None empty.

    columns: the keys, which are then written even without rows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if names := list(columns or (rows[0] if rows else ())):
        writer.writerow(names)
        writer.writerows([_plain(row[name]) for name in names] for row in rows)
    return text.getvalue()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def results_markdown(
    results: Results, *, deviation: bool, extra: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Return the lines of a table; extra: further columns of text, one entry per line."""
    extra = extra or {}
    heads = ["method", *results.columns, *extra]
    lines = [table_row(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for place, line in enumerate(results.lines):
        values = [value_markdown(value, deviation=deviation) for value in line.values]
        more = [column[place] for column in extra.values()]
        lines.append(table_row([escape(line.label), *values, *more]))
    return lines


def value_markdown(value: Value, *, deviation: bool) -> str:
    """Return a value with marks, interval and, if asked for, the deviation over seeds."""
    text = number(value.mean)
    if value.best:
        text = f"**{text}**"
    text += MARKS.get(value.versus_id or "", "") + (" \\~" if value.near_best else "")
    if value.low is not None:
        text += f" [{number(value.low)}, {number(value.high)}]"
    if deviation and value.deviation is not None:
        text += f" sd {number(value.deviation)}"
    return text


def table_row(cells: Iterable[str]) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(cells) + " |"


def legend(numbers: Numbers) -> str:
    """Return what the marks of the table of results mean."""
    return LEGEND.format(alpha=numbers.alpha, level=numbers.level)


def strata_legend(numbers: Numbers) -> str:
    """Return what the marks of the strata table mean, whose values are not tested."""
    return f"Bold: highest of its column. In brackets: {numbers.level} interval over users."


def strata_heading(numbers: Numbers) -> str:
    """Return the title of the strata table with the group sizes."""
    sizes = ", ".join(f"{name} {count}" for name, count in numbers.sizes().items())
    return f"NDCG@{numbers.main_k} by how often the target was trained on (test users: {sizes})"


def settings_markdown(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the lines of what methods and backbones change; none where nothing is changed."""
    if not settings:
        return []
    rows = [table_row(escape(value) for value in row.values()) for row in settings]
    return ["### Settings of their own", "", table_row(settings[0]), "|---|---|---|", *rows, ""]


def report_markdown(
    pages: Iterable[tuple[Numbers, str, list[str], Sequence[Mapping[str, str]]]],
) -> str:
    """Return findings, results, strata and settings of every data set."""
    lines = ["# Results", ""]
    for numbers, protocol, findings, settings in pages:
        lines += [f"## {escape(numbers.dataset)}", "", *(f"{escape(s)}\n" for s in findings)]
        closing = ["", f"Protocol. {escape(protocol)}", ""]
        lines += ["### Test users", "", *results_markdown(numbers.results(), deviation=True), ""]
        lines += [legend(numbers), *closing]
        lines += [f"### {strata_heading(numbers)}", ""]
        lines += [*results_markdown(numbers.strata(), deviation=False), ""]
        lines += [strata_legend(numbers), *closing]
        lines += settings_markdown(settings)
    return "\n".join(lines)
