"""HetRec 2011 Last.fm: which user tagged which artist when, and the artists' names.

An event is a user's first row with an artist in file order, whatever the tag; further tags of the
pair are no events. Times are milliseconds, given back as whole seconds. Some lie before Last.fm
existed, even before 1970; they are kept, since published counts include them.
The two files are UTF-8; a line that is not is set aside.

Source: files.grouplens.org, hetrec2011-lastfm-2k, readme.txt of May 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline.config import Source
from pipeline.data.lines import Rejects, records
from pipeline.data.raw import RawTables, gather

ROLES = ("tags", "artists")

LARGEST = 2**63


def read(files: Mapping[str, Path], source: Source) -> RawTables:
    """Return the tables. Raises DataError for an empty file."""
    bad_tags, bad_artists = Rejects(files["tags"].name), Rejects(files["artists"].name)
    first: dict[tuple[str, str], int] = {}
    for user, artist, time in records(files["tags"], _tag, bad_tags, header=1):
        first.setdefault((user, artist), time)
    events = pl.DataFrame(
        [(user, artist, time) for (user, artist), time in first.items()],
        schema={"user": pl.String, "item": pl.String, "time": pl.Int64},
        orient="row",
    )
    items = pl.DataFrame(
        list(records(files["artists"], _artist, bad_artists, header=1)),
        schema={"item": pl.String, "title": pl.String},
        orient="row",
    )
    rejected = [bad_tags.frame(), bad_artists.frame()]
    return gather(events, items, rejected, bad_tags.seen + bad_artists.seen)


def _tag(line: str) -> tuple[str, str, int]:
    """Read `userID artistID tagID timestamp`."""
    parts = line.rstrip("\r").split("\t")
    if len(parts) != 4:
        raise ValueError(f"{len(parts)} columns, expected 4")
    user, artist, _, written = (part.strip() for part in parts)
    if not user or not artist:
        raise ValueError("no userID" if not user else "no artistID")
    if not written:
        raise ValueError("no time")
    try:
        milliseconds = int(written)
    except ValueError:
        raise ValueError("time is not a whole number") from None
    if abs(milliseconds) >= LARGEST:
        raise ValueError("time is out of range")
    return user, artist, milliseconds // 1000


def _artist(line: str) -> tuple[str, str | None]:
    """Read `id name url pictureURL`; the last two may be missing."""
    parts = line.rstrip("\r").split("\t")
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} columns, expected at least 2")
    artist, name = parts[0].strip(), parts[1].strip()
    if not artist:
        raise ValueError("no id")
    return artist, name or None
