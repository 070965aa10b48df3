"""Verifying and pruning cached rows: all damage is said, and nothing sound is ever lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.encoders import locks, rows, shard
from pipeline.encoders.rows import ABSENT, RowCache, digest
from pipeline.encoders.shard import INDEX, RECORD, ROWS, unlink
from pipeline.encoders.upkeep import Freed, Stored, Strange, mend, problems, remove, stored
from pipeline.errors import ResourceError

WIDTH = 3
ROW_BYTES = WIDTH * 4 + RECORD.itemsize
MEANING = {"engine": "test", "width": 3}
TEXTS = [f"text {n}" for n in range(12)]


def add(cache: RowCache, texts: Sequence[str], values: Sequence[float]) -> None:
    content = np.repeat(np.array(values, np.float32)[:, None], WIDTH, axis=1)
    cache.append(digest(texts), content, np.arange(len(texts), dtype=np.uint32))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three shards of two batches of two texts; the rows of text n are filled with n."""
    monkeypatch.setattr(rows, "SHARD_BYTES", 4 * WIDTH * 4)
    with RowCache(tmp_path, MEANING, WIDTH) as cache:
        for n in range(0, 12, 2):
            add(cache, TEXTS[n : n + 2], [n, n + 1])
    yield cache.folder


def only(folder: Path) -> Stored:
    (found,) = stored(folder.parent.parent)
    assert isinstance(found, Stored)
    return found


def values(folder: Path, texts: Sequence[str] = TEXTS) -> list[float]:
    """The value of each text's row, -1 where there is none."""
    cache = RowCache(folder.parent.parent, MEANING, WIDTH)
    places = cache.find(digest(texts))
    out = np.full(len(texts), -1.0)
    out[places != ABSENT] = cache.read(places[places != ABSENT])[:, 0]
    return out.tolist()


def file(folder: Path, number: int, suffix: str = ROWS) -> Path:
    return folder / f"{number:04d}{suffix}"


def spoil(folder: Path, number: int, row: int) -> None:
    with file(folder, number).open("r+b") as handle:
        handle.seek(row * WIDTH * 4)
        handle.write(b"\xff")


def said(folder: Path) -> list[str]:
    return list(problems(only(folder), lambda n: None))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("0*"))


# ---------------------------------------------------------------- what lies there


def test_rows_are_listed_with_their_meaning(folder: Path) -> None:
    found = only(folder)
    assert (found.folder, found.meaning, found.width) == (folder, MEANING, WIDTH)
    assert len(found.cache) == 12
    assert found.size_bytes == 12 * ROW_BYTES + (folder / "meaning.json").stat().st_size


def test_looking_after_is_no_use(folder: Path) -> None:
    os.utime(folder / "used", (5, 5))
    spoil(folder, 1, 0)
    assert said(folder) and mend(only(folder), dry_run=False).rows == 1
    assert only(folder).used == 5


def test_a_folder_where_a_writer_begins_is_not_listed(folder: Path) -> None:
    begun = folder.parent / ("0" * 64)
    (begun / ".tmp").mkdir(parents=True)
    (begun / "used").touch()
    (folder.parent / ".tmp").mkdir()
    (folder.parent / "file").touch()
    assert [one.folder for one in stored(folder.parent.parent)] == [folder]


@pytest.mark.parametrize(
    ("content", "reason", "damaged"),
    [
        ('{"format": 3, "width": 3, "meaning": {}}', "format 3, this version reads 2", False),
        ('{"engine": "hash", "width": 3}', "format without a number", False),
        ('{"format": 2, "width": 3, "meaning": {"engine": "other"}}', "other rows", True),
        ('{"format": 2, "width": 3}', "cannot be read", True),
        ('{"format": 2, "wid', "cannot be read", True),
        ("[2]", "cannot be read", True),
        (None, "is missing", True),
    ],
)
def test_another_format_is_told_from_damage(
    folder: Path, content: str | None, reason: str, damaged: bool
) -> None:
    path = folder / "meaning.json"
    path.unlink() if content is None else path.write_text(content)
    (found,) = stored(folder.parent.parent)
    assert isinstance(found, Strange)
    assert reason in found.reason and str(path) in found.reason
    assert found.damaged is damaged


# ---------------------------------------------------------------- verify


def test_sound_rows_have_no_problem_and_all_are_read(folder: Path) -> None:
    read: list[int] = []
    assert list(problems(only(folder), read.append)) == []
    assert sum(read) == 12


def test_damaged_rows_are_counted_in_their_shard(folder: Path) -> None:
    spoil(folder, 1, 0)
    spoil(folder, 1, 3)
    assert said(folder) == [f"{file(folder, 1)}: 2 of 4 rows are not what was written"]


@pytest.mark.parametrize("suffix", [ROWS, INDEX])
def test_a_shard_cut_in_half_is_torn(folder: Path, suffix: str) -> None:
    path = file(folder, 2, suffix)
    os.truncate(path, path.stat().st_size // 2 - 1)
    left = size(folder) - 8 * ROW_BYTES
    assert said(folder) == [
        f"{file(folder, 2)}: {left} bytes are no whole batch (cut, or a run was killed)"
    ]


def test_a_batch_in_flight_is_not_torn(folder: Path) -> None:
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, ["more"], [1])
        with file(folder, 3).open("ab") as handle:
            handle.write(b"the next row")
        assert said(folder) == []
    assert len(said(folder)) == 1


@pytest.mark.parametrize("suffix", [ROWS, INDEX])
def test_half_a_shard_is_said(folder: Path, suffix: str) -> None:
    file(folder, 0, suffix).unlink()
    (line,) = said(folder)
    assert "without its other half" in line


# ---------------------------------------------------------------- prune --damaged


def test_sound_shards_are_left_as_they_are(folder: Path) -> None:
    before = {path: path.stat() for path in folder.glob("0*")}
    assert mend(only(folder), dry_run=False) == Freed()
    assert {path: path.stat() for path in folder.glob("0*")} == before


def test_damaged_rows_go_and_all_others_stay(folder: Path) -> None:
    spoil(folder, 1, 0)
    spoil(folder, 2, 3)
    expected = Freed(2 * ROW_BYTES, 2)
    before = sorted(folder.iterdir())
    assert mend(only(folder), dry_run=True) == expected
    assert sorted(folder.iterdir()) == before
    assert mend(only(folder), dry_run=False) == expected
    assert values(folder) == [-1 if n in (4, 11) else n for n in range(12)]
    assert said(folder) == [] and size(folder) == 10 * ROW_BYTES
    cache = RowCache(folder.parent.parent, MEANING, WIDTH)
    assert cache.tokens(cache.find(digest(TEXTS[5:8]))).tolist() == [1, 0, 1]


def test_replaced_rows_go_and_the_later_stay(folder: Path) -> None:
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, [*TEXTS[1:4], "new"], [101, 102, 103, 100])
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, ["new", "more"], [200, 201])
    expected = Freed(4 * ROW_BYTES, 4)
    assert mend(only(folder), dry_run=True) == expected
    assert mend(only(folder), dry_run=False) == expected
    assert values(folder, TEXTS[:5]) == [0, 101, 102, 103, 4]
    assert values(folder, ["new", "more"]) == [200, 201]
    assert mend(only(folder), dry_run=False) == Freed()


def test_a_damaged_row_does_not_replace_a_sound_one(folder: Path) -> None:
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, TEXTS[:2], [100, 101])
    spoil(folder, 3, 0)
    assert mend(only(folder), dry_run=False).rows == 2
    assert values(folder)[:2] == [0, 101]


@pytest.mark.parametrize("suffix", [ROWS, INDEX])
def test_torn_tails_and_halves_of_shards_go(folder: Path, suffix: str) -> None:
    path = file(folder, 2, suffix)
    os.truncate(path, path.stat().st_size // 2 - 1)
    file(folder, 0, suffix).unlink()
    expected = size(folder) - 4 * ROW_BYTES
    assert mend(only(folder), dry_run=True).size_bytes == expected
    assert mend(only(folder), dry_run=False).size_bytes == expected
    assert values(folder) == [-1.0] * 4 + [4, 5, 6, 7] + [-1.0] * 4
    assert said(folder) == [] and sorted(p.name for p in folder.glob("0*")) == [
        "0001.bin", "0001.index"
    ]  # fmt: skip


def test_a_shard_of_a_live_writer_is_left(folder: Path) -> None:
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, ["more", "and"], [20, 21])
        spoil(folder, 3, 0)
        spoil(folder, 0, 1)
        assert mend(only(folder), dry_run=False) == Freed(ROW_BYTES, 1, busy=1)
        add(cache, ["later"], [22])
    assert values(folder, ["text 0", "text 1", "more", "and", "later"]) == [0, -1, -1, 21, 22]


def test_a_reader_keeps_its_rows_while_they_move(folder: Path) -> None:
    reader = RowCache(folder.parent.parent, MEANING, WIDTH)
    places = reader.find(digest(TEXTS))
    for number in range(3):
        spoil(folder, number, 0)
    mend(only(folder), dry_run=False)
    sound = [n for n in range(12) if n % 4]
    np.testing.assert_array_equal(reader.read(places[sound])[:, 0], sound)
    again = reader.find(digest(TEXTS))
    assert (again != ABSENT).tolist() == [n % 4 > 0 for n in range(12)]
    assert not set(again[sound]) & set(places)
    np.testing.assert_array_equal(reader.read(again[sound])[:, 0], sound)
    both = reader.number(np.concatenate([places, again[sound]]))
    assert len(set(both)) == len(both) and both.max() < len(reader)


def test_a_reader_tells_a_new_shard_from_a_removed_one_of_its_number(folder: Path) -> None:
    reader = RowCache(folder.parent.parent, MEANING, WIDTH)
    places = reader.find(digest(TEXTS))
    for row in range(4):
        spoil(folder, 2, row)
    before = file(folder, 2).stat().st_ino
    mend(only(folder), dry_run=False)
    assert not file(folder, 2).exists()
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, TEXTS[8:], [90, 91, 92, 93])
    assert file(folder, 2).stat().st_ino != before
    assert reader.read(places)[:8, 0].tolist() == list(range(8))
    new = reader.find(digest(TEXTS[8:]))
    assert reader.read(new)[:, 0].tolist() == [90, 91, 92, 93]
    assert not set(new) & set(places)


def test_a_reader_finds_rows_that_move_while_it_opens_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = rows.numbers, 0

    def listing(path: Path) -> list[int]:
        """The shards as they lay there before a prune."""
        nonlocal calls
        calls += 1
        found = real(path)
        if calls == 1:
            spoil(folder, 1, 0)
            mend(only(folder), dry_run=False)
        return found

    reader = RowCache(folder.parent.parent, MEANING, WIDTH)
    monkeypatch.setattr(rows, "numbers", listing)
    places = reader.find(digest(TEXTS))
    assert (places != ABSENT).tolist() == [n != 4 for n in range(12)]


def test_a_shard_that_is_removed_before_it_is_locked_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = shard.lock, 0

    def late(descriptor: int) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            unlink(folder, 0)
            file(folder, 0).touch()  # by a new writer, which was killed at once
        return real(descriptor)

    monkeypatch.setattr(rows, "SHARD_BYTES", 1 << 20)
    monkeypatch.setattr(shard, "lock", late)
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, ["more"], [20])
    assert values(folder, [*TEXTS[3:5], "more"]) == [-1, 4, 20]


def test_a_meaning_that_is_removed_before_it_is_locked_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = locks.open_shared, 0

    def late(path: Path) -> int:
        nonlocal calls
        calls += 1
        descriptor = real(path)
        if calls == 1:
            remove(only(folder), dry_run=False)
        return descriptor

    monkeypatch.setattr(locks, "open_shared", late)
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, ["more"], [20])
        monkeypatch.undo()
        assert remove(only(folder), dry_run=False).busy == 1
    assert values(folder, ["more"]) == [20]


def test_rows_that_are_cut_off_while_they_are_read_fail_loudly(folder: Path) -> None:
    reader = RowCache(folder.parent.parent, MEANING, WIDTH)
    places = reader.find(digest(TEXTS))
    os.truncate(file(folder, 1), WIDTH * 4)
    with pytest.raises(Exception, match=r"0001\.bin: rows that were there are gone.*Run the same"):
        reader.read(places)


def test_a_full_disk_leaves_the_old_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    spoil(folder, 0, 0)
    before = sorted(folder.iterdir())
    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="no space left"):
        patch.setattr(os, "pwrite", full)
        mend(only(folder), dry_run=False)
    assert sorted(folder.iterdir()) == before
    assert values(folder)[1:] == list(range(1, 12))


def killed(folder: Path, calls: int, work: Callable[..., Freed]) -> bool:
    """Do the work in a process that dies at a system call; return whether it got so far."""
    found = only(folder)
    child = os.fork()
    if child == 0:
        left = calls

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in ("pwrite", "unlink", "fsync", "ftruncate", "open"):
            setattr(os, name, counted(getattr(os, name)))
        work(found, dry_run=False)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


MEND = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from pipeline.encoders.upkeep import mend, stored
    for _ in range(20):
        for found in stored(Path(sys.argv[1])):
            mend(found, dry_run=False)
    """
)


def test_killed_at_every_step_loses_no_sound_row(folder: Path, tmp_path: Path) -> None:
    with RowCache(tmp_path, MEANING, WIDTH) as cache:
        add(cache, [TEXTS[0], "new"], [100, 101])
    for number, row in ((0, 1), (1, 2), (2, 0)):
        spoil(folder, number, row)
    expected = [100, -1, 2, 3, 4, 5, -1, 7, -1, 9, 10, 11]
    again, calls = True, 0
    while again:
        copy = tmp_path / str(calls) / "rows" / folder.name
        shutil.copytree(folder, copy)
        again = killed(copy, calls, mend)
        assert values(copy) == expected, calls
        mend(only(copy), dry_run=False)
        assert values(copy) == expected, calls
        assert said(copy) == [] and size(copy) == 10 * ROW_BYTES
        calls += 1
    assert calls > 50


def test_two_prunes_and_writers_at_once_lose_no_sound_row(folder: Path) -> None:
    """Each round writes every text again, so that all shards have rows to give up."""
    command = [sys.executable, "-c", MEND, str(folder.parent.parent)]
    running = [subprocess.Popen(command) for _ in range(2)]
    while any(process.poll() is None for process in running):
        with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
            for n in range(0, 12, 2):
                add(cache, TEXTS[n : n + 2], [n, n + 1])
        assert values(folder) == list(range(12))
    assert [process.wait() for process in running] == [0, 0]
    mend(only(folder), dry_run=False)
    assert values(folder) == list(range(12))
    assert said(folder) == [] and size(folder) == 12 * ROW_BYTES


# ---------------------------------------------------------------- removing a meaning


def test_removing_frees_everything(folder: Path) -> None:
    found = only(folder)
    expected = Freed(found.size_bytes, 12)
    assert remove(found, dry_run=True) == expected
    assert values(folder) == list(range(12))
    assert remove(found, dry_run=False) == expected
    assert not folder.exists()
    assert remove(found, dry_run=False).size_bytes == 0


def test_what_a_live_process_writes_is_not_removed(folder: Path) -> None:
    with RowCache(folder.parent.parent, MEANING, WIDTH) as cache:
        add(cache, ["more"], [20])
        assert remove(only(folder), dry_run=False) == Freed(busy=4)
    assert values(folder) == list(range(12))
    assert remove(only(folder), dry_run=False).rows == 13


def test_a_reader_keeps_its_rows_when_they_are_removed_and_a_writer_begins_anew(
    folder: Path,
) -> None:
    reader = RowCache(folder.parent.parent, MEANING, WIDTH)
    places = reader.find(digest(TEXTS))
    remove(only(folder), dry_run=False)
    add(reader, ["new"], [50])
    np.testing.assert_array_equal(reader.read(places)[:, 0], np.arange(12))
    assert values(folder) == [-1.0] * 12 and values(folder, ["new"]) == [50]
    assert json.loads((folder / "meaning.json").read_text())["meaning"] == MEANING


def test_a_removal_that_was_killed_is_finished_by_the_next(folder: Path) -> None:
    calls = 0
    while list(stored(folder.parent.parent)) and killed(folder, calls, remove):
        assert all(value in (-1, n) for n, value in enumerate(values(folder)))
        calls += 1
    assert calls > 5
    assert {path.name for path in folder.glob("*")} <= {"used"}
