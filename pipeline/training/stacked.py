"""Several seeds of one method in one batched pass: for devices that wait for launches.

    parameters    [S, ...], a row per seed; one Adam over them
    step          gradients of the sum over seeds of loss(parameters[s], batch[s], numbers[s])

A seed's gradient does not depend on the others, so every seed gets what it gets alone, but for the
rounding of sums: it keeps its own initial values, order, negatives and masks, drawn from the
generators of its separate run; its own best epoch; and its own state to resume from, in the form of
a separate run.

How a step does so is told in `recorded`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.errors import DivergedError
from pipeline.model import Method, Phase
from pipeline.randomness import derive
from pipeline.sampling.batches import moved
from pipeline.training.fit import Fitted
from pipeline.training.parameters import modules_of
from pipeline.training.progress import Checkpoint, Log, Progress, kept
from pipeline.training.recorded import Recorded, joined
from pipeline.training.setting import Setting
from pipeline.training.steps import (
    adam,
    adapters,
    measured,
    refuse_infinite,
    thaw,
)
from pipeline.values import Sequences


def stackable(method: Method) -> bool:
    """Return whether several seeds of a method can train together.

    They can unless a part says `stackable = False`: its shapes depend on what a batch holds, or it
    draws random numbers other than by `pipeline.layers.draws`.
    """
    return all(getattr(module, "stackable", True) for module in modules_of(method).modules())


@dataclass(eq=False)
class _Run:
    """One seed."""

    seed: int
    method: Method
    checkpoint: Checkpoint
    modules: nn.ModuleDict
    progress: Progress

    @property
    def phase(self) -> Phase:
        return self.method.phases[self.progress.phase]

    @property
    def place(self) -> tuple[int, int]:
        """Phase and epochs done in it: only seeds at the same place take steps together."""
        return self.progress.phase, self.progress.epoch

    def go_on(self, config: TrainConfig) -> bool:
        """Enter the next phase when one is over; return False after the last."""
        while self.progress.over(config):
            self.load("best")
            following = self.progress.phase + 1
            if following == len(self.method.phases):
                return False
            self.progress = self.progress.following(following)
        return True

    def load(self, prefix: str) -> None:
        """Take own parameters from the progress; they leave the stack by that."""
        for name, parameter in self.modules.named_parameters():
            stored = self.progress.tensors[f"{prefix}/{name}"]
            parameter.data = stored.to(parameter.device, copy=True)

    def fitted(self) -> Fitted:
        progress = self.progress
        numbers = (progress.curves, progress.best_value, progress.best_epoch, progress.seconds)
        return Fitted(self.method, *numbers)


def fit_together(
    methods: Mapping[int, Method],
    data: Sequences,
    config: TrainConfig,
    *,
    device: str = "cpu",
    checkpoints: Mapping[int, Checkpoint] | None = None,
    log: Log = lambda *a, **k: None,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[tuple[int, Fitted | DivergedError]]:
    """Train the seeds of one method together; yield each when it has stopped, or diverged.

    methods: one per seed, with its initial values; all stackable. A seed that diverges leaves the
    others alone. Seeds whose checkpoints stand at different epochs are first brought level.
    Raises DataError when there is nothing to train on or validate with.
    """
    setting = Setting.of(next(iter(methods.values())), data, config, device)
    runs = []
    for seed, modules in _placed(methods, device).items():
        method = methods[seed]
        checkpoint = (checkpoints or {}).get(seed) or Checkpoint()
        run = _Run(seed, method, checkpoint, modules, kept(checkpoint, method, seed, log))
        runs.append(run)
        if run.progress.tensors:
            log("resume", seed=seed, phase=run.phase.name, epoch=run.progress.epoch)
            advance(run.progress.epoch * len(setting.cut))
    stack: _Stack | None = None
    while True:
        for run in [run for run in runs if not run.go_on(config)]:
            runs.remove(run)
            yield run.seed, run.fitted()
        if not runs:
            return
        behind = min(run.place for run in runs)
        group = [run for run in runs if run.place == behind]
        if stack is None or not stack.serves(group):
            if stack is not None:
                stack.hand_over(group)
            stack = _Stack(group, setting)
        for run, error in stack.epoch(group, log, advance):
            runs.remove(run)
            yield run.seed, error


def _placed(methods: Mapping[int, Method], device: str) -> dict[int, nn.ModuleDict]:
    """Move all modules to the device, with one copy of the frozen inputs that all seeds read."""
    found = {seed: modules_of(method) for seed, method in methods.items()}
    first, *others = found.values()
    for modules in others:
        for (name, buffer), (_, same) in zip(
            modules.named_buffers(), first.named_buffers(), strict=True
        ):
            assert torch.equal(buffer, same), f"{name} differs between seeds: it is not stackable"
    first.to(device)
    shared = dict(first.named_buffers())
    for modules in others:
        for name, buffer in modules.named_buffers():
            buffer.data = shared[name]
        modules.to(device)
    return found


class _Stack:
    """Parameters and optimiser of seeds that stand at the same place of the same phase.

    A seed that has stopped keeps its row until half of them are idle: recording a step anew costs
    more than an idle row. What becomes of such a row does not matter.
    """

    def __init__(self, runs: Sequence[_Run], setting: Setting) -> None:
        self.runs = list(runs)
        self.setting = setting
        self.phase = runs[0].progress.phase
        for run in runs:
            run.modules.train()
            if run.progress.tensors:
                run.load("now")
            self.free_names = set(thaw(run.modules, run.phase))
        named = [dict(run.modules.named_parameters()) for run in runs]
        self.parameters = {n: torch.stack([own[n].detach() for own in named]) for n in named[0]}
        for row, own in enumerate(named):
            for name, parameter in own.items():
                parameter.data = self.parameters[name][row]
        self.free = {n: p for n, p in self.parameters.items() if n in self.free_names}
        self.fixed = {n: p for n, p in self.parameters.items() if n not in self.free_names}
        self.optimizer = adam(self.free, runs[0].modules, setting.config)
        if runs[0].progress.tensors:
            self._restore_moments()
        self.step = Recorded(runs[0].modules, runs[0].method.model, runs[0].phase)

    def serves(self, group: Sequence[_Run]) -> bool:
        """Whether these seeds can take their next epoch here."""
        known = all(run in self.runs for run in group)
        return known and group[0].progress.phase == self.phase and 2 * len(group) > len(self.runs)

    def epoch(
        self, group: Sequence[_Run], log: Log, advance: Callable[[int], None]
    ) -> list[tuple[_Run, DivergedError]]:
        """Train and validate one epoch; return the seeds that diverged."""
        started = time.monotonic()
        for run in group:
            run.progress.epoch += 1
        diverged = []
        finished: list[tuple[_Run, dict[str, float], bool]] = []
        for run, loss in zip(group, self._train(group, advance), strict=True):
            try:
                finished.append((run, *self._judge(run, loss)))
            except DivergedError as error:
                diverged.append((run, error))
        self._keep_best([run for run, _, best in finished if best])
        due = [run for run, _, _ in finished if run.checkpoint.due()]
        self._keep_now(due)
        seconds = (time.monotonic() - started) / len(group)
        for run, numbers, _ in finished:
            progress = run.progress
            progress.seconds += seconds
            if run in due:
                run.checkpoint.save(progress)
            log(
                "epoch",
                seed=run.seed,
                phase=run.phase.name,
                epoch=progress.epoch,
                **numbers,
                best=progress.best_epoch,
                seconds=round(seconds, 3),
            )
        return diverged

    def _judge(self, run: _Run, loss: float) -> tuple[dict[str, float], bool]:
        """Validate a seed; return its numbers, and whether they are its best."""
        setting, model, phase = self.setting, run.method.model, run.phase
        refuse_infinite(loss, phase, run.progress.epoch, setting.config)
        run.modules.eval()
        value = setting.validate(model)
        numbers = measured(model, loss, value, setting.config)
        return numbers, run.progress.record(phase.name, numbers, value)

    # ------------------------------------------------------------ training

    @torch.no_grad()
    def _train(self, group: Sequence[_Run], advance: Callable[[int], None]) -> list[float]:
        """Return the mean loss of every seed of the group."""
        device, number = torch.device(self.setting.device), group[0].progress.epoch
        name = group[0].phase.name
        streams = [
            torch.Generator(device).manual_seed(derive(run.seed, "dropout", name, number))
            for run in group
        ]
        tables = [table for run in group for table in adapters(run.method.model)]
        rows = self._rows(group)
        total = torch.zeros(len(self.runs), device=device)
        steps = 0
        sources = [self.setting.batches(run.method.model, run.seed, name, number) for run in group]
        for batches in zip(*sources, strict=True):
            inputs, real = joined(batches, self.setting.config.batch_size)
            placed = {name: moved(tensor, device)[rows] for name, tensor in inputs.items()}
            size = len(batches[0].targets)
            numbers = [t[rows] for t in self.step.numbers(size, placed, real, streams)]
            total += self._descend(placed, numbers)
            for table in tables:
                table.after_step()
            steps += 1
            advance(sum(len(batch.targets) for batch in batches))
        return [float(total[self.runs.index(run)]) / steps for run in group]

    def _descend(self, inputs: Mapping[str, Tensor], numbers: list[Tensor]) -> Tensor:
        """Take a step; return the losses [S]. Gradients are gone before the next."""
        gradients, losses = self.step(self.free, self.fixed, dict(inputs), numbers)
        for name, gradient in gradients.items():
            # Fused Adam walks the memory of both side by side, whatever their strides.
            self.free[name].grad = gradient.contiguous()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    def _rows(self, group: Sequence[_Run]) -> Tensor | slice:
        """Return which seed of the group feeds each row; idle rows repeat the first's."""
        if len(group) == len(self.runs):
            return slice(None)
        fed = [group.index(run) if run in group else 0 for run in self.runs]
        return torch.tensor(fed, device=self.setting.device)

    # ------------------------------------------------------------ state

    def hand_over(self, group: Sequence[_Run]) -> None:
        """Keep where those of these seeds stand that go on with this phase in another stack."""
        mine = [run for run in group if run in self.runs and run.progress.phase == self.phase]
        self._keep_now(mine)

    def _keep_best(self, runs: Sequence[_Run]) -> None:
        """Keep copies of these seeds' parameters in their progress."""
        for run in runs:
            row = self.runs.index(run)
            own = {f"best/{name}": p[row].clone() for name, p in self.parameters.items()}
            run.progress.tensors |= own

    def _keep_now(self, runs: Sequence[_Run]) -> None:
        """Keep copies of these seeds' parameters and moments in their progress, on the CPU."""
        if not runs:
            return
        rows = {f"now/{name}": p for name, p in self.parameters.items()}
        steps = {}
        for name, parameter in self.free.items():
            state = self.optimizer.state[parameter]
            rows |= {f"m/{name}": state["exp_avg"], f"v/{name}": state["exp_avg_sq"]}
            steps[f"t/{name}"] = state["step"].cpu()
        for name, tensor in rows.items():
            copied = tensor.cpu()
            for run in runs:
                run.progress.tensors[name] = copied[self.runs.index(run)].clone()
        for run in runs:
            run.progress.tensors |= {name: step.clone() for name, step in steps.items()}

    def _restore_moments(self) -> None:
        kept = [run.progress.tensors for run in self.runs]
        for name, parameter in self.free.items():
            at = parameter.device
            self.optimizer.state[parameter] = {
                "step": kept[0][f"t/{name}"].to(at, copy=True),
                "exp_avg": torch.stack([own[f"m/{name}"] for own in kept]).to(at),
                "exp_avg_sq": torch.stack([own[f"v/{name}"] for own in kept]).to(at),
            }
