"""Popularity, transition and text neighbour against loops over their definitions."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import naming
from pipeline.evaluation.ranks import rank
from pipeline.model import Untrained
from pipeline.sampling.batches import SPLITS, Split, held_out
from pipeline.values import SemanticEmbeddings, Sequences

ITEMS = range(1, 8)
USERS: list[tuple[list[int], list[int]]] = [
    ([1, 2, 1, 2, 3], [1, 2]),  # 1 2 twice; outside training: 3 1 2
    ([4, 2, 2, 5, 1, 2], [5, 1]),  # 2 follows itself, and 1 for the third time
    ([3, 4, 2, 6], [4, 7]),  # 4 2 again
    ([5, 1, 3], [7, 6]),  # asked after 7, which nothing follows
    ([6, 2, 5, 1], [3, 3]),  # asked after 3 for 3 itself
]
"""Of every user the training events, then the targets of validation and of test.

Nobody trains on item 7, which is a target and a last item; 3 and 5 are equally popular, 4 and 6
too.
"""
TEXT = {
    1: [1, 1, 1, 1],
    2: [2, 2, 2, 2],  # the direction of 1, twice as long
    3: [1, 1, 1, -1],
    4: [0, 3, 0, 0],
    5: [0, 0, 0, -5],
    6: [-1, -1, -1, -1],  # opposite to 1, and still before an item itself
    7: [1, -1, 1, -1],
}
"""Rows whose cosines are multiples of 1/4, exact in float32, so that ties are ties."""


def trained() -> list[int]:
    return [item for events, _ in USERS for item in events]


def by_popularity(last: int, item: int) -> float:
    return trained().count(item)


def by_transition(last: int, item: int) -> tuple[int, int]:
    """How often the item came next, then how often at all."""
    follows = 0
    for events, _ in USERS:
        for place in range(1, len(events)):
            follows += (events[place - 1], events[place]) == (last, item)
    return follows, trained().count(item)


def by_text(last: int, item: int) -> float:
    product = sum(a * b for a, b in zip(TEXT[last], TEXT[item], strict=True))
    sizes = [sum(a * a for a in TEXT[i]) ** 0.5 for i in (last, item)]
    return product / (sizes[0] * sizes[1])


def by_other_text(last: int, item: int) -> float:
    return -2.0 if item == last else by_text(last, item)  # below every cosine


Key = Callable[[int, int], Any]
KEYS: dict[str, Key] = {
    "popularity": by_popularity,
    "transition": by_transition,
    "text_neighbour": by_text,
    "text_neighbour_other": by_other_text,
}
BLOCKS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "transition": {},
    "text_neighbour": {"last_item": "candidate"},
    "text_neighbour_other": {"of": "text_neighbour", "last_item": "excluded"},
}


def data() -> Sequences:
    histories = [events + targets for events, targets in USERS]
    ends = np.array([len(events) for events, _ in USERS])
    return Sequences(
        raw_users=pa.array([f"u{n}" for n in range(len(USERS))]),
        items=np.concatenate(histories).astype(np.int64),
        times=None,
        offsets=np.cumsum([0, *map(len, histories)]),
        train_end=ends,
        valid_at=ends,
        test_at=ends + 1,
        num_items=len(ITEMS),
        fingerprint="",
    )


def made(name: str) -> Untrained:
    rows = np.array([[0] * 4, *TEXT.values()], np.float32)
    inputs: Any = SimpleNamespace(sequences=data(), semantic=SemanticEmbeddings(rows, ""))
    module = naming.module("methods", naming.file_of("methods", name, BLOCKS))
    parts: Any = SimpleNamespace()
    found = module.build(naming.settings("methods", name, BLOCKS), inputs, parts)
    assert isinstance(found, Untrained)
    return found


def asked(split: Split) -> list[tuple[list[int], int]]:
    """Return the events before every target of a split, and the target."""
    if split == "valid":
        return [(events, targets[0]) for events, targets in USERS]
    return [([*events, targets[0]], targets[1]) for events, targets in USERS]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", KEYS)
def test_ranks_equal_a_loop_over_the_definition(name: str, split: Split) -> None:
    method, key = made(name), KEYS[name]
    expected: dict[str, list[int]] = {"greater": [], "equal": []}
    for events, target in asked(split):
        keys = {item: key(events[-1], item) for item in ITEMS}
        expected["greater"].append(sum(keys[item] > keys[target] for item in ITEMS))
        expected["equal"].append(
            sum(keys[item] == keys[target] for item in ITEMS if item != target)
        )
    found = rank(method.scorer, held_out(data(), split), method.length, len(ITEMS))
    assert {counted: found[counted].tolist() for counted in expected} == expected


@pytest.mark.parametrize("name", KEYS)
def test_scores_equal_a_loop_over_the_definition(name: str) -> None:
    """And events before the last one change nothing: the scorer gets one event, then six."""
    below_one = len(trained()) + 1
    expected = []
    for events, _ in asked("test"):
        keys = [KEYS[name](events[-1], item) for item in ITEMS]
        if name == "transition":
            keys = [follows + count / below_one for follows, count in keys]
        expected.append(keys)
    for length in (1, 6):
        history = held_out(data(), "test").history(slice(0, len(USERS)), length)
        assert np.allclose(made(name).scorer(history), expected, rtol=0, atol=1e-12)
