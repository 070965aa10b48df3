"""One training loop for all methods: phases, early stopping, resume.

All randomness of an epoch follows from (seed, purpose, phase, epoch), so a run that resumes at an
epoch boundary continues exactly as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.data.batches import HeldOut, Windows, epoch, held_out, windows
from pipeline.data.negatives import Pool
from pipeline.errors import DataError, DivergedError
from pipeline.evaluation.ranks import ndcg, rank
from pipeline.heap import keep_freed_memory
from pipeline.model import Adapter, Method, Phase, SeqModel
from pipeline.randomness import derive, generator
from pipeline.training.parameters import belongs, modules_of, trains
from pipeline.values import Sequences

Log = Callable[..., None]
Curve = tuple[int, str, str, float]
"""Epoch, phase, name, value."""

ONE_ITEM = "train: the catalogue has one item; there is nothing to rank. Use data with more items."

LOSS = "train/loss"
"""The curve that every epoch of every phase adds to."""


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
    """`now/<name>`, `best/<name>`, `m/<name>`, `v/<name>`: parameters, best ones, Adam moments."""


class Checkpoint:
    """Where progress is kept; this one keeps nothing."""

    def load(self) -> Progress | None:
        """Return the last saved progress, if any."""
        return None

    def save(self, progress: Progress) -> None:
        """Keep progress; called after every epoch."""


@dataclass(frozen=True)
class Fitted:
    """A trained model in its best state."""

    model: SeqModel
    curves: list[Curve]
    best_value: float
    """What early stopping watched, in the best epoch of the last phase."""
    best_epoch: int
    seconds: float
    """Spent in all epochs of all phases, validation included."""


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
    """Train all phases and return the model in the best state of the last one.

    Raises DataError when there is nothing to train on or validate with, and DivergedError when
    the loss or a score is not finite.
    """
    checkpoint = checkpoint or Checkpoint()
    times = method.model.reads_times
    cut = windows(data, method.model.length, config.positions, times=times)
    valid = held_out(data, "valid", times=times)
    _check(cut, valid, data)
    modules = modules_of(method).to(device)
    progress = _kept(checkpoint, method, seed, log)
    for place in range(progress.phase, len(method.phases)):
        if progress.phase != place:
            progress = Progress(phase=place, curves=progress.curves, seconds=progress.seconds)
        trainer = _Trainer(
            modules, method, method.phases[place], data, cut, valid, config, seed, device
        )
        trainer.run(progress, checkpoint, log, advance)
    return Fitted(
        method.model, progress.curves, progress.best_value, progress.best_epoch, progress.seconds
    )


def _kept(checkpoint: Checkpoint, method: Method, seed: int, log: Log) -> Progress:
    """Return the kept progress; a new one when there is none, or another model's, which is told."""
    progress = checkpoint.load() or Progress()
    if progress.tensors:
        mine = progress.phase < len(method.phases)
        if mine and belongs(progress.tensors, method, method.phases[progress.phase]):
            return progress
        log("discard", seed=seed, reason="the kept state is of another model; training starts anew")
    return Progress()


def _check(cut: Windows, valid: HeldOut, data: Sequences) -> None:
    if len(cut) == 0:
        raise DataError(
            "train: no user has two training events. Use a smaller core, or another split."
        )
    if len(valid) == 0:
        raise DataError(
            "train: the validation split is empty, early stopping has nothing to watch. "
            "Use more users, or another split."
        )
    if data.num_items < 2:
        raise DataError(ONE_ITEM)


@dataclass
class _Trainer:
    modules: nn.ModuleDict
    method: Method
    phase: Phase
    data: Sequences
    cut: Windows
    valid: HeldOut
    config: TrainConfig
    seed: int
    device: str

    def __post_init__(self) -> None:
        self.pool = Pool.of(self.config.loss, self.data.train_counts())
        free = {}
        for name, parameter in self.modules.named_parameters():
            parameter.requires_grad_(trains(self.phase, name))
            if parameter.requires_grad:
                free[name] = parameter
        undecayed = {
            f"{path}.{own}"
            for path, module in self.modules.named_modules()
            if isinstance(module, Adapter)
            for own in module.undecayed()
        }
        self.free = free
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in free.items() if n not in undecayed]},
            {"params": [p for n, p in free.items() if n in undecayed], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.Adam(
            groups,
            lr=self.config.learning_rate,
            betas=self.config.adam_betas,
            eps=self.config.adam_eps,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def run(
        self, progress: Progress, checkpoint: Checkpoint, log: Log, advance: Callable[[int], None]
    ) -> None:
        """Train until patience or epochs run out; leave the model in its best state."""
        if progress.tensors:
            self._restore(progress)
            log("resume", seed=self.seed, phase=self.phase.name, epoch=progress.epoch)
            advance(progress.epoch * len(self.cut))
        config = self.config
        while (
            progress.epoch < config.max_epochs
            and progress.epoch - progress.best_epoch < config.patience
        ):
            started = time.monotonic()
            progress.epoch += 1
            loss = self._epoch(progress.epoch, advance)
            value = self._validate()
            numbers = {LOSS: loss, f"valid/ndcg@{config.monitor_k}": value}
            for module in self.method.model.modules():
                if isinstance(module, Adapter):
                    numbers |= module.measures()
            progress.curves += [(progress.epoch, self.phase.name, k, v) for k, v in numbers.items()]
            if value > progress.best_value:
                progress.best_value, progress.best_epoch = value, progress.epoch
                progress.tensors |= self._snapshot("best")
            progress.tensors |= self._snapshot("now") | self._moments()
            seconds = time.monotonic() - started
            progress.seconds += seconds
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
        config, model = self.config, self.method.model
        name = (self.phase.name, number)
        order = generator(self.seed, "order", *name)
        draw = generator(self.seed, "negatives", *name)
        examples = model.examples(generator(self.seed, "cloze", *name))
        adapters = [m for m in model.modules() if isinstance(m, Adapter)]
        total = torch.zeros((), device=self.device)
        steps = 0
        devices = [torch.device(self.device)] if self.device != "cpu" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(self.seed, "dropout", *name))
            for batch in epoch(
                self.cut,
                examples,
                self.pool,
                config.loss.negatives,
                config.batch_size,
                order,
                draw,
            ):
                placed = batch.to(self.device)
                self.optimizer.zero_grad(set_to_none=True)
                tables = model.tables()
                states = model.states(placed.history, tables)
                loss = torch.zeros((), device=self.device)
                for weight, objective in self.phase.objectives.values():
                    loss = loss + weight * objective(model, placed, tables, states)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                for adapter in adapters:
                    adapter.after_step()
                total += loss.detach()
                steps += 1
                advance(len(batch.targets))
        mean = float(total) / steps
        if not np.isfinite(mean):
            raise DivergedError(
                f"train: the loss is {mean} in phase {self.phase.name}, epoch {number}, learning "
                f"rate {config.learning_rate}. Lower train.learning_rate, or look at the inputs."
            )
        return mean

    def _validate(self) -> float:
        self.modules.eval()
        with torch.inference_mode():
            counts = rank(
                self.method.model.ranker(self.config.ranking),
                self.valid,
                self.method.model.length,
                self.data.num_items,
                self.device,
            )
        return ndcg(counts["greater"], counts["equal"], self.config.monitor_k)

    def _snapshot(self, prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}/{n}": p.detach().cpu().clone() for n, p in self.modules.named_parameters()
        }

    def _moments(self) -> dict[str, Tensor]:
        found = {}
        for name, parameter in self.free.items():
            state = self.optimizer.state[parameter]
            found[f"m/{name}"] = state["exp_avg"].cpu().clone()
            found[f"v/{name}"] = state["exp_avg_sq"].cpu().clone()
            found[f"t/{name}"] = state["step"].cpu().clone()
        return found

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
