"""Amazon product data of 2014: reviews as JSON lines, metadata as one Python literal per line.

Files may be plain or .gz. Review times are seconds, at day resolution.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Source
from pipeline.data.amazon import item_text, read_reviews
from pipeline.data.lines import each
from pipeline.data.raw import ITEM_TEXT, RawTables, gather

ROLES = ("reviews", "metadata")


def read(files: Mapping[str, Path], source: Source) -> RawTables:
    """Return the tables of one category. Raises DataError for an empty or damaged file."""
    events, bad_events, review_rows = read_reviews(files["reviews"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in titles
        warnings.simplefilter("ignore", DeprecationWarning)
        items, bad_items, item_rows = each(files["metadata"], _record, ITEM_TEXT)
    rejected = [bad_events.frame(), bad_items.frame()]
    return gather(events, items, rejected, review_rows + item_rows)


def _record(line: str) -> tuple[str | None, ...]:
    return item_text(literal(line))


def literal(line: str) -> dict[str, Any]:
    """Return the Python literal on a line, evaluated without running anything.

    Raises ValueError with the reason, also for text made to exhaust the parser.
    """
    try:
        record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError("not a Python literal") from None
    if not isinstance(record, dict):
        raise ValueError("not a Python dictionary")
    return record
