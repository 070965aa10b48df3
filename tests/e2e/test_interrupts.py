"""Ctrl-C, a kill and a full disk, in every stage.

A file under a final name is whole or absent, and the same command then gives the same bytes.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import Clone

pytestmark = pytest.mark.slow

STAGES = {
    "download": ("raw",),
    "preprocess": ("data",),
    "encode": ("semantic",),
    "spectrum": ("spectrum",),
    "train": ("models", "curves", "ranks"),
    "evaluate": ("metrics", "comparisons"),
    "collapse": ("collapse", "sizes"),
    "report": ("report",),
}
"""Stage -> the folders it writes."""

WORDS = {
    "download": ["demo"],
    "preprocess": ["demo"],
    "encode": ["demo", "hash"],
    "spectrum": ["demo", "hash"],
    "train": ["demo", "hash", "sasrec", "spectran"],
    "evaluate": ["demo"],
    "collapse": ["demo"],
    "report": [],
}

RESUMED = ("download", "encode", "train")
"""Stages that go on where they stopped, unless told to begin anew."""


@pytest.fixture(scope="module")
def place(finished: tuple[Clone, str], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the finished clone whose cache is empty, so that every stage really works."""
    folder = tmp_path_factory.mktemp("interrupts") / "copy"
    shutil.copytree(finished[0].path, folder, symlinks=True)
    shutil.rmtree(folder / ".cache" / "rows", ignore_errors=True)
    shutil.rmtree(folder / ".cache" / "train", ignore_errors=True)
    copy = Clone.at(folder)
    copy.env |= {"SPECTRAN_SAVE_EVERY_S": "0"}
    return copy


def made(folder: Path) -> dict[str, bytes]:
    """Return what lies under final names."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".tmp" not in path.parts
    }


def expected(place: Clone, stage: str) -> dict[str, bytes]:
    """Return what the stage wrote in the run that nobody disturbed."""
    cell = "/".join(WORDS["train"]) if stage == "train" else ""
    every = made(place.path / "artifacts")
    return {
        name: content
        for name, content in every.items()
        if name.split("/")[0] in STAGES[stage] and cell in name and "/cards/" not in name
    }


def start(place: Clone, stage: str, out: Path) -> subprocess.Popen[str]:
    """Start a stage and return once it has said its plan and begins to work."""
    anew = ["--force"] if stage in RESUMED else []
    process = subprocess.Popen(
        ["spectran", stage, *WORDS[stage], *anew, "--out", str(out)],
        cwd=place.path, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    while " of disk (" not in said:
        line = process.stdout.readline()
        assert line, f"no plan was said: {said}"
        said += line
    return process


def end(process: subprocess.Popen[str], how: signal.Signals) -> int:
    """Signal a stage and return its exit code."""
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    return process.returncode


def interrupted(place: Clone, stage: str, folder: Path) -> Path:
    """Stop a stage as by Ctrl-C and return where it wrote.

    A quick one may be done before a busy machine lets us speak; it is then tried again elsewhere.
    """
    for attempt in range(20):
        out = folder / str(attempt)
        process = start(place, stage, out)
        process.send_signal(signal.SIGSTOP)  # so that it cannot end before it is told to
        process.send_signal(signal.SIGINT)
        code = end(process, signal.SIGCONT)
        if code != 0:
            assert code == 130
            return out
    pytest.fail(f"{stage} was never stopped before its end")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_stage_leaves_nothing_half_made(place: Clone, stage: str, tmp_path: Path) -> None:
    wanted = expected(place, stage)
    assert wanted
    out = interrupted(place, stage, tmp_path)

    process = start(place, stage, out)
    while not any(out.rglob("*")) and process.poll() is None:
        time.sleep(0.002)
    assert end(process, signal.SIGKILL) in (0, -signal.SIGKILL)

    for name, content in made(out).items():
        assert content == wanted[name], f"{name} is not whole"
    place.run("spectran", stage, *WORDS[stage], "--out", str(out))
    assert made(out) == wanted
    assert not list(out.glob(".tmp/*")), "remains of the killed run are removed"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Use up what is left of the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as handle, suppress(OSError):
        while True:
            handle.write(b"x" * 4096)
    return ballast


@pytest.mark.parametrize("stage", ["preprocess", "encode", "spectrum", "train", "report"])
def test_a_disk_that_fills_up_is_said_and_leaves_nothing_half_made(
    place: Clone, stage: str, disk: Path
) -> None:
    wanted = expected(place, stage)
    process = start(place, stage, disk / "out")
    process.send_signal(signal.SIGSTOP)
    ballast = fill(disk)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "no space left" in said and "Traceback" not in said
    for name, content in made(disk / "out").items():
        assert content == wanted[name], f"{name} is not whole"
    ballast.unlink()
    place.run("spectran", stage, *WORDS[stage], "--out", str(disk / "out"))
    assert made(disk / "out") == wanted


def test_too_little_disk_is_refused_before_the_work(place: Clone, disk: Path) -> None:
    fill(disk)
    done = place.run("spectran", "report", "--out", str(disk / "out"), check=False)
    assert done.returncode == 2 and "Free some space" in done.stderr
    assert not (disk / "out").exists()
