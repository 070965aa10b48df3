"""Which events train, validate and test.

Events before a user's train_end may be inputs and training targets; valid_at and test_at are the
index of a target whose input is everything before it, or NOT_HELD. A target always has an input:
index 0 is never one.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from pipeline.config import Split
from pipeline.errors import DataError
from pipeline.values import NOT_HELD


class Held(NamedTuple):
    """The split of U users."""

    train_end: np.ndarray
    """[U] int64."""
    valid_at: np.ndarray
    """[U] int64 or NOT_HELD."""
    test_at: np.ndarray
    """[U] int64 or NOT_HELD."""


def divide(
    split: Split, offsets: np.ndarray, times: np.ndarray | None, untimed_users: int, where: str
) -> Held:
    """Split sorted histories; users are in ascending order of their raw ids.

    offsets: [U+1]; times: [E] seconds, None when some event has no time; where: data set.
    Raises DataError when the split needs times that are not known, or leaves a part empty.
    """
    if split.kind == "leave_one_out":
        held = leave_one_out(np.diff(offsets))
    elif times is None:
        raise DataError(
            f"{where}: split {split.kind} needs the time of every event, but {untimed_users} of "
            f"{len(offsets) - 1} users have events without one. Set split.kind to leave_one_out "
            f"(with train: 1 and valid: 0), or give source.columns.time."
        )
    elif split.kind == "user_time":
        held = user_time(offsets, times, split.train, split.valid)
    else:
        held = global_time(offsets, times, split.train, split.valid)
    for part, at in (("validation", held.valid_at), ("test", held.test_at)):
        if not (at != NOT_HELD).any():
            raise DataError(
                f"{where}: split {split.kind} leaves no {part} target among {len(at)} users. "
                f"Use more data, a smaller core, or other shares."
            )
    if not held.train_end.any():
        raise DataError(f"{where}: split {split.kind} leaves nothing to train on. Use more data.")
    return held


def cut(share: float, count: int) -> int:
    """Return floor(share * count), with the share as the decimal that was written.

    In floats 0.7 + 0.1 is below 0.8 and floor((0.7 + 0.1) * 10) would be 7.
    """
    return int(Fraction(repr(share)) * count)


def _cuts(train: float, valid: float, count: int) -> tuple[int, int]:
    both = Fraction(repr(train)) + Fraction(repr(valid))
    return cut(train, count), int(both * count)


def user_time(offsets: np.ndarray, times: np.ndarray, train: float, valid: float) -> Held:
    """Cut the users, ordered by their last event's time and then raw id, into three groups.

    The target is the last event of a validation or test user. Users with one event have no input
    for a target: they train and are left out of the order.
    """
    lengths = np.diff(offsets)
    users = np.flatnonzero(lengths >= 2)
    last = times[offsets[1:][users] - 1]
    users = users[np.argsort(last, kind="stable")]
    first, second = _cuts(train, valid, len(users))
    held = _all_train(lengths)
    for part, at in ((users[first:second], held.valid_at), (users[second:], held.test_at)):
        held.train_end[part] = 0
        at[part] = lengths[part] - 1
    return held


def leave_one_out(lengths: np.ndarray) -> Held:
    """The last event tests, the one before validates, the rest trains.

    Users with fewer than three events only train: their validation target would have no input.
    """
    held = _all_train(lengths)
    users = lengths >= 3
    held.train_end[users] = lengths[users] - 2
    held.valid_at[users] = lengths[users] - 2
    held.test_at[users] = lengths[users] - 1
    return held


def global_time(offsets: np.ndarray, times: np.ndarray, train: float, valid: float) -> Held:
    """Cut all events at two points in time; one target per user and period.

    The cuts are the times of the events number floor(train * E) and floor((train + valid) * E) in
    time order; an event at a cut belongs to the later period. Events before the first cut train.
    The validation target is the user's first event of the validation period, the test target the
    first of the test period: its input holds nothing that happened after the period began.
    A first event that is also the user's very first has no input and is no target.
    """
    lengths = np.diff(offsets)
    ordered = np.sort(times)
    first, second = (ordered[place] for place in _cuts(train, valid, len(ordered)))
    users = np.repeat(np.arange(len(lengths)), lengths)

    def before(moment: int) -> np.ndarray:
        return np.bincount(users[times < moment], minlength=len(lengths))

    train_end, test_from = before(first), before(second)
    valid_at = np.where((train_end >= 1) & (train_end < test_from), train_end, NOT_HELD)
    test_at = np.where((test_from >= 1) & (test_from < lengths), test_from, NOT_HELD)
    return Held(train_end, valid_at, test_at)


def _all_train(lengths: np.ndarray) -> Held:
    nothing = np.full(len(lengths), NOT_HELD, np.int64)
    return Held(lengths.astype(np.int64), nothing, nothing.copy())
