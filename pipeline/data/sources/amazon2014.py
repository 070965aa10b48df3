"""Amazon product data of 2014: reviews as JSON lines, metadata as one Python literal per line.

Files may be plain or .gz. Review times are seconds, at day resolution. The metadata cover whole
categories, up to a hundred times the items of the 5-core reviews, and literals are slow to
evaluate: lines of items that no review names are counted as rows and otherwise passed over.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config import Source
from pipeline.data.amazon import read_reviews
from pipeline.data.lines import Rejects, as_text, as_texts, records
from pipeline.data.raw import ITEM_TEXT, RawTables, gather

ROLES = ("reviews", "metadata")

ASIN = re.compile(r"""['"]asin['"]\s*:\s*['"]([^'"\\]*)['"]""")


def read(files: Mapping[str, Path], source: Source) -> RawTables:
    """Return the tables of one category. Raises DataError for an empty or damaged file."""
    events, bad_events = read_reviews(files["reviews"])
    bad_items = Rejects(files["metadata"].name)
    with warnings.catch_warnings():
        # Titles hold stray backslashes, which Python reads as they stand but warns about.
        warnings.simplefilter("ignore")
        found = records(files["metadata"], partial(_text, set(events["item"])), bad_items)
        rows = [row for row in found if row is not None]
    items = pl.DataFrame(rows, schema=ITEM_TEXT, orient="row")
    rejected = [bad_events.frame(), bad_items.frame()]
    return gather(events, items, rejected, bad_events.seen + bad_items.seen)


def _text(reviewed: Container[str], line: str) -> tuple[str | None, ...] | None:
    """Return (item, title, brand, categories, description) of a metadata line; None to pass over.

    categories: the names of one path joined by " > ", several paths by "; ".
    """
    # Every match is looked at: a title may quote another product's line.
    named = ASIN.findall(line)
    if named and not any(asin in reviewed for asin in named):
        return None
    record = literal(line)
    asin = as_text(record.get("asin"))
    if asin is None or not asin.strip():
        raise ValueError("no asin")
    paths = record.get("categories")
    joined = [" > ".join(as_texts(path)) for path in paths] if isinstance(paths, list) else []
    return (
        asin,
        as_text(record.get("title")),
        as_text(record.get("brand")),
        "; ".join(filter(None, joined)) or None,
        " ".join(as_texts(record.get("description"))) or None,
    )


def literal(line: str) -> dict[str, Any]:
    """Return the Python dictionary written on a line, evaluated without running anything.

    Raises ValueError with the reason, also for text made to exhaust the parser.
    """
    try:
        record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError("not a Python literal") from None
    if not isinstance(record, dict):
        raise ValueError("not a Python dictionary")
    return record
