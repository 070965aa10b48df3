"""MIND news: impressions with click histories (behaviors.tsv) and the news (news.tsv).

The events of a user are the clicks of the history column, oldest first. The source repeats a
user's history on each of their rows; the longest one counts, the first of equals. Clicks on the
impressions themselves are not added: they fall into one later week and are chosen from a list
shown, which the history is not. The source gives times to impressions only, so events have a
position and no time. A news item clicked twice stays twice; `preprocess.repeats` decides.

Source: github.com/msnews/msnews.github.io, assets/doc/introduction.md; click histories as in the
protocol of PAD.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline.config import Source
from pipeline.data.lines import Rejects, records
from pipeline.data.raw import RawTables, gather

ROLES = ("behaviors", "news")


def read(files: Mapping[str, Path], source: Source) -> RawTables:
    """Return the tables. Raises DataError for an empty file."""
    bad_rows, bad_news = Rejects(files["behaviors"].name), Rejects(files["news"].name)
    histories: dict[str, str] = {}
    for user, history in records(files["behaviors"], _behaviour, bad_rows):
        if history.count(" ") > histories.get(user, "").count(" ") or user not in histories:
            histories[user] = history
    clicked = {user: history for user, history in histories.items() if history}
    events = (
        pl.DataFrame(
            {"user": list(clicked), "item": list(clicked.values())},
            schema={"user": pl.String, "item": pl.String},
        )
        .with_columns(pl.col("item").str.split(" "))
        .with_columns(position=pl.int_ranges(0, pl.col("item").list.len()))
        .explode("item", "position")
    )
    news = pl.DataFrame(
        list(records(files["news"], _news, bad_news)),
        schema={
            "item": pl.String,
            "categories": pl.String,
            "title": pl.String,
            "description": pl.String,
        },
        orient="row",
    )
    rejected = [bad_rows.frame(), bad_news.frame()]
    return gather(events, news, rejected, bad_rows.seen + bad_news.seen)


def _behaviour(line: str) -> tuple[str, str]:
    """Read `impression user time history impressions`: the user and the history, blanks single."""
    parts = line.rstrip("\r").split("\t")
    if len(parts) != 5:
        raise ValueError(f"{len(parts)} columns, expected 5")
    user = parts[1].strip()
    if not user:
        raise ValueError("no user")
    return user, " ".join(parts[3].split())


def _news(line: str) -> tuple[str, str | None, str | None, str | None]:
    """Read `news category subcategory title abstract ...`."""
    parts = line.rstrip("\r").split("\t")
    if len(parts) < 5:
        raise ValueError(f"{len(parts)} columns, expected at least 5")
    news, category, subcategory, title, abstract = (part.strip() for part in parts[:5])
    if not news:
        raise ValueError("no news id")
    categories = " > ".join(filter(None, (category, subcategory)))
    return news, categories or None, title or None, abstract or None
