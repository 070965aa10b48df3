"""Filters and order, on tables small enough to check by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.filters import (
    NO_TIME,
    Events,
    chronological,
    collision_rate,
    encode,
    k_core,
    last_events,
    ranked,
    repeats,
)


def events(rows: list[tuple[int, int, int]], position: list[int] | None = None) -> Events:
    """Events from (user, item, time)."""
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    place = None if position is None else np.array(position, np.int64)
    return Events(user.astype(np.int32), item.astype(np.int32), time.astype(np.int64), place)


def naive_core(rows: list[tuple[int, int]], core: int) -> set[int]:
    """Drop one user or item at a time until none is short."""
    left = set(range(len(rows)))
    while True:
        for side in (0, 1):
            for code in {rows[r][side] for r in left}:
                mine = {r for r in left if rows[r][side] == code}
                if len(mine) < core:
                    left -= mine
                    break
            else:
                continue
            break
        else:
            return left


def test_k_core_of_a_chain_takes_one_round_per_link() -> None:
    # Core 2. Round 1: user 2 has one event; without it item 1 has one. Round 2: now user 1 has one.
    user = np.array([0, 0, 3, 3, 1, 1, 2], np.int32)
    item = np.array([0, 2, 0, 2, 0, 1, 1], np.int32)
    kept, rounds = k_core(user, item, 2)
    assert kept.tolist() == [True, True, True, True, False, False, False]
    assert rounds == 2


def test_k_core_of_one_keeps_everything() -> None:
    kept, rounds = k_core(np.array([0, 1], np.int32), np.array([0, 0], np.int32), 1)
    assert kept.all() and rounds == 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_k_core_equals_a_naive_loop(rows: list[tuple[int, int]], core: int) -> None:
    user, item = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    kept, _ = k_core(user, item, core)
    assert set(np.flatnonzero(kept)) == naive_core(rows, core)


def test_codes_count_ids_by_first_appearance() -> None:
    codes, ids = encode(pl.Series(["b", "10", "a", "9", "b"]))
    assert (codes.tolist(), ids.to_list()) == ([0, 1, 2, 3, 0], ["b", "10", "a", "9"])


def test_codes_are_right_when_hashes_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Series, "hash", lambda self: pl.Series([7] * len(self), dtype=pl.UInt64))
    codes, ids = encode(pl.Series(["b", "a", "b"]))
    assert (codes.tolist(), ids.to_list()) == ([0, 1, 0], ["b", "a"])


def test_ranks_follow_the_raw_ids_of_what_is_left() -> None:
    codes, ids = ranked(np.array([3, 0, 3, 2], np.int32), pl.Series(["b", "10", "a", "9"]))
    assert (codes.tolist(), ids.to_list()) == ([0, 2, 0, 1], ["9", "a", "b"])


def test_order_is_time_then_position_then_file_order() -> None:
    log = events([(1, 0, 5), (0, 1, 9), (0, 2, 3), (0, 3, 9), (0, 4, 9)], [0, 2, 0, 1, 2])
    assert chronological(log, None).tolist() == [2, 3, 1, 4, 0]


def test_user_with_an_unknown_time_is_ordered_by_position() -> None:
    log = events([(0, 0, 50), (0, 1, NO_TIME), (0, 2, 40), (1, 0, 8), (1, 1, 7)], [2, 0, 1, 0, 1])
    assert chronological(log, None).tolist() == [1, 2, 0, 4, 3]


def test_order_without_room_for_one_key_is_the_same() -> None:
    rng = np.random.default_rng(0)
    user, time = rng.integers(0, 9, 300), rng.integers(0, 4, 300)
    place = rng.integers(0, 3, 300)
    near = Events(user.astype(np.int32), user.astype(np.int32), time, place)
    far = Events(near.user, near.item, time * 2**60, place * 2**60)
    assert chronological(near, None).tolist() == chronological(far, None).tolist()


def test_shuffle_moves_ties_only_and_is_fixed_by_the_seed() -> None:
    rows = [(0, item, 1) for item in range(40)] + [(0, 99, 0)]
    log = events(rows, list(range(41)))
    first, again, other = (chronological(log, seed) for seed in (0, 0, 1))
    assert first[0] == 40 and sorted(first.tolist()) == list(range(41))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist() != chronological(log, None).tolist()


def test_shuffle_draws_the_recorded_order() -> None:
    # Recorded: another machine or release must draw the same.
    log = events([(3, item, 1) for item in range(8)])
    assert chronological(log, 0).tolist() == [1, 6, 7, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(
    ("rule", "kept"), [("keep", [0, 1, 2, 3, 4]), ("first", [0, 1, 3]), ("last", [1, 2, 4])]
)
def test_repeats(rule: str, kept: list[int]) -> None:
    log = events([(0, 7, 1), (0, 8, 2), (0, 7, 3), (1, 7, 1), (1, 7, 2)])
    assert np.flatnonzero(repeats(log, rule)).tolist() == kept  # type: ignore[arg-type]


def test_last_events_of_each_user() -> None:
    user = np.array([0, 0, 0, 2, 3, 3])
    assert np.flatnonzero(last_events(user, 2)).tolist() == [1, 2, 3, 4, 5]


def test_collision_rate_counts_users_with_two_events() -> None:
    user = np.array([0, 0, 0, 1, 2, 2, 3, 3])
    time = np.array([1, 2, 2, 5, 5, 6, NO_TIME, NO_TIME])
    assert collision_rate(user, time) == pytest.approx(1 / 3)
