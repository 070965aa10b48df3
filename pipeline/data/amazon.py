"""What the Amazon review files of 2014 and 2018 share: reviews as JSON lines, and text fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.data.lines import Rejects, as_text, as_texts, bad_seconds, no_text, read_json

REVIEW = {
    "reviewerID": pl.String,
    "asin": pl.String,
    "unixReviewTime": pl.Int64,
    "overall": pl.Float64,
}


def read_reviews(path: Path) -> tuple[pl.DataFrame, Rejects, int]:
    """Return events in file order (user, item, time, rating), rejected lines, and rows seen."""
    problem = pl.coalesce(
        no_text("reviewerID", "reviewerID"), no_text("asin", "asin"), bad_seconds("unixReviewTime")
    )
    frame, rejects, rows = read_json(path, REVIEW, problem)
    renamed = frame.rename(
        {"reviewerID": "user", "asin": "item", "unixReviewTime": "time", "overall": "rating"}
    )
    return renamed, rejects, rows


def item_text(record: dict[str, Any]) -> tuple[str | None, ...]:
    """Return (item, title, brand, categories, description) of one metadata record.

    categories: the names of one path joined by " > "; several paths by "; ". A list of
    descriptions is joined by blanks. Raises ValueError without an asin.
    """
    asin = as_text(record.get("asin"))
    if asin is None or not asin.strip():
        raise ValueError("no asin")
    found = record.get("categories", record.get("category"))
    paths = found if isinstance(found, list) and found and isinstance(found[0], list) else [found]
    categories = "; ".join(filter(None, (" > ".join(as_texts(path)) for path in paths)))
    description = " ".join(as_texts(record.get("description")))
    return (
        asin,
        as_text(record.get("title")),
        as_text(record.get("brand")),
        categories or None,
        description or None,
    )
