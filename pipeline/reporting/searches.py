"""What a card tells of the searches that its settings come from: lists, trials, choice.

A search's result lies in `artifacts/tuned`, which no repository keeps; a card keeps it beside the
ranks of the data set that was searched on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.cells import PARTS, Cell
from pipeline.reporting.exports import escape, table_row
from pipeline.reporting.tables import Numbers, number

KEY = "searches"
"""Of a data set's block in provenance.json: cell -> what is KEPT."""
KEPT = ("objective", "trials", "best", "depends")
COLUMNS = (*PARTS, "trial", "configuration", "objective", "value", "best_epoch", "chosen")


def gather_searches(
    root: Path, cells: Collection[Cell], old: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the finished searches of some cells, newer ones in place of `old`.

    root: artifacts. Raises ArtifactError for a damaged result.
    """
    found = dict(old)
    for cell in cells:
        if artifacts.TUNED.path(root, **cell.fields).exists():
            content = artifacts.load_json(artifacts.TUNED, root, **cell.fields)
            if lacking := [name for name in KEPT if name not in content]:
                raise artifacts.TUNED.fail(root, cell.fields, f"lacks {', '.join(lacking)}.")
            found[str(cell)] = {name: content[name] for name in KEPT}
    return {name: found[name] for name in sorted(found)}


def searches_rows(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row of COLUMNS for every trial."""
    for name, search in block.get(KEY, {}).items():
        for trial in search["trials"]:
            yield {
                **Cell.parse(name).fields,
                "trial": trial["number"],
                "configuration": json.dumps(trial["configuration"], sort_keys=True),
                "objective": search["objective"],
                "value": trial["value"],
                "best_epoch": trial["best_epoch"],
                "chosen": "yes" if trial["number"] == search["best"]["number"] else "no",
            }


def searches_markdown(
    numbers: Numbers, block: Mapping[str, Any], protocol: Sequence[str]
) -> list[str]:
    """Return the lines of the section, none without searches; protocol: lines below the table."""
    searches = block.get(KEY, {})
    if not searches:
        return []
    made = {entry["cell"]: entry["params"] for entry in block["cells"]}
    heads = ["method", "trials", "chosen", "its value", "lowest", "trained so here"]
    lines = ["### Searches", "", table_row(heads), "|---|---:|---|---:|---:|---|"]
    for name, search in searches.items():
        best = search["best"]
        values = [t["value"] for t in search["trials"] if t["value"] is not None]
        chosen = ", ".join(f"{k} = {v}" for k, v in best["configuration"].items())
        same = _as_chosen(search, made[name]) if name in made else None
        lines.append(
            table_row(
                [
                    escape(numbers.label(Cell.parse(name))),
                    str(len(search["trials"])),
                    escape(chosen),
                    number(best["value"]),
                    number(min(values)),
                    {True: "yes", False: "no", None: "-"}[same],
                ]
            )
        )
    legend = (
        "Values: what every search maximised on the validation users, with one seed; test users "
        "are not read. Trained so here: the card's cell has the chosen values and read the same "
        "sequences. All trials: `searches.csv`; the lists they were drawn from: "
        "`provenance.json`."
    )
    return [*lines, "", legend, *protocol]


def _as_chosen(search: Mapping[str, Any], made_from: Mapping[str, Any]) -> bool:
    """Whether a cell was trained with what a search chose, on the sequences it searched on."""
    if search["depends"]["inputs"]["sequences"] != made_from["inputs"]["sequences"]:
        return False
    for key, value in search["best"]["configuration"].items():
        parts = key.split(".")
        found: Any = made_from if parts[0] in ("train", "backbone") else made_from["method"]
        for part in parts:
            if part not in found:  # a setting that the method no longer has
                return False
            found = found[part]
        if found != value:
            return False
    return True
