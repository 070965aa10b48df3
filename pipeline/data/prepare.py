"""From raw tables to the catalogue and the sequences: the steps of preprocess, in order.

min_rating -> repeats -> core -> items without title -> core again -> short users; then the
catalogue is fixed, `keep_last` cuts the histories, and the split is drawn.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.config import Preprocess
from pipeline.data import filters, text
from pipeline.data.filters import NO_TIME, Events
from pipeline.data.join import Join, join
from pipeline.data.split import divide
from pipeline.data.summary import Steps, describe
from pipeline.errors import ConfigError
from pipeline.values import Catalog, Sequences


@dataclass(frozen=True)
class Interned:
    """Events with the raw ids behind their codes."""

    events: Events
    rating: np.ndarray | None
    """[E] float64, NaN where there is none; None when no filter asks for it."""
    users: pl.Series
    """Raw ids by code."""
    items: pl.Series
    """Raw ids by code."""


@dataclass(frozen=True)
class Prepared:
    """What preprocess writes."""

    catalog: Catalog
    sequences: Sequences
    stats: dict[str, Any]
    join: Join
    """Said, not written: `stats` counts items, this events."""


def intern(owned: list[pl.DataFrame], with_rating: bool) -> Interned:
    """Replace raw ids by codes.

    owned: holds the one frame of interactions, which is taken out so that its text is freed as soon
    as it is replaced (half of the memory of a large log).
    """
    frame = owned.pop()
    rating = frame["rating"].fill_null(float("nan")).to_numpy() if with_rating else None
    time = frame["time"].fill_null(NO_TIME).to_numpy()
    position = None
    if frame["position"].null_count() < len(frame):
        position = frame["position"].fill_null(0).to_numpy()
    columns = [frame["user"], frame["item"]]
    del frame
    with ThreadPoolExecutor(2) as pool:  # the work runs outside the interpreter lock
        (user, users), (item, items) = pool.map(filters.encode, columns)
    return Interned(Events(user, item, time, position), rating, users, items)


def prepare(interned: Interned, items: pl.DataFrame, config: Preprocess, where: str) -> Prepared:
    """Run every step. items: ITEM_TEXT columns; where: the data set, named in messages.

    Raises DataError when a step leaves nothing, or the split cannot be drawn.
    """
    texts, known = _texts(interned.items, items)
    events = interned.events
    met = join(events.item, texts, known, items)
    steps = Steps(where, met)
    steps.add("read", events)
    if config.min_rating is not None:
        assert interned.rating is not None
        if np.isnan(interned.rating).all():
            raise ConfigError(
                f"params.yaml: datasets.{where}.preprocess.min_rating: {config.min_rating}, but no "
                f"event has a rating. Set it to null, or name source.columns.rating."
            )
        rated = interned.rating >= config.min_rating
        events = events.take(rated)
        steps.add("min_rating", events, without_rating=int(np.isnan(interned.rating).sum()))
    seed = _ties_seed(config, events, where)
    if config.repeats != "keep":
        events = events.take(filters.chronological(events, seed))
        events = events.take(filters.repeats(events, config.repeats))
        steps.add("repeats", events)
    events = _cored(events, config, texts, steps)
    events = _long_enough(events, config, steps)
    user, users = filters.ranked(events.user, interned.users)
    events = replace(events, user=user)
    if config.repeats == "keep":
        events = events.take(filters.chronological(events, seed))
    else:  # in order within each user already; stable, so it stays
        events = events.take(np.argsort(events.user, kind="stable"))
    rate = filters.collision_rate(events.user, events.time)
    catalog, events = _catalogue(events, texts)
    if config.keep_last is not None:
        events = events.take(filters.last_events(events.user, config.keep_last))
        steps.add("keep_last", events)
    sequences, untimed = _sequences(events, users, catalog, config, where)
    stats = {
        "steps": steps.list,
        "ties": {"last_two_events_share_time": rate, "order": config.ties},
        "users_with_unknown_times": untimed,
        "item_table": {
            "rows": len(items),
            "items_in_log_without_row": int((~known).sum()),
            "rows_without_interaction": len(items) - int(known.sum()),
        },
        **describe(catalog, sequences),
    }
    return Prepared(catalog, sequences, stats, met)


def _texts(ids: pl.Series, items: pl.DataFrame) -> tuple[pl.DataFrame, np.ndarray]:
    """Return cleaned text for every item of the log, and whether it has a row, both by code."""
    joined = pl.DataFrame({"item": ids}).join(
        items.with_columns(known=True), on="item", how="left", maintain_order="left"
    )
    known = joined["known"].fill_null(False).to_numpy()
    return text.clean_columns(joined.drop("known")), known


def _cored(events: Events, config: Preprocess, texts: pl.DataFrame, steps: Steps) -> Events:
    """Core, items without title, core again."""

    def core(step: str) -> Events:
        kept, rounds = filters.k_core(events.user, events.item, config.core)
        left = events.take(kept) if rounds else events
        steps.add(step, left, rounds=rounds)
        return left

    events = core("core")
    if config.require_title:
        titled = (texts["title"] != "").to_numpy()
        present = filters.occurring(events.item, len(titled))
        if not titled[present].all():
            events = events.take(titled[events.item])
        steps.add("titles", events, items_without_title=int((present & ~titled).sum()))
        events = core("core_again")
    return events


def _long_enough(events: Events, config: Preprocess, steps: Steps) -> Events:
    """Drop users with a single event, unless they are kept."""
    if config.core == 1 and config.short_users == "drop":
        long = np.bincount(events.user) >= 2
        events = events.take(long[events.user])
        steps.add("short_users", events)
    return events


def _ties_seed(config: Preprocess, events: Events, where: str) -> int | None:
    if config.ties == "source":
        return None
    if (events.time == NO_TIME).all():
        raise ConfigError(
            f"params.yaml: datasets.{where}.preprocess.ties: shuffle needs times, but the log "
            f"gives only an order. Set it to source."
        )
    return config.ties_seed


def _catalogue(events: Events, texts: pl.DataFrame) -> tuple[Catalog, Events]:
    """Number what is left from 1 by ascending raw id; return events with these numbers."""
    number, raw = filters.ranked(events.item, texts["item"])
    left = pl.DataFrame({"item": raw}).join(texts, on="item", how="left", maintain_order="left")
    table = pa.table(
        {
            "item": pa.array(np.arange(1, len(left) + 1), pa.uint32()),
            "raw_item": left["item"].to_arrow().cast(pa.string()),
            **{name: left[name].to_arrow().cast(pa.string()) for name in text.FIELDS},
        }
    )
    return Catalog.of(table), replace(events, item=number + 1)


def _sequences(
    events: Events, users: pl.Series, catalog: Catalog, config: Preprocess, where: str
) -> tuple[Sequences, int]:
    """Return the split sequences and the number of users with an unknown time."""
    offsets = np.append(0, np.cumsum(np.bincount(events.user, minlength=len(users))))
    unknown = events.time == NO_TIME
    untimed = len(np.unique(events.user[unknown]))
    times = None if untimed else events.time
    held = divide(config.split, offsets, times, untimed, where)
    sequences = Sequences(
        raw_users=users.to_arrow().cast(pa.string()),
        items=events.item.astype(np.int64),
        times=times,
        offsets=offsets,
        train_end=held.train_end,
        valid_at=held.valid_at,
        test_at=held.test_at,
        num_items=len(catalog),
        fingerprint=catalog.fingerprint,
    )
    return sequences, untimed
