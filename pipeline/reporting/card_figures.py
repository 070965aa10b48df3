"""Tables and pictures of a card that set its cells side by side: variants, widths, sizes.

Source: SpecTran, Tables 3, 4 and 5. The page draws the same charts from `artifacts/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.cells import NONE, Cell, bases
from pipeline.naming import TRAIN, file_of, flat
from pipeline.reporting.ablations import Ablation, ablation_groups, grouped
from pipeline.reporting.card_analyses import KEY
from pipeline.reporting.card_files import COSTS, VARIANTS, WIDTHS
from pipeline.reporting.charts import line_class
from pipeline.reporting.efficiency import cost_chart
from pipeline.reporting.exports import escape, table_row
from pipeline.reporting.orderings import K
from pipeline.reporting.overview import KINDS
from pipeline.reporting.pictures import dot_key, line_key, picture
from pipeline.reporting.protocol import phrases, words
from pipeline.reporting.tables import Numbers, column_title
from pipeline.reporting.widths import Sweep, sweep_chart, sweep_table, sweeps


def variants_of(block: Mapping[str, Any], shown: Sequence[Cell]) -> dict[Cell, Cell]:
    """Return the variants of a method among a card's cells -> the cell of that method."""
    return bases(shown, _blocks(block))


def figure_pictures(numbers: Numbers, block: Mapping[str, Any]) -> dict[str, str]:
    """Return the pictures of a data set by their file names; block: of provenance.json."""
    name, found = numbers.dataset, {}
    metric = column_title("ndcg", numbers.main_k)
    if groups := ablation_groups(numbers, _ablations(numbers, block)):
        panels = [replace(panel, title=title) for title, panel, _ in groups]
        words = f"{name}: {metric} of variants less that of the method they are made from"
        found[VARIANTS.format(dataset=name)] = picture(words, panels, 1, {})
    if widths := _sweeps(numbers, block):
        panel = sweep_chart(numbers, widths)
        legend = {line_key(line_class(n)): sweep.name for n, sweep in enumerate(widths)}
        found[WIDTHS.format(dataset=name)] = picture(f"{name}: {panel.title}", [panel], 1, legend)
    if sizes := _sizes(numbers, block):
        panel = cost_chart(numbers, sizes)
        kinds = {"plain" if cell.encoder == NONE else "text" for cell in sizes}
        legend = {dot_key(kind): words for kind, words in KINDS.items() if kind in kinds}
        found[COSTS.format(dataset=name)] = picture(f"{name}: {panel.title}", [panel], 1, legend)
    return found


def variants_markdown(
    numbers: Numbers, block: Mapping[str, Any], protocol: Sequence[str]
) -> list[str]:
    """Return the lines of what variants are worth; none without variants."""
    found = _ablations(numbers, block)
    if not found:
        return []
    title = "Variants against the method they are made from"
    lines = [f"### {title}", "", f"![{title}]({VARIANTS.format(dataset=numbers.dataset)})", ""]
    for name, _, rows in ablation_groups(numbers, found):
        lines += [f"#### {escape(name)}", "", *_table(rows, ("method", "of", "changes")), ""]
    said = (
        f"Paired differences with their {numbers.level} intervals; verdict: the paired t test over "
        "users, corrected by Holm over all variants of the data set."
    )
    if any(one.paper for one in found):
        said += f" The paper's are of its Table 3 (NDCG@{K}, its own text encoder)."
    return [*lines, said, *protocol]


def widths_markdown(
    numbers: Numbers, block: Mapping[str, Any], protocol: Sequence[str]
) -> list[str]:
    """Return the lines of cells that differ in their width alone; none without such."""
    found = _sweeps(numbers, block)
    if not found:
        return []
    title = "Width of the item vectors"
    lines = [f"### {title}", "", f"![{title}]({WIDTHS.format(dataset=numbers.dataset)})", ""]
    lines += _table(sweep_table(numbers, found), ("method",))
    return [*lines, "", f"{column_title('ndcg', numbers.main_k)} of the test users.", *protocol]


def sizes_markdown(numbers: Numbers, block: Mapping[str, Any]) -> list[str]:
    """Return the lines that show the picture of sizes; none where sizes were not measured."""
    if not _sizes(numbers, block):
        return []
    title = f"{column_title('ndcg', numbers.main_k)} against trained parameters"
    return [f"![{title}]({COSTS.format(dataset=numbers.dataset)})", ""]


def _table(rows: Sequence[Mapping[str, str]], texts: Sequence[str]) -> list[str]:
    """Return rows as a table; texts: columns of words, which stand left."""
    heads = list(rows[0])
    rule = "|" + "".join("---|" if head in texts else "---:|" for head in heads)
    lines = [table_row(escape(head) for head in heads), rule]
    for row in rows:
        lines.append(table_row(escape(row[h]) if h in texts else row[h] for h in heads))
    return lines


def _ablations(numbers: Numbers, block: Mapping[str, Any]) -> list[Ablation]:
    pairs = variants_of(block, numbers.cells)
    changes = {cell: _changes(block, cell, base) for cell, base in pairs.items()}
    # Cards gathered before orderings were compared lack both keys.
    published, controls = block.get("published", {}), block.get("controls", [])
    return grouped(numbers.cells, pairs, changes, published, controls)


def _changes(block: Mapping[str, Any], cell: Cell, base: Cell) -> str:
    """Return what a variant changes in its method's block and in the values of `train` it used."""
    told = {row["name"]: row["settings"] for row in block["settings"]}
    own = [p for p in phrases(told[cell.method]) if not p.startswith(f"{TRAIN}.")]
    made = {entry["cell"]: flat(entry["params"]["train"] or {}, TRAIN) for entry in block["cells"]}
    before, after = made[str(base)], made[str(cell)]
    # A value that only one of them holds came later than the other; both were made with it.
    used = {key: value for key, value in after.items() if before.get(key, value) != value}
    return ", ".join([*own, words(used)] if used else own) or "nothing"


def _sweeps(numbers: Numbers, block: Mapping[str, Any]) -> list[Sweep]:
    made = {entry["cell"]: entry for entry in block["cells"]}
    blocks = _blocks(block)
    backbones = {cell.backbone for cell in numbers.cells}
    return sweeps(numbers, made, {name: file_of("backbones", name, blocks) for name in backbones})


def _sizes(numbers: Numbers, block: Mapping[str, Any]) -> dict[Cell, int]:
    """Return the trained parameters of the cells that were measured.

    Variants and controls are left out, whose sizes are their method's, or nearly so: the picture
    could not hold all names.
    """
    told = {entry["cell"]: entry.get(KEY, {}).get("parameters") for entry in block["cells"]}
    other = variants_of(block, numbers.cells)
    return {
        cell: told[str(cell)]
        for cell in numbers.cells
        if told[str(cell)] and cell not in other and cell.encoder not in numbers.transformed
    }


def _blocks(block: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the methods and backbones with settings of their own -> the file that reads them."""
    return {row["name"]: {"of": row["of"]} for row in block["settings"]}
