"""Times of training, read off the callbacks of `fit`, one epoch at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.training.progress import Checkpoint, Progress


class Clock:
    """Times the training steps of every epoch; `advance` and `log` are callbacks of `fit`."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        """Seconds from an epoch's beginning to its last step."""
        self.cpu: list[float] = []
        """CPU seconds of the same stretch: what other programs disturb least."""
        self.whole: list[float] = []
        """Seconds of whole epochs: steps, validation, copies of the state."""
        self.begin()

    def begin(self) -> None:
        """An epoch begins."""
        self.begun = self.last = (time.perf_counter(), time.process_time())

    def advance(self, histories: int) -> None:
        """A step is done."""
        self.last = (time.perf_counter(), time.process_time())

    def log(self, event: str, **numbers: Any) -> None:
        """An epoch is done, or a run resumes; in both cases the next epoch begins."""
        if event == "epoch":
            self.end()
            self.whole.append(numbers["seconds"])
        self.begin()

    def end(self) -> None:
        """Keep what the epoch took."""
        self.steps.append(self.last[0] - self.begun[0])
        self.cpu.append(self.last[1] - self.begun[1])


def one_more_epoch() -> Checkpoint:
    """Return what keeps progress between calls of `fit`, so that each trains one more epoch."""
    from pipeline.training.progress import Checkpoint

    class Memory(Checkpoint):
        progress: Progress | None = None

        def load(self) -> Progress | None:
            return self.progress

        def due(self) -> bool:
            return True

        def save(self, progress: Progress) -> None:
            self.progress = progress

    return Memory()
