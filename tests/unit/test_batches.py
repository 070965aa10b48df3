"""Batches of a window: formed by length, each text once, nothing kept that is not sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoders.batches import CUT, Store, Window, plan
from pipeline.encoders.hash import HashEncoder
from pipeline.encoders.rows import RowCache
from pipeline.encoders.stream import Bitmap, Lengths
from pipeline.errors import ConfigError, DataError

TEXTS = ["a", "b", "c", "d"]


class Counting(HashEncoder):
    """Hash engine in batches of three that remembers what it was asked."""

    batch_size = 3

    def __init__(self, width: int = 8) -> None:
        super().__init__(width, 0)
        self.batches: list[list[str]] = []

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        self.batches.append(list(inputs))
        return super().encode(inputs)

    @property
    def asked(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def label(row: int) -> str:
    return f"item {row}"


def run(folder: Path, texts: list[str], engine: Counting, fresh: bool = False) -> np.ndarray:
    with RowCache(folder, engine.identity(), engine.width) as cache:
        window = Window(cache, texts, 100, fresh=fresh)
        store = Store(cache, label, lambda n, tokens: None)
        for kinds, batch in window.batches(engine, window.missing):
            window.places[kinds] = store.add(batch, engine.encode(batch.inputs))
        return np.vstack(list(window.rows(chunk_bytes=2 * engine.width * 4)))


def test_duplicates_are_encoded_once_and_order_is_kept(tmp_path: Path) -> None:
    engine, texts = Counting(), ["bb", "a", "bb", "cccc", "a"]
    rows = run(tmp_path, texts, engine)
    assert sorted(engine.asked) == ["a", "bb", "cccc"]
    np.testing.assert_array_equal(rows, HashEncoder(8, 0).encode(texts))


def test_batches_hold_texts_of_similar_length(tmp_path: Path) -> None:
    engine = Counting()
    run(tmp_path, ["x " * n for n in (1, 9, 2, 8, 3, 7)], engine)
    assert [[len(t.split()) for t in batch] for batch in engine.batches] == [[9, 8, 7], [3, 2, 1]]


def test_ten_new_items_cost_ten_texts(tmp_path: Path) -> None:
    old, new = [f"old {n}" for n in range(50)], [f"new {n}" for n in range(10)]
    run(tmp_path, old, Counting())
    engine = Counting()
    run(tmp_path, old + new, engine)
    assert sorted(engine.asked) == sorted(new)


def test_force_encodes_everything_again(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, Counting())
    engine = Counting()
    run(tmp_path, TEXTS, engine, fresh=True)
    assert sorted(engine.asked) == TEXTS


def test_interrupted_run_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    """Neighbours in a batch move a vector in its last bits, so equal bytes need equal batches."""
    texts = [f"text {'x ' * n}" for n in range(10)]
    whole, first, second = Counting(), Counting(), Counting()
    run(tmp_path / "whole", texts, whole)
    with RowCache(tmp_path / "cut", first.identity(), first.width) as cache:
        window = Window(cache, texts)
        store = Store(cache, label, lambda n, tokens: None)
        for _, batch in window.batches(first, window.missing):
            store.add(batch, first.encode(batch.inputs))
            if len(first.batches) == 2:
                break
    run(tmp_path / "cut", texts, second)
    assert first.batches + second.batches == whole.batches


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_rows_are_refused_and_not_kept(tmp_path: Path, value: float) -> None:
    class Broken(Counting):
        def encode(self, inputs: Sequence[str]) -> np.ndarray:
            rows = super().encode(inputs)
            rows[[text == "d" for text in inputs]] = value
            return rows

    with pytest.raises(DataError, match=r"NaN or infinity for 1 of 3 texts.*first: item 103"):
        run(tmp_path, ["aaaa", "bbb", "aaaa", "d"], Broken())
    engine = Counting()
    assert len(RowCache(tmp_path, engine.identity(), engine.width)) == 0


def test_other_width_is_refused(tmp_path: Path) -> None:
    class Wide(Counting):
        def encode(self, inputs: Sequence[str]) -> np.ndarray:
            return np.zeros((len(inputs), 9), np.float32)

    with pytest.raises(ConfigError, match=r"shape \[3, 9\] for 3 texts, expected width 8"):
        run(tmp_path, ["a", "b", "c"], Wide())


# ---------------------------------------------------------------- plan, lengths, sets


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200), st.integers(1, 9))
def test_plan_keeps_every_text_once_and_both_limits(
    lengths: list[int], batch_tokens: int, batch_size: int
) -> None:
    tokens = np.array(lengths, np.int64)
    batches = list(plan(tokens, batch_tokens, batch_size))
    order = [int(i) for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or max(1, tokens[batch].max()) * len(batch) <= batch_tokens


def test_items_of_a_batch_are_the_first_with_their_text(tmp_path: Path) -> None:
    engine = Counting()
    with RowCache(tmp_path, engine.identity(), engine.width) as cache:
        window = Window(cache, ["a a", "b", "a a", "b", "c c c"], 7)
        (_, batch), *more = window.batches(engine, window.missing)
    assert batch.inputs == ["c c c", "a a", "b"] and not more
    assert batch.items.tolist() == [11, 7, 8]
    assert batch.tokens.tolist() == [3, 2, 1]


def test_lengths_are_those_of_numpy() -> None:
    counts = np.array([3, 9, 4, 4, 700, 5, 6, 7, 8, 2], np.uint32)
    lengths = Lengths()
    lengths.add(counts[:4])
    lengths.add(counts[4:] | np.where(counts[4:] == 700, CUT, np.uint32(0)))
    found = lengths.summary()
    assert (found["cut"], found["cut_share"]) == (1, 0.1)
    assert found["tokens"] == {
        "min": 2,
        "median": int(np.quantile(counts, 0.5, method="inverted_cdf")),
        "p95": int(np.quantile(counts, 0.95, method="inverted_cdf")),
        "max": 700,
        "mean": round(float(counts.mean()), 2),
    }


def test_lengths_that_nobody_counted_are_not_told() -> None:
    lengths = Lengths()
    lengths.add(np.array([0, CUT], np.uint32))
    assert lengths.summary() == {"cut": 1, "cut_share": 0.5, "tokens": None}


@given(st.lists(st.lists(st.integers(0, 500), max_size=20), max_size=5))
def test_bitmap_counts_like_a_set(parts: list[list[int]]) -> None:
    bitmap = Bitmap()
    for part in parts:
        bitmap.add(np.array(part, np.int64))
    assert len(bitmap) == len({number for part in parts for number in part})
