"""Own tables: CSV, JSON-lines or Parquet files of interactions and items, with named columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline.config import Source
from pipeline.data.raw import INTERACTIONS, ITEM_TEXT, REJECTED, RawTables

ROLES = ("interactions", "items")


def read(files: Mapping[str, Path], source: Source) -> RawTables:
    c = source.columns
    i = pl.read_parquet(files["interactions"], columns=[x for x in (c.user, c.item, c.time, c.position) if x])
    i = i.select(
        pl.col(c.user).cast(pl.String).alias("user"), pl.col(c.item).cast(pl.String).alias("item"),
        pl.col(c.time).alias("time"),
        (pl.col(c.position).cast(pl.Int64) if c.position else pl.lit(None, pl.Int64)).alias("position"),
        pl.lit(None, pl.Float64).alias("rating"))
    t = pl.read_parquet(files["items"]).select(
        pl.col(c.item_id).cast(pl.String).alias("item"), pl.col(c.title).alias("title"),
        *[pl.lit(None, pl.String).alias(n) for n in ("brand", "categories", "description")])
    return RawTables(i, t, pl.DataFrame(schema=REJECTED), len(i) + len(t))
