"""One training loop for all methods: phases, early stopping, resume.

All randomness of an epoch follows from (seed, purpose, phase, epoch), so a run that resumes at an
epoch boundary continues exactly as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.model import Method, Phase, SeqModel
from pipeline.randomness import derive
from pipeline.sampling.batches import moved
from pipeline.training.heap import keep_freed_memory
from pipeline.training.parameters import modules_of
from pipeline.training.progress import Checkpoint, Curve, Log, Progress, kept
from pipeline.training.selection import select, selects
from pipeline.training.setting import Setting
from pipeline.training.steps import adam, adapters, loss_of, measured, refuse_infinite, thaw
from pipeline.values import Sequences


@dataclass(frozen=True)
class Fitted:
    """A trained method in its best state."""

    method: Method
    curves: list[Curve]
    best_value: float
    """What early stopping watched, in the best epoch of the last phase."""
    best_epoch: int
    seconds: float
    """Spent in all epochs of all phases, validation included."""

    @property
    def model(self) -> SeqModel:
        """What ranks."""
        return self.method.model


def deterministic(device: str, threads: int) -> None:
    """Make sums repeatable: fixed thread count, deterministic kernels."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    # The same switch as use_deterministic_algorithms, without importing the compiler (1.2 s).
    torch.set_deterministic_debug_mode("error" if device == "cpu" else "warn")
    # Filling fresh memory guards against reading it; nothing here does, and it costs a fifth.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def initialised(build: Callable[[], Method], seed: int) -> Method:
    """Build a method with its initial values drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        return build()


def fit(
    method: Method,
    data: Sequences,
    config: TrainConfig,
    seed: int,
    *,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    log: Log = lambda *a, **k: None,
    advance: Callable[[int], None] = lambda n: None,
) -> Fitted:
    """Train all phases and return the method in the best state of the last one.

    Raises DataError when there is nothing to train on or validate with, and DivergedError when
    the loss or a score is not finite.
    """
    checkpoint = checkpoint or Checkpoint()
    setting = Setting.of(method, data, config, device)
    modules = modules_of(method).to(device)
    progress = kept(checkpoint, method, seed, log)
    for place in range(progress.phase, len(method.phases)):
        if progress.phase != place:
            progress = progress.following(place)
        _Trainer(modules, method, method.phases[place], setting, seed).run(
            progress, checkpoint, log, advance
        )
    return Fitted(
        method, progress.curves, progress.best_value, progress.best_epoch, progress.seconds
    )


@dataclass
class _Trainer:
    modules: nn.ModuleDict
    method: Method
    phase: Phase
    setting: Setting
    seed: int

    def __post_init__(self) -> None:
        self.config, self.device = self.setting.config, self.setting.device
        self.free = thaw(self.modules, self.phase)
        self.optimizer = adam(self.free, self.modules, self.config)
        self.selects = selects(self.method.model, self.phase, self.config, self.setting.num_items)

    def run(
        self, progress: Progress, checkpoint: Checkpoint, log: Log, advance: Callable[[int], None]
    ) -> None:
        """Train until patience or epochs run out; leave the model in its best state."""
        if progress.tensors:
            self._restore(progress)
            log("resume", seed=self.seed, phase=self.phase.name, epoch=progress.epoch)
            advance(progress.epoch * len(self.setting.cut))
        while not progress.over(self.config):
            started = time.monotonic()
            progress.epoch += 1
            loss = self._epoch(progress.epoch, advance)
            self.modules.eval()
            value = self.setting.validate(self.method.model)
            numbers = measured(self.method.model, loss, value, self.config)
            if progress.record(self.phase.name, numbers, value):
                progress.tensors |= self._best()
            due = checkpoint.due()
            if due:
                progress.tensors |= self._now()
            seconds = time.monotonic() - started
            progress.seconds += seconds
            if due:
                checkpoint.save(progress)
            log(
                "epoch",
                seed=self.seed,
                phase=self.phase.name,
                epoch=progress.epoch,
                **numbers,
                best=progress.best_epoch,
                seconds=round(seconds, 3),
            )
        self._load("best", progress)

    def _epoch(self, number: int, advance: Callable[[int], None]) -> float:
        self.modules.train()
        model = self.method.model
        tables = adapters(model)
        total = torch.zeros((), device=self.device)
        steps = 0
        devices = [torch.device(self.device)] if self.device != "cpu" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(self.seed, "dropout", self.phase.name, number))
            for batch in self.setting.batches(model, self.seed, self.phase.name, number):
                self.optimizer.zero_grad(set_to_none=True)
                items, batch = select(batch) if self.selects else (None, batch)
                items = None if items is None else moved(items, self.device)
                loss = loss_of(model, self.phase, batch.to(self.device), items)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                for table in tables:
                    table.after_step()
                total += loss.detach()
                steps += 1
                advance(len(batch.targets))
        mean = float(total) / steps
        refuse_infinite(mean, self.phase, number, self.config)
        return mean

    def _best(self) -> dict[str, Tensor]:
        """Return copies of the parameters."""
        return {f"best/{n}": p.detach().clone() for n, p in self.modules.named_parameters()}

    def _now(self) -> dict[str, Tensor]:
        """Return copies of parameters and moments, on the CPU."""
        found = {f"now/{n}": p.detach() for n, p in self.modules.named_parameters()}
        for name, parameter in self.free.items():
            state = self.optimizer.state[parameter]
            found[f"m/{name}"] = state["exp_avg"]
            found[f"v/{name}"] = state["exp_avg_sq"]
            found[f"t/{name}"] = state["step"]
        return {name: tensor.to("cpu", copy=True) for name, tensor in found.items()}

    def _restore(self, progress: Progress) -> None:
        self._load("now", progress)
        for name, parameter in self.free.items():
            self.optimizer.state[parameter] = {
                "step": progress.tensors[f"t/{name}"].to(parameter.device),
                "exp_avg": progress.tensors[f"m/{name}"].to(parameter.device),
                "exp_avg_sq": progress.tensors[f"v/{name}"].to(parameter.device),
            }

    def _load(self, prefix: str, progress: Progress) -> None:
        with torch.no_grad():
            for name, parameter in self.modules.named_parameters():
                parameter.copy_(progress.tensors[f"{prefix}/{name}"])
