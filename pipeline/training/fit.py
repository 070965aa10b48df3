"""One training loop for all methods: phases, early stopping, resume.

All randomness of an epoch follows from (seed, purpose, phase, epoch), so a run that resumes at an
epoch boundary continues exactly as if it had never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.ranks import Question, count, ndcg, questions
from pipeline.model import Adapter, Method, Phase, SeqModel
from pipeline.randomness import derive, generator
from pipeline.sampling.batches import Batch, HeldOut, Windows, epoch, held_out, windows
from pipeline.sampling.negatives import Pool
from pipeline.training.heap import keep_freed_memory
from pipeline.training.parameters import belongs, modules_of
from pipeline.training.selection import select, selects
from pipeline.training.steps import adam, adapters, loss_of, measured, refuse_infinite, thaw
from pipeline.values import Sequences

Log = Callable[..., None]
Curve = tuple[int, str, str, float]
"""Epoch, phase, name, value."""


def one_item(dataset: str) -> str:
    """Say that a catalogue is too small to rank."""
    return (
        f"train: {dataset}: the catalogue has one item, and ranking needs at least two. Use data "
        f"with more items, or lower datasets.{dataset}.preprocess.core."
    )


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


class Checkpoint:
    """Where progress is kept; this one keeps nothing."""

    def load(self) -> Progress | None:
        """Return the last saved progress, if any."""
        return None

    def save(self, progress: Progress) -> None:
        """Keep progress; called after every epoch."""


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


def kept(checkpoint: Checkpoint, method: Method, seed: int, log: Log) -> Progress:
    """Return the kept progress; a new one when there is none, or another model's, which is told."""
    progress = checkpoint.load() or Progress()
    if progress.tensors:
        mine = progress.phase < len(method.phases)
        if mine and belongs(progress.tensors, method, method.phases[progress.phase]):
            return progress
        log("discard", seed=seed, reason="the kept state is of another model; training starts anew")
    return Progress()


@dataclass(frozen=True)
class Setting:
    """What all seeds of a cell share while they train."""

    config: TrainConfig
    device: str
    cut: Windows
    pool: Pool
    questions: list[Question]
    """Of the validation users, on the device; their seen items are left out."""
    num_items: int

    @classmethod
    def of(cls, method: Method, data: Sequences, config: TrainConfig, device: str) -> Setting:
        """Cut windows and ask for held-out items as the method reads them.

        Raises DataError when there is nothing to train on or validate with, and ConfigError when
        all item vectors start at zero and are compared by their cosine.
        """
        length, times = method.model.length, method.model.reads_times
        cut = windows(data, length, config.positions, times=times)
        valid = held_out(data, "valid", times=times)
        _check(cut, valid, data)
        pool = Pool.of(config.loss, data.train_counts())
        if config.loss.similarity == "cosine":
            _refuse_zero_start(method, data.num_items)
        asked = list(questions(valid, length, data.num_items, device, seen=False))
        return cls(config, device, cut, pool, asked, data.num_items)

    def batches(self, model: SeqModel, seed: int, phase: str, number: int) -> Iterator[Batch]:
        """Yield the steps of one epoch of one seed, on the CPU."""
        name = (phase, number)
        examples = model.examples(generator(seed, "cloze", *name))
        config = self.config
        yield from epoch(
            self.cut,
            examples,
            self.pool,
            config.loss.negatives,
            config.batch_size,
            generator(seed, "order", *name),
            generator(seed, "negatives", *name),
        )

    def validate(self, model: SeqModel) -> float:
        """Return what early stopping watches. Raises DivergedError when a score is NaN."""
        with torch.inference_mode():
            counts = count(model.ranker(self.config.ranking), self.questions)
        return ndcg(counts["greater"], counts["equal"], self.config.monitor_k)


def _refuse_zero_start(method: Method, items: int) -> None:
    """Raise ConfigError when a whole item table starts at zero.

    A cosine has no gradient there: it is taken as that of rows SMALLEST_NORM long, 1e12 times too
    large, and Adam then hardly moves them for thousands of steps.
    """

    def has_empty_ids(adapter: Adapter) -> bool:
        return any(len(p) > items and not p.any() for p in adapter.parameters() if p.dim() == 2)

    empty = [adapter for adapter in adapters(method.model) if has_empty_ids(adapter)]
    modules = modules_of(method).eval()  # in training a table may draw numbers
    with torch.no_grad():
        if any(not adapter.table()[1:].any() for adapter in empty):
            raise ConfigError(
                "params.yaml: the item vectors all start at zero, from where a cosine cannot be "
                "trained. Set train.item_std, or the method's own id_std, above 0, or "
                "train.loss.similarity: dot."
            )
    modules.train()


def _check(cut: Windows, valid: HeldOut, data: Sequences) -> None:
    own = f"datasets.{data.dataset}.preprocess"
    if len(cut) == 0:
        raise DataError(
            f"train: {data.dataset}: no user has two training events, and at least one must. "
            f"Lower {own}.core, or use another {own}.split."
        )
    if len(valid) == 0:
        raise DataError(
            f"train: {data.dataset}: the validation split is empty, but early stopping watches "
            f"at least one user of it. Use data with more users, or another {own}.split."
        )
    if data.num_items < 2:
        raise DataError(one_item(data.dataset))


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
                items = None if items is None else items.to(self.device)
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
