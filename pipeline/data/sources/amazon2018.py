"""Amazon review data of 2018: reviews and metadata as JSON lines, plain or .gz.

Review times are seconds, at day resolution. Repeated rows, which the published files hold, are
kept; `preprocess.repeats` decides. Metadata may name an item twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline.config import Source
from pipeline.data.amazon import read_reviews
from pipeline.data.lines import Schema, no_text, read_json
from pipeline.data.raw import RawTables, gather

ROLES = ("reviews", "metadata")

METADATA: Schema = {
    "asin": pl.String,
    "title": pl.String,
    "brand": pl.String,
    "category": pl.List(pl.String),
    "description": pl.List(pl.String),
}


def read(files: Mapping[str, Path], source: Source) -> RawTables:
    """Return the tables of one category. Raises DataError for an empty or damaged file."""
    events, bad_events = read_reviews(files["reviews"])
    found, bad_items = read_json(files["metadata"], METADATA, no_text("asin", "asin"))
    items = found.select(
        "title",
        "brand",
        item="asin",
        categories=_joined("category", " > "),
        description=_joined("description", " "),
    )
    rejected = [bad_events.frame(), bad_items.frame()]
    return gather(events, items, rejected, bad_events.seen + bad_items.seen)


def _joined(column: str, by: str) -> pl.Expr:
    """Return a list column as one text, null where the list says nothing."""
    text = pl.col(column).list.join(by, ignore_nulls=True)
    return pl.when(text.str.strip_chars() != "").then(text)
