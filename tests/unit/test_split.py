"""The three splits, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Split
from pipeline.data.split import cut, divide, global_time, leave_one_out, user_time
from pipeline.errors import DataError


def offsets(*lengths: int) -> np.ndarray:
    return np.append(0, np.cumsum(lengths))


def test_cut_is_exact_where_floats_are_not() -> None:
    assert int(0.29 * 100) == 28  # what a float gives
    assert cut(0.29, 100) == 29
    assert cut(0.8, 19_124) == 15_299


def test_user_time_orders_by_last_time_then_raw_id() -> None:
    # Last times 9, 4, 4, 7, 1; users in order 4, 1, 2, 3, 0; 0.4 and 0.4 of 5 users.
    times = np.array([1, 9, 2, 4, 3, 4, 6, 7, 0, 1])
    held = user_time(offsets(2, 2, 2, 2, 2), times, 0.4, 0.4)
    assert held.train_end.tolist() == [0, 2, 0, 0, 2]
    assert held.valid_at.tolist() == [-1, -1, 1, 1, -1]
    assert held.test_at.tolist() == [1, -1, -1, -1, -1]


def test_user_time_gives_no_target_to_a_user_with_one_event() -> None:
    times = np.array([9, 1, 2, 3, 4, 5, 6])
    held = user_time(offsets(1, 2, 2, 2), times, 0.34, 0.33)
    assert held.train_end.tolist() == [1, 2, 0, 0]
    assert held.valid_at.tolist() == [-1, -1, 1, -1]
    assert held.test_at.tolist() == [-1, -1, -1, 1]


def test_user_time_adds_shares_exactly() -> None:
    # 0.7 + 0.1 is 0.7999999999999999 in floats: 7 users before the test group instead of 8.
    times = np.repeat(np.arange(10), 2)
    held = user_time(offsets(*[2] * 10), times, 0.7, 0.1)
    assert (held.test_at >= 0).sum() == 2


def test_leave_one_out_needs_three_events() -> None:
    held = leave_one_out(np.array([4, 3, 2, 1]))
    assert held.train_end.tolist() == [2, 1, 2, 1]
    assert held.valid_at.tolist() == [2, 1, -1, -1]
    assert held.test_at.tolist() == [3, 2, -1, -1]


def test_global_time_takes_the_first_event_of_each_period() -> None:
    # Ten events, cuts at events 6 and 8 in time order: times 6 and 8.
    user_0, user_1, user_2 = [0, 1, 6, 7, 8, 9], [2, 3, 4], [5]
    times = np.array(user_0 + user_1 + user_2)
    held = global_time(offsets(6, 3, 1), times, 0.6, 0.2)
    assert held.train_end.tolist() == [2, 3, 1]
    assert held.valid_at.tolist() == [2, -1, -1]
    assert held.test_at.tolist() == [4, -1, -1]


def test_global_time_gives_no_target_without_input() -> None:
    times = np.array([0, 1, 2, 3, 6, 9, 8, 9])
    held = global_time(offsets(4, 2, 2), times, 0.5, 0.25)  # cuts at 6 and 9 (of 0 1 2 3 6 8 9 9)
    assert held.train_end.tolist() == [4, 0, 0]
    assert held.valid_at.tolist() == [-1, -1, -1]
    assert held.test_at.tolist() == [-1, 1, 1]


def test_event_at_a_cut_belongs_to_the_later_period() -> None:
    times = np.array([0, 5, 5, 5, 8, 9])
    held = global_time(offsets(6), times, 0.5, 0.2)  # cuts at times[3] = 5 and times[4] = 8
    assert held.train_end.tolist() == [1]
    assert (held.valid_at.tolist(), held.test_at.tolist()) == ([1], [4])


@pytest.mark.parametrize("kind", ["user_time", "global_time"])
def test_split_that_needs_times_refuses_an_order_only_log(kind: str) -> None:
    split = Split(kind=kind, train=0.8, valid=0.1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"shop: split {kind} needs the time .* but 3 of 4 users"):
        divide(split, offsets(3, 3, 3, 3), None, 3, "shop")


def test_split_without_a_test_target_is_refused() -> None:
    split = Split(kind="leave_one_out", train=1, valid=0)
    with pytest.raises(DataError, match="leaves no validation target among 2 users"):
        divide(split, offsets(2, 2), None, 0, "shop")
