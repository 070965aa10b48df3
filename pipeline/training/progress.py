"""Where training stands, kept at epoch boundaries so that it can go on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.model import Method
from pipeline.training.parameters import belongs

Log = Callable[..., None]
Curve = tuple[int, str, str, float]
"""Epoch, phase, name, value."""


@dataclass
class Progress:
    """Where training stands: everything needed to continue from an epoch boundary."""

    phase: int = 0
    epoch: int = 0
    """Epochs finished in this phase."""
    best_value: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    """Spent in all phases, earlier runs included."""
    curves: list[Curve] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """`now/<name>`, `best/<name>`, `m/<name>`, `v/<name>`, `t/<name>`: parameters, best ones,
    moments and steps of Adam.

    The best are those of the best epoch, wherever the model lies; the others are copied to the CPU
    when they are to be kept, and are those of an earlier epoch in between.
    """

    def over(self, config: TrainConfig) -> bool:
        """Whether patience or epochs of this phase have run out."""
        return self.epoch >= config.max_epochs or self.epoch - self.best_epoch >= config.patience

    def record(self, phase: str, numbers: Mapping[str, float], value: float) -> bool:
        """Keep the numbers of the epoch just done; return whether it is the best so far."""
        self.curves += [(self.epoch, phase, name, v) for name, v in numbers.items()]
        if value <= self.best_value:
            return False
        self.best_value, self.best_epoch = value, self.epoch
        return True

    def following(self, place: int) -> Progress:
        """Return the start of a later phase."""
        return Progress(phase=place, curves=self.curves, seconds=self.seconds)


class OtherModelError(Exception):
    """What is kept was kept for another model."""


class Checkpoint:
    """Where progress is kept; this one keeps nothing."""

    def load(self) -> Progress | None:
        """Return the last saved progress, if any. Raises OtherModelError for another model's."""
        return None

    def due(self) -> bool:
        """Return whether the epoch just done is to be saved."""
        return False

    def save(self, progress: Progress) -> None:
        """Keep progress, all of its tensors those of the epoch just done."""


def kept(checkpoint: Checkpoint, method: Method, seed: int, log: Log) -> Progress:
    """Return the kept progress; a new one when there is none, or another model's, which is told."""
    try:
        progress = checkpoint.load()
        if progress is None or not progress.tensors:
            return Progress()
        mine = progress.phase < len(method.phases)
        if mine and belongs(progress.tensors, method, method.phases[progress.phase]):
            return progress
    except OtherModelError:
        pass
    log("discard", seed=seed, reason="the kept state is of another model; training starts anew")
    return Progress()
