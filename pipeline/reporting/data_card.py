"""Statistics of unknown keys for people: the data card, and plain facts of any block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.naming import flat


def scalars(block: Mapping[str, Any]) -> dict[str, str]:
    """Return the plain facts of a block, for people; names before numbers."""
    facts = [(k, v) for k, v in block.items() if isinstance(v, bool | int | float | str)]
    facts.sort(key=lambda fact: not isinstance(fact[1], str))
    return {str(key).replace("_", " "): plain(value) for key, value in facts}


def data_card(
    stats: Mapping[str, Any],
) -> list[tuple[str, list[tuple[str, str]], list[Mapping[str, Any]]]]:
    """Split statistics of unknown keys into titled groups of facts and tables."""
    first: list[tuple[str, str]] = []
    groups: list[tuple[str, list[tuple[str, str]], list[Mapping[str, Any]]]] = []
    for key, value in stats.items():
        title = str(key).replace("_", " ")
        if key in ("artifact", "version"):
            continue
        if isinstance(value, Mapping):
            facts = [(fact_name(k), plain(v)) for k, v in flat(dict(value)).items()]
            groups.append((title, facts or [("none", "")], []))
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            groups.append((title, [], table_rows(value)))
        else:
            first.append((title, plain(value)))
    return ([("counts", first, [])] if first else []) + groups


def fact_name(key: str) -> str:
    """Return a dotted key for people; a share as last part is a quantile."""
    shares = {"0": "minimum", "0.5": "median", "1": "maximum"}
    found = re.search(r"(?:^|\.)(0(?:\.\d+)?|1)$", key)
    if found:
        share = shares.get(found[1]) or f"{float(found[1]):.0%} quantile"
        key = f"{key[: found.start()]} {share}".strip()
    return key.replace("_", " ").replace(".", ", ")


def table_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows that all have the same keys, in the order in which they first appear."""
    facts = [scalars(row) for row in rows]
    keys = list(dict.fromkeys(key for row in facts for key in row))
    return [{key: row.get(key, "-") for key in keys} for row in facts]


def plain(value: Any) -> str:
    """Return a value for people: thousands separated, floats in four digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 1000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(plain(v) for v in value)
    return str(value)
