"""Jobs in processes of their own: what reaches the one that asked, and what an end costs."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.errors import DivergedError, ResourceError
from pipeline.training.side_by_side import side_by_side

# ------------------------------------------------------------ jobs, called in a child


def counts(histories: int, *, log: Any, advance: Any) -> tuple[int, int]:
    log("begun", histories=histories, text="one line\nof many")
    for _ in range(histories):
        advance(1)
    return histories, os.getpid()


def diverges(*, log: Any, advance: Any) -> None:
    raise DivergedError("the loss is not finite. Lower train.learning_rate.")


def later(path: Path, *, log: Any, advance: Any) -> None:
    time.sleep(1)
    path.write_text("done")


def ends(*, log: Any, advance: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits(*, log: Any, advance: Any) -> None:
    log("waits")
    time.sleep(600)


# ------------------------------------------------------------ what reaches the parent


class Heard:
    """Keeps what children tell."""

    def __init__(self) -> None:
        self.histories = 0
        self.events: list[tuple[str, dict[str, Any]]] = []

    def log(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def advance(self, histories: int) -> None:
        self.histories += histories


def children() -> list[psutil.Process]:
    """Return the processes of jobs that run now."""
    return [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]


def test_results_events_and_every_history_arrive() -> None:
    heard = Heard()
    jobs = {seed: partial(counts, 100 + seed) for seed in (5, 3, 4)}
    found = side_by_side(jobs, 2, log=heard.log, advance=heard.advance)
    assert {seed: n for seed, (n, _) in found.items()} == {5: 105, 3: 103, 4: 104}
    assert heard.histories == 312
    assert sorted(fields["histories"] for _, fields in heard.events) == [103, 104, 105]
    assert {event for event, _ in heard.events} == {"begun"}
    processes = {pid for _, pid in found.values()}
    assert os.getpid() not in processes and len(processes) <= 2
    assert not children()


def test_an_error_is_raised_as_it_is_when_the_others_are_done(tmp_path: Path) -> None:
    heard, done = Heard(), tmp_path / "done"
    jobs = {0: diverges, 1: partial(later, done)}
    with pytest.raises(DivergedError, match=r"^the loss is not finite\. Lower train"):
        side_by_side(jobs, 2, log=heard.log, advance=heard.advance)
    assert done.exists() and not children()


def test_a_killed_child_is_named_with_what_to_do() -> None:
    heard = Heard()
    with pytest.raises(ResourceError, match=r"seed 7 did not finish.*with --processes 1"):
        side_by_side({7: ends}, 1, log=heard.log, advance=heard.advance)
    assert not children()


def test_an_interrupt_stops_every_child() -> None:
    heard = Heard()

    def interrupted(event: str, **fields: Any) -> None:
        heard.log(event, **fields)
        if len(heard.events) == 2:
            assert len(children()) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side({0: waits, 1: waits}, 2, log=interrupted, advance=heard.advance)
    assert not children()
