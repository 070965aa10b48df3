"""What the Amazon review files of 2014 and 2018 share: reviews as JSON lines."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pipeline.data.lines import Rejects, bad_seconds, no_text, read_json

REVIEW = {
    "reviewerID": pl.String,
    "asin": pl.String,
    "unixReviewTime": pl.Int64,
    "overall": pl.Float64,
}


def read_reviews(path: Path) -> tuple[pl.DataFrame, Rejects]:
    """Return events in file order (user, item, time, rating), and the rejected lines."""
    problem = pl.coalesce(
        no_text("reviewerID", "reviewerID"), no_text("asin", "asin"), bad_seconds("unixReviewTime")
    )
    frame, rejects = read_json(path, REVIEW, problem)
    renamed = frame.rename(
        {"reviewerID": "user", "asin": "item", "unixReviewTime": "time", "overall": "rating"}
    )
    return renamed, rejects
