"""Training windows: every event but the first is a target exactly once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Positions
from pipeline.randomness import generator
from pipeline.sampling.batches import epoch, held_out, next_items, windows
from pipeline.sampling.negatives import Pool
from pipeline.values import Sequences


def sequences(lengths: list[int], train_end: list[int] | None = None) -> Sequences:
    """User u's events are 1, 2, 3, ... so that item and place coincide."""
    size = np.array(lengths)
    none = np.full(len(lengths), -1)
    return Sequences(
        raw_users=pa.array([str(n) for n in range(len(lengths))]),
        items=np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int64),
        times=None,
        offsets=np.concatenate([[0], np.cumsum(size)]),
        train_end=size if train_end is None else np.array(train_end),
        valid_at=none,
        test_at=none.copy(),
        num_items=max(lengths),
        fingerprint="",
    )


def test_short_history_is_right_aligned_in_one_window() -> None:
    cut = windows(sequences([4]), 5, "all")
    inputs, targets = cut.take(np.array([0]))
    assert inputs.tolist() == [[0, 0, 1, 2, 3]]
    assert targets.tolist() == [[0, 0, 2, 3, 4]]


def test_long_history_overlaps_but_repeats_no_target() -> None:
    cut = windows(sequences([6]), 3, "all")
    inputs, targets = cut.take(np.arange(len(cut)))
    assert inputs.tolist() == [[1, 2, 3], [3, 4, 5]]
    assert targets.tolist() == [[2, 3, 4], [0, 5, 6]]


def test_last_position_training_has_one_target_per_user() -> None:
    cut = windows(sequences([6, 2, 1]), 3, "last")
    inputs, targets = cut.take(np.arange(len(cut)))
    assert inputs.tolist() == [[3, 4, 5], [0, 0, 1]]
    assert targets.tolist() == [[0, 0, 6], [0, 0, 2]]


def test_prefixes_end_with_each_target_of_their_own() -> None:
    cut = windows(sequences([5, 1, 2]), 3, "prefixes")
    inputs, targets = cut.take(np.arange(len(cut)))
    assert inputs.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 0, 1]]
    assert targets.tolist() == [[0, 0, t] for t in (2, 3, 4, 5, 2)]
    whole = cut.sequences(np.arange(len(cut)))
    assert whole.tolist() == [[*i, t[-1]] for i, t in zip(inputs, targets, strict=True)]
    none_held_out = windows(sequences([5], train_end=[3]), 3, "prefixes")
    assert none_held_out.take(np.arange(2))[1].max() == 3 and len(none_held_out) == 2


def test_held_out_events_are_no_targets() -> None:
    cut = windows(sequences([5], train_end=[3]), 5, "all")
    inputs, targets = cut.take(np.array([0]))
    assert targets.max() == 3
    assert inputs.max() == 2


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 12),
)
def test_every_event_but_the_first_is_a_target_once(lengths: list[int], length: int) -> None:
    choices: tuple[Positions, ...] = ("all", "prefixes")
    for positions in choices:
        cut = windows(sequences(lengths), length, positions)
        inputs, targets = cut.take(np.arange(len(cut)))
        found = sorted(targets[targets > 0].tolist())
        assert found == sorted(t for n in lengths for t in range(2, n + 1))
        # the input at a target's position is the event just before it
        assert (inputs[targets > 0] == targets[targets > 0] - 1).all()


def test_held_out_history_is_everything_before_the_target() -> None:
    data = sequences([4, 3], train_end=[2, 0])
    data.valid_at[0], data.test_at[0], data.test_at[1] = 2, 3, 2
    test = held_out(data, "test")
    assert test.histories(slice(0, 2), 5).tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]
    assert test.targets.tolist() == [4, 3]
    assert held_out(data, "valid").targets.tolist() == [3]


def test_seen_items_are_distinct_and_padded() -> None:
    data = sequences([4, 2])
    data.items[:3] = [2, 2, 1]
    data.test_at[:] = [3, 1]
    data.train_end[:] = [3, 1]
    assert held_out(data, "test").seen(slice(0, 2)).tolist() == [[1, 2], [1, 0]]


def test_an_epoch_visits_every_window_once_with_fresh_negatives() -> None:
    cut = windows(sequences([4] * 10), 3, "all")
    pool = Pool(torch.tensor([2, 4]), None)
    streams = (generator(0, "order"), generator(0, "negatives"))
    batches = list(epoch(cut, next_items, pool, 50, 4, *streams))
    assert [len(b.targets) for b in batches] == [4, 4, 2]
    assert all(set(b.negatives.flatten().tolist()) == {2, 4} for b in batches)
    assert not torch.equal(batches[0].negatives, batches[1].negatives)
    again = generator(0, "negatives")  # the order takes nothing from it
    for batch in batches:
        assert torch.equal(batch.negatives, pool.draw(len(batch.targets), 50, again))


def timed(lengths: list[int]) -> Sequences:
    """The n-th event of a user happens at 100 n."""
    data = sequences(lengths)
    return replace(data, times=data.items * 100)


def test_times_lie_beside_their_events_in_training() -> None:
    cut = windows(timed([6, 2]), 3, "all", times=True)
    found = cut.take_times(np.arange(len(cut)))
    assert found is not None
    assert found.tolist() == [[100, 200, 300], [300, 400, 500], [0, 0, 100]]
    order, draw = generator(0, "order"), generator(0, "negatives")
    for batch in epoch(cut, next_items, Pool(torch.tensor([1]), None), 1, 2, order, draw):
        assert batch.history.times is not None
        assert torch.equal(batch.history.times, batch.history.items * 100)


def test_times_lie_beside_their_events_before_a_target() -> None:
    data = timed([4, 3])
    data.test_at[:] = 3, 2
    history = held_out(data, "test", times=True).history(slice(0, 2), 4)
    assert history.times is not None
    assert history.times.tolist() == [[0, 100, 200, 300], [0, 0, 100, 200]]


def test_times_that_nothing_reads_are_left_out() -> None:
    data = timed([4])
    data.test_at[:] = 3
    assert windows(data, 3, "all").take_times(np.array([0])) is None
    assert held_out(data, "test").history(slice(0, 1), 3).times is None
