"""The row cache: nothing lost, nothing repeated, nothing wrong, whatever happens to its files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.encoders import rows
from pipeline.encoders.rows import ABSENT, FORMAT, RowCache, digest, key_of
from pipeline.encoders.shard import INDEX, RECORD
from pipeline.encoders.shard import ROWS as ROWS_FILE
from pipeline.errors import ResourceError

WIDTH = 3
MEANING = {"engine": "test"}
TEXTS = ["a", "b", "c", "d"]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def open_cache(folder: Path) -> RowCache:
    return RowCache(folder, MEANING, WIDTH)


def add(cache: RowCache, texts: Sequence[str], rows: np.ndarray) -> np.ndarray:
    tokens = np.array([len(text) for text in texts], np.uint32)
    return cache.append(digest(texts), np.asarray(rows, np.float32), tokens)


def filled(folder: Path) -> RowCache:
    """Two batches: a, b and c, d."""
    with open_cache(folder) as cache:
        add(cache, TEXTS[:2], ROWS[:2])
        add(cache, TEXTS[2:], ROWS[2:])
    return cache


def file(cache: RowCache, suffix: str, number: int = 0) -> Path:
    return cache.folder / f"{number:04d}{suffix}"


def found(folder: Path, texts: Sequence[str] = TEXTS) -> list[bool]:
    return (open_cache(folder).find(digest(texts)) != ABSENT).tolist()


def test_rows_come_back_under_their_texts(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = open_cache(tmp_path)
    places = cache.find(digest(["d", "x", "a"]))
    assert (places == ABSENT).tolist() == [False, True, False]
    np.testing.assert_array_equal(cache.read(places[[0, 2]]), ROWS[[3, 0]])
    assert cache.read(places[:0]).shape == (0, WIDTH)


def test_tokens_come_back_with_their_rows(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        cut = np.array([7, 1 << 31 | 512], np.uint32)
        places = cache.append(digest(TEXTS[:2]), ROWS[:2], cut)
        assert cache.tokens(places[::-1]).tolist() == [(1 << 31) + 512, 7]
    again = open_cache(tmp_path)
    assert again.tokens(again.find(digest(["a"]))).tolist() == [7]


def test_looking_up_creates_nothing(tmp_path: Path) -> None:
    assert found(tmp_path) == [False] * 4
    assert len(open_cache(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


def test_every_part_of_the_meaning_changes_the_key() -> None:
    base = {"model": "m", "dtype": "float32", "revision": 1}
    changed = [{**base, key: "other"} for key in base]
    assert len({key_of(meaning) for meaning in [base, *changed]}) == 4
    assert key_of({"b": 1, "a": 2}) == key_of({"a": 2, "b": 1})


def test_the_meaning_is_there_to_read(tmp_path: Path) -> None:
    path = filled(tmp_path).folder / "meaning.json"
    assert json.loads(path.read_text()) == {"format": FORMAT, "width": WIDTH, "meaning": MEANING}


@pytest.mark.parametrize("content", ["{cut", None])
@pytest.mark.parametrize("use", [RowCache.describe, lambda cache: add(cache, ["e"], ROWS[:1])])
def test_a_damaged_meaning_is_mended_with_and_without_new_rows(
    tmp_path: Path, content: str | None, use: Callable[[RowCache], object]
) -> None:
    path = filled(tmp_path).folder / "meaning.json"
    before = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    use(open_cache(tmp_path))
    assert path.read_bytes() == before


def test_a_meaning_of_no_rows_is_not_written(tmp_path: Path) -> None:
    open_cache(tmp_path).describe()
    assert list(tmp_path.iterdir()) == []


def test_a_meaning_that_may_not_be_changed_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path).folder / "meaning.json"
    path.write_text("{cut")

    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        open_cache(tmp_path).describe()
    assert path.read_text() == "{cut" and found(tmp_path) == [True] * 4


@pytest.mark.parametrize("cut", range(1, 2 * RECORD.itemsize + 1))
def test_index_cut_anywhere_loses_the_last_batch_whole_and_no_other(
    tmp_path: Path, cut: int
) -> None:
    path = file(filled(tmp_path), INDEX)
    os.truncate(path, path.stat().st_size - cut)
    assert found(tmp_path) == [True, True, False, False]


@pytest.mark.parametrize("cut", range(1, 2 * WIDTH * 4 + 1))
def test_rows_cut_anywhere_lose_the_last_batch_only(tmp_path: Path, cut: int) -> None:
    path = file(filled(tmp_path), ROWS_FILE)
    os.truncate(path, path.stat().st_size - cut)
    assert found(tmp_path) == [True, True, False, False]


@pytest.mark.parametrize("suffix", [INDEX, ROWS_FILE])
def test_a_shard_cut_in_half_loses_its_tail_and_the_rest_is_found(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "SHARD_BYTES", 40 * WIDTH * 4)
    texts = [f"text {n}" for n in range(100)]
    with open_cache(tmp_path) as cache:
        for n in range(0, 100, 4):
            add(cache, texts[n : n + 4], np.full((4, WIDTH), n))
    path = file(cache, suffix, number=1)
    os.truncate(path, path.stat().st_size // 2)
    cache = open_cache(tmp_path)
    places = cache.find(digest(texts))
    assert (places != ABSENT).tolist() == [True] * 60 + [False] * 20 + [True] * 20
    assert (cache.read(places[:60])[:, 0] == np.arange(60) // 4 * 4).all()
    # The next writer cuts off what cannot be used and goes on there.
    add(cache, texts[60:64], np.full((4, WIDTH), 60))
    assert sum(found(tmp_path, texts)) == 84


def test_rows_without_records_are_cut_off_by_the_next_append(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    with file(cache, ROWS_FILE).open("ab") as handle:
        handle.write(b"torn by a kill")
    with file(cache, INDEX).open("ab") as handle:
        handle.write(b"torn")
    with open_cache(tmp_path) as other:
        add(other, ["e"], ROWS[:1] + 50)
    assert found(tmp_path, ["a", "d", "e"]) == [True, True, True]
    assert file(cache, ROWS_FILE).stat().st_size == 5 * WIDTH * 4
    assert file(cache, INDEX).stat().st_size == 5 * RECORD.itemsize


@pytest.mark.parametrize("missing", [INDEX, ROWS_FILE])
def test_half_a_shard_is_no_error_and_its_number_is_used_again(
    tmp_path: Path, missing: str
) -> None:
    file(filled(tmp_path), missing).unlink()
    assert found(tmp_path) == [False] * 4
    add(open_cache(tmp_path), ["a"], ROWS[:1])
    assert found(tmp_path) == [True, False, False, False]


@pytest.mark.parametrize("suffix", [INDEX, ROWS_FILE])
def test_altered_row_or_record_counts_as_absent(tmp_path: Path, suffix: str) -> None:
    """One bit of the second row, and of what is recorded as its tokens."""
    path = file(filled(tmp_path), suffix)
    content = bytearray(path.read_bytes())
    at = WIDTH * 4 + 2 if suffix == ROWS_FILE else RECORD.itemsize + RECORD.fields["tokens"][1]
    content[at] ^= 1
    path.write_bytes(content)
    assert found(tmp_path) == [True, False, True, True]


def test_later_row_of_a_text_wins(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = open_cache(tmp_path)
    add(cache, ["a"], ROWS[:1] + 9)
    np.testing.assert_array_equal(cache.read(cache.find(digest(["a"]))), ROWS[:1] + 9)


def test_an_earlier_row_stands_in_for_a_damaged_later_one(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    with open_cache(tmp_path) as other:
        add(other, ["a"], ROWS[:1] + 9)
    with file(cache, ROWS_FILE).open("r+b") as handle:
        handle.seek(4 * WIDTH * 4)
        handle.write(b"\xff")
    again = open_cache(tmp_path)
    np.testing.assert_array_equal(again.read(again.find(digest(["a"]))), ROWS[:1])


def test_hashes_that_share_their_first_half_are_told_apart(tmp_path: Path) -> None:
    hashes = digest(TEXTS).copy()
    hashes[1, :3] = hashes[0, :3]
    with open_cache(tmp_path) as cache:
        cache.append(hashes[:1], ROWS[:1], np.zeros(1, np.uint32))
        assert cache.find(hashes[1:2]).tolist() == [ABSENT]


@pytest.mark.parametrize("partly", [False, True])
def test_full_disk_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partly: bool
) -> None:
    """The disk refuses the first write, or takes half of it and refuses the rest."""
    filled(tmp_path)
    cache = open_cache(tmp_path)
    real, calls = os.pwrite, 0

    def full(descriptor: int, content: memoryview, offset: int) -> int:
        nonlocal calls
        calls += 1
        if partly and calls == 1:
            return real(descriptor, content[: len(content) // 2], offset)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="no space left"):
        patch.setattr(os, "pwrite", full)
        add(cache, ["e"], ROWS[:1])
    assert file(cache, ROWS_FILE).stat().st_size == 4 * WIDTH * 4
    assert found(tmp_path) == [True] * 4
    add(cache, ["e"], ROWS[:1])
    assert found(tmp_path, ["a", "e"]) == [True, True]


def test_a_disk_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match=r"no file locks.*Set SPECTRAN_CACHE"):
        add(open_cache(tmp_path), ["e"], ROWS[:1])


# ---------------------------------------------------------------- shards


def shards(cache: RowCache) -> list[str]:
    return sorted(path.name for path in cache.folder.glob("*.bin"))


def test_a_new_shard_begins_where_one_would_exceed_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "SHARD_BYTES", 5 * WIDTH * 4)
    with open_cache(tmp_path) as cache:
        places = [add(cache, [f"{n}", f"{n}x"], np.full((2, WIDTH), n)) for n in range(7)]
        places.append(add(cache, [str(n) for n in range(100, 107)], np.full((7, WIDTH), 9)))
        assert cache.read(np.concatenate(places))[:, 0].tolist() == [
            *np.arange(7).repeat(2), *[9] * 7
        ]  # fmt: skip
    sizes = [file(cache, ROWS_FILE, n).stat().st_size // (WIDTH * 4) for n in range(5)]
    assert sizes == [4, 4, 4, 2, 7], "a batch larger than the limit has a shard of its own"
    assert found(tmp_path, ["0", "6x", "103"]) == [True] * 3
    with open_cache(tmp_path) as cache:
        add(cache, ["new"], ROWS[:1])
    assert file(cache, ROWS_FILE, 0).stat().st_size == 5 * WIDTH * 4, "the first one with room"


def test_writers_that_are_open_together_take_a_shard_each(tmp_path: Path) -> None:
    first, second, third = (open_cache(tmp_path) for _ in range(3))
    for number, cache in enumerate((first, second, third)):
        add(cache, [f"text {number}"], ROWS[number : number + 1])
    assert shards(first) == ["0000.bin", "0001.bin", "0002.bin"]
    second.close()
    add(open_cache(tmp_path), ["more"], ROWS[:1])
    assert shards(first) == ["0000.bin", "0001.bin", "0002.bin"], "the free one was taken"
    places = third.find(digest(["more", "text 2", "text 0", "text 1"]))
    np.testing.assert_array_equal(third.read(places), ROWS[[0, 2, 0, 1]])


def test_a_writer_that_is_not_closed_gives_its_shard_up_with_the_object(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    add(cache, ["a"], ROWS[:1])
    del cache
    cache = open_cache(tmp_path)
    add(cache, ["b"], ROWS[:1])
    assert shards(cache) == ["0000.bin"]


def test_numbers_are_dense_and_stay_the_same_whoever_writes(tmp_path: Path) -> None:
    mine, other = open_cache(tmp_path), open_cache(tmp_path)
    given: dict[int, int] = {}
    places = []
    for n in range(6):
        add(other, [f"other {n}", f"other {n}x"], np.full((2, WIDTH), n))
        places.append(add(mine, [f"mine {n}"], np.full((1, WIDTH), n)))
        if n % 2:
            places.append(mine.find(digest([f"other {n}", f"other {n - 1}x"])))
        for place in np.concatenate(places):
            number = int(mine.number(np.array([place]))[0])
            assert given.setdefault(int(place), number) == number
    known = mine.find(digest([f"{who} {n}{x}" for n in range(6) for who, x in
                              (("mine", ""), ("other", ""), ("other", "x"))]))  # fmt: skip
    assert sorted(mine.number(known)) == list(range(len(mine))) == list(range(18))


def test_last_use_is_noted_by_readers_and_writers_once(tmp_path: Path) -> None:
    used = filled(tmp_path).folder / "used"
    for use in (lambda c: c.find(digest(["x"])), lambda c: add(c, ["e"], ROWS[:1])):
        os.utime(used, (1, 1))
        cache = open_cache(tmp_path)
        use(cache)
        assert used.stat().st_mtime > 1
        os.utime(used, (1, 1))
        use(cache)
        assert used.stat().st_mtime == 1


def test_what_a_group_may_change_it_may_change_whatever_the_umask(tmp_path: Path) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    before = os.umask(0o022)
    try:
        for folder, mode in ((shared, 0o770), (private, 0o755)):
            folder.mkdir()
            folder.chmod(mode)
            add(open_cache(folder), TEXTS, ROWS)
    finally:
        os.umask(before)
    for path in shared.rglob("*"):
        needed = 0o070 if path.is_dir() else 0o060
        assert path.name == "meaning.json" or path.stat().st_mode & needed == needed, path
    assert not any(path.stat().st_mode & 0o020 for path in private.rglob("*"))


def test_a_shard_that_may_not_be_changed_is_read_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = filled(tmp_path)
    real = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name.startswith("0000") and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    add(open_cache(tmp_path), ["e"], ROWS[:1])
    assert shards(cache) == ["0000.bin", "0001.bin"]
    assert found(tmp_path, ["a", "e"]) == [True, True]


# ---------------------------------------------------------------- several processes

WRITE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from pipeline.encoders import rows
    rows.SHARD_BYTES = 400
    cache = rows.RowCache(Path(sys.argv[1]), {"engine": "test"}, 3)
    print("go", flush=True)
    for batch in range(int(sys.argv[3])):
        texts = [f"{sys.argv[2]}-{batch}-{i}" for i in range(5)]
        values = np.full((5, 3), float(sys.argv[2]) * 1000 + batch, np.float32)
        cache.append(rows.digest(texts), values, np.full(5, batch, np.uint32))
        print(batch, flush=True)
    """
)
"""argv: folder, number of the writer, batches."""


def start(folder: Path, writer: int, batches: int, output: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITE, str(folder), str(writer), str(batches)]
    return subprocess.Popen(command, stdout=output)


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    writers = [start(tmp_path, n, 100, subprocess.DEVNULL) for n in (1, 2, 3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    cache = open_cache(tmp_path)
    texts = [(n, b, i) for n in (1, 2, 3) for b in range(100) for i in range(5)]
    places = cache.find(digest([f"{n}-{b}-{i}" for n, b, i in texts]))
    assert (places != ABSENT).all()
    assert len(cache) == len(texts)
    assert cache.read(places)[:, 0].tolist() == [n * 1000 + b for n, b, _ in texts]
    assert cache.tokens(places).tolist() == [b for _, b, _ in texts]
    assert len(shards(cache)) >= 100 * 3 * 5 * WIDTH * 4 // 400


def test_two_processes_on_the_same_texts_both_finish(tmp_path: Path) -> None:
    writers = [start(tmp_path, 1, 60, subprocess.DEVNULL) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    cache = open_cache(tmp_path)
    texts = [(b, i) for b in range(60) for i in range(5)]
    places = cache.find(digest([f"1-{b}-{i}" for b, i in texts]))
    assert cache.read(places)[:, 0].tolist() == [1000 + b for b, _ in texts]


@pytest.mark.parametrize("together", [1, 2])
def test_killed_at_random_moments_repeats_at_most_the_batch_in_flight(
    tmp_path: Path, together: int
) -> None:
    for round_ in range(4):
        names = [round_ * together + n for n in range(together)]
        writers = [start(tmp_path, name, 10**6, subprocess.PIPE) for name in names]
        for name, writer in zip(names, writers, strict=True):
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
            texts = [f"{name}-{b}-{i}" for b in range(done) for i in range(5)]
            places = open_cache(tmp_path).find(digest(texts))
            assert (places != ABSENT).all()
            assert len(open_cache(tmp_path)) % 5 == 0
