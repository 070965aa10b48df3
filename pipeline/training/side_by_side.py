"""Seeds side by side: each trains in a process of its own, and the one that asked hears of it.

Children are spawned, not forked, since a fork of a process with threads may hang. They end with
their parent, whatever ends it, and Ctrl-C reaches them through it alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import ResourceError
from pipeline.training.progress import Log

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    Messages = SimpleQueue[int | tuple[str, dict[str, Any]]]
    """Histories read since the last message, or an event of the log with its fields."""

T = TypeVar("T")

EVERY_S = 0.2
"""How often progress is told and heard; a message per step would be thousands per second."""

_messages: Messages | None = None
"""In a child: to the parent. A queue can be handed over only while a process starts."""


def side_by_side(
    jobs: Mapping[int, Callable[..., T]],
    processes: int,
    *,
    log: Log,
    advance: Callable[[int], None],
) -> dict[int, T]:
    """Call `job(log=..., advance=...)` of every seed, up to `processes` at once; return results.

    jobs: picklable, as are their results. log, advance: called here with what the jobs tell.
    An error of a job is raised when the other jobs have ended, the first by order of seeds.
    Raises ResourceError when a child is killed; the other children are then stopped.
    """
    context = multiprocessing.get_context("spawn")
    messages: Messages = context.SimpleQueue()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(processes, len(jobs)), context, _begin, (messages,))
    try:
        with _deaf_children():
            futures = {seed: pool.submit(_run, job) for seed, job in jobs.items()}
        pending = set(futures.values())
        while pending:
            pending = wait(pending, EVERY_S).not_done
            while not messages.empty():
                told = messages.get()
                if isinstance(told, int):
                    advance(told)
                else:
                    log(told[0], **told[1])
    except BaseException:
        # Nothing is lost: files under final names are whole, and states are kept while training.
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return _results(futures)


def _results(futures: Mapping[int, Future[T]]) -> dict[int, T]:
    killed = [s for s, f in futures.items() if isinstance(f.exception(), BrokenProcessPool)]
    if killed:
        raise ResourceError(
            f"train: a process was killed while it trained, most likely for memory, so "
            f"{'seed' if len(killed) == 1 else 'seeds'} {', '.join(map(str, killed))} did not "
            "finish. Run the same command with --processes 1: it goes on from what was kept."
        )
    return {seed: future.result() for seed, future in futures.items()}


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started within never hear of Ctrl-C, which a terminal sends to all of them.

    They inherit the mask, so that there is no moment of their start at which they do.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------ in a child


def _begin(messages: Messages) -> None:
    global _messages
    _messages = messages
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(job: Callable[..., T]) -> T:
    assert _messages is not None
    teller = _Teller(_messages)
    result = job(log=teller.log, advance=teller.advance)
    teller.flush()
    return result


class _Teller:
    """Sends what a job tells to the parent; histories are summed up before."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self.histories, self.told = 0, time.monotonic()

    def log(self, event: str, **fields: Any) -> None:
        self.messages.put((event, fields))

    def advance(self, histories: int) -> None:
        self.histories += histories
        if time.monotonic() - self.told > EVERY_S:
            self.flush()

    def flush(self) -> None:
        self.messages.put(self.histories)
        self.histories, self.told = 0, time.monotonic()
