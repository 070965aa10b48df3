"""The row cache: nothing lost, nothing repeated, nothing wrong, whatever happens to its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.encoders.batches import Lookup
from pipeline.encoders.hash import HashEncoder
from pipeline.encoders.rows import ABSENT, RECORD, RowCache, digest, key_of
from pipeline.errors import ConfigError, DataError, ResourceError

WIDTH = 3
MEANING = {"engine": "test"}
TEXTS = ["a", "b", "c", "d"]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


class Counting(HashEncoder):
    """Hash engine in batches of three that remembers what it was asked."""

    batch_size = 3

    def __init__(self, width: int = 8) -> None:
        super().__init__(width, 0)
        self.batches: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        return super().encode(texts)

    @property
    def asked(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


def label(index: int) -> str:
    return f"text {index}"


def nothing(count: int) -> None:
    pass


def open_cache(folder: Path) -> RowCache:
    return RowCache(folder, MEANING, WIDTH)


def filled(folder: Path) -> RowCache:
    """Two batches: a, b and c, d."""
    cache = open_cache(folder)
    cache.append(digest(TEXTS[:2]), ROWS[:2])
    cache.append(digest(TEXTS[2:]), ROWS[2:])
    return cache


def found(folder: Path, texts: Sequence[str] = TEXTS) -> list[bool]:
    return (open_cache(folder).find(digest(texts)) != ABSENT).tolist()


def test_rows_come_back_under_their_texts(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = open_cache(tmp_path)
    places = cache.find(digest(["d", "x", "a"]))
    assert places.tolist() == [3, ABSENT, 0]
    np.testing.assert_array_equal(cache.read(places[[0, 2]]), ROWS[[3, 0]])


def test_looking_up_creates_nothing(tmp_path: Path) -> None:
    assert found(tmp_path) == [False] * 4
    assert len(open_cache(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


def test_every_part_of_the_meaning_changes_the_key() -> None:
    base = {"model": "m", "dtype": "float32", "revision": 1}
    changed = [{**base, key: "other"} for key in base]
    assert len({key_of(meaning) for meaning in [base, *changed]}) == 4
    assert key_of({"b": 1, "a": 2}) == key_of({"a": 2, "b": 1})


@pytest.mark.parametrize("cut", range(1, 2 * RECORD.itemsize + 1))
def test_index_cut_anywhere_loses_the_last_batch_whole_and_no_other(
    tmp_path: Path, cut: int
) -> None:
    cache = filled(tmp_path)
    os.truncate(cache.index, cache.index.stat().st_size - cut)
    assert found(tmp_path) == [True, True, False, False]


def test_rows_cut_in_half_lose_the_last_batch_only(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    os.truncate(cache.rows, cache.rows.stat().st_size - 5)
    assert found(tmp_path) == [True, True, False, False]


def test_rows_without_records_are_cut_off_by_the_next_append(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    with cache.rows.open("ab") as handle:
        handle.write(b"torn by a kill")
    with cache.index.open("ab") as handle:
        handle.write(b"torn")
    places = open_cache(tmp_path).append(digest(["e"]), ROWS[:1] + 50)
    assert places.tolist() == [4]
    assert found(tmp_path, ["a", "d", "e"]) == [True, True, True]
    assert cache.rows.stat().st_size == 5 * WIDTH * 4


def test_altered_row_counts_as_absent(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    content = bytearray(cache.rows.read_bytes())
    content[WIDTH * 4 + 2] ^= 1
    cache.rows.write_bytes(content)
    assert found(tmp_path) == [True, False, True, True]


def test_later_row_of_a_text_wins(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.append(digest(["a"]), ROWS[:1] + 9)
    np.testing.assert_array_equal(cache.read(cache.find(digest(["a"]))), ROWS[:1] + 9)


def test_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled(tmp_path)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="no space left"):
        patch.setattr(os, "pwrite", full)
        cache.append(digest(["e"]), ROWS[:1])
    assert found(tmp_path) == [True] * 4


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from pipeline.encoders.rows import RowCache, digest
        cache = RowCache(Path(sys.argv[1]), {"engine": "test"}, 3)
        for batch in range(100):
            texts = [f"{sys.argv[2]}-{batch}-{i}" for i in range(5)]
            number = float(sys.argv[2]) * 1000 + batch
            cache.append(digest(texts), np.full((5, 3), number, np.float32))
        """
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in (1, 2, 3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    cache = open_cache(tmp_path)
    texts = [(n, b, i) for n in (1, 2, 3) for b in range(100) for i in range(5)]
    places = cache.find(digest([f"{n}-{b}-{i}" for n, b, i in texts]))
    assert (places != ABSENT).all()
    assert cache.read(places)[:, 0].tolist() == [n * 1000 + b for n, b, _ in texts]


def test_killed_at_random_moments_repeats_at_most_the_batch_in_flight(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from pipeline.encoders.rows import RowCache, digest
        cache = RowCache(Path(sys.argv[1]), {"engine": "test"}, 3)
        print("go", flush=True)
        for batch in range(10**6):
            texts = [f"{sys.argv[2]}-{batch}-{i}" for i in range(5)]
            cache.append(digest(texts), np.full((5, 3), batch, np.float32))
            print(batch, flush=True)
        """
    )
    for round_ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(round_)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        done = -1
        for line in writer.stdout:
            if line.strip() == b"go":
                continue
            done = int(line)
            if done >= 20 + 7 * round_:
                writer.send_signal(signal.SIGKILL)
                break
        tail = writer.stdout.read().split()
        writer.wait()
        done = max([done, *(int(word) for word in tail if word.isdigit())])
        texts = [f"{round_}-{b}-{i}" for b in range(done) for i in range(5)]
        places = open_cache(tmp_path).find(digest(texts))
        assert (places != ABSENT).all()
        assert len(open_cache(tmp_path)) % 5 == 0


# ---------------------------------------------------------------- batches


def run(folder: Path, texts: list[str], engine: Counting, fresh: bool = False) -> np.ndarray:
    cache = RowCache(folder, engine.identity(), engine.width)
    lookup = Lookup(cache, texts, fresh=fresh)
    lookup.encode(engine, label, nothing)
    return np.vstack(list(lookup.rows(chunk_bytes=2 * engine.width * 4)))


def test_duplicates_are_encoded_once_and_order_is_kept(tmp_path: Path) -> None:
    engine, texts = Counting(), ["bb", "a", "bb", "cccc", "a"]
    rows = run(tmp_path, texts, engine)
    assert sorted(engine.asked) == ["a", "bb", "cccc"]
    np.testing.assert_array_equal(rows, HashEncoder(8, 0).encode(texts))


def test_batches_hold_texts_of_similar_length(tmp_path: Path) -> None:
    engine = Counting()
    run(tmp_path, ["x" * n for n in (1, 9, 2, 8, 3, 7)], engine)
    assert [[len(t) for t in batch] for batch in engine.batches] == [[9, 8, 7], [3, 2, 1]]


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
    texts = [f"text {'x' * n}" for n in range(10)]
    whole, first, second = Counting(), Counting(), Counting()
    run(tmp_path / "whole", texts, whole)
    cache = RowCache(tmp_path / "cut", first.identity(), first.width)

    def stop(count: int) -> None:
        if len(first.batches) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lookup(cache, texts, fresh=False).encode(first, label, stop)
    run(tmp_path / "cut", texts, second)
    assert first.batches + second.batches == whole.batches


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_rows_are_refused_and_not_kept(tmp_path: Path, value: float) -> None:
    class Broken(Counting):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            rows = super().encode(texts)
            rows[[text == "d" for text in texts]] = value
            return rows

    with pytest.raises(DataError, match=r"NaN or infinity for 1 of 3 texts.*first: text 3"):
        run(tmp_path, ["aaaa", "bbb", "aaaa", "d"], Broken())
    engine = Counting()
    assert len(RowCache(tmp_path, engine.identity(), engine.width)) == 0


def test_other_width_is_refused(tmp_path: Path) -> None:
    class Wide(Counting):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            return np.zeros((len(texts), 9), np.float32)

    with pytest.raises(ConfigError, match=r"shape \[3, 9\] for 3 texts, expected width 8"):
        run(tmp_path, ["a", "b", "c"], Wide())
