"""Where unfinished files lie, so that the last step is a rename on one disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from pipeline import files
from pipeline.files import TEMPORARY, atomic, remove_orphans, scratches
from stages.run import Run

MEMORY = Path("/dev/shm")


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders that count as roots of disks of their own, as renames see them too."""
    found = {tmp_path}

    def disk(path: Path) -> Path:
        return next(p for p in (path, *path.parents) if p in found)

    def replace(old: Path, new: Path) -> Path:
        if disk(old) != disk(new):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        os.rename(old, new)  # noqa: PTH104  # the method of Path is what this stands for
        return new

    monkeypatch.setattr(files, "_disk", disk)
    monkeypatch.setattr(Path, "replace", replace)
    return found


@pytest.mark.parametrize(
    ("disk", "path", "scratch"),
    [
        (".", "ranks/demo/id/0.parquet", ""),
        ("ranks", "ranks/demo/id/0.parquet", "ranks"),
        ("ranks/demo", "ranks/demo/id/0.parquet", "ranks/demo"),
        ("metrics", "metrics/demo.parquet", "metrics"),
        ("metrics", "ranks/demo/id/0.parquet", ""),
    ],
)
def test_an_unfinished_file_lies_on_the_disk_of_its_final_place(
    tmp_path: Path, disks: set[Path], disk: str, path: str, scratch: str
) -> None:
    root = tmp_path / "artifacts"
    disks.add(root / disk if disk != "." else tmp_path)
    with atomic(root / path, root / TEMPORARY) as temporary:
        assert temporary.parent == root / scratch / TEMPORARY
        temporary.write_bytes(b"x")
    assert (root / path).read_bytes() == b"x" and not temporary.exists()


def test_a_file_outside_the_output_root_needs_no_scratch_on_its_disk(
    tmp_path: Path, disks: set[Path]
) -> None:
    disks.add(tmp_path / "artifacts")
    with atomic(tmp_path / "params.yaml", tmp_path / "artifacts" / TEMPORARY) as temporary:
        assert temporary.parent == tmp_path / TEMPORARY
        temporary.write_bytes(b"x")
    assert (tmp_path / "params.yaml").read_bytes() == b"x"


def test_orphans_on_every_disk_of_a_root_are_removed(tmp_path: Path) -> None:
    folders = [tmp_path / inside / TEMPORARY for inside in ("", "ranks", "models/demo")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "999999999-dead.parquet").write_bytes(b"x")
        (folder / f"{os.getpid()}-alive.parquet").write_bytes(b"x")
    assert sorted(scratches(tmp_path)) == sorted(folders)
    assert sum(map(remove_orphans, scratches(tmp_path))) == 3
    assert all((folder / f"{os.getpid()}-alive.parquet").exists() for folder in folders)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than tmp_path."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second disk")
    folder = Path(mkdtemp(dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


def test_a_link_to_another_disk_is_written_through(tmp_path: Path, elsewhere: Path) -> None:
    root = tmp_path / "artifacts"
    root.mkdir()
    (root / "models").symlink_to(elsewhere)
    files.write_atomic(root / "models/demo/id/0.safetensors", b"x", root / TEMPORARY)
    assert (elsewhere / "demo/id/0.safetensors").read_bytes() == b"x"
    assert [p for p in elsewhere.rglob("*") if p.is_file()] == [elsewhere / "demo/id/0.safetensors"]


def test_room_is_looked_for_where_the_largest_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, asked = shutil.disk_usage, []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage(path))
    (tmp_path / "artifacts/models").mkdir(parents=True)
    paths = [tmp_path / "artifacts" / name for name in ("models/demo/0.safetensors", "ranks/0")]
    run = Run(name="train", params_path=tmp_path / "params.yaml", dry_run=True)
    run.plan(reads=[], writes=paths, memory_bytes=0, disk_bytes=0)
    assert asked == [tmp_path / "artifacts/models"]
