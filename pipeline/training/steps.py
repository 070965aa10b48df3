"""What a training step is made of, for a seed alone and for several together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.errors import DivergedError
from pipeline.model import Adapter, Phase, Rates, SeqModel
from pipeline.sampling.batches import Batch
from pipeline.training.parameters import trains

LOSS = "train/loss"
"""The curve that every epoch of every phase adds to."""


def thaw(modules: nn.ModuleDict, phase: Phase) -> dict[str, nn.Parameter]:
    """Let gradients reach what the phase trains, and nothing else; return that by name."""
    free = {}
    for name, parameter in modules.named_parameters():
        parameter.requires_grad_(trains(phase, name))
        if parameter.requires_grad:
            free[name] = parameter
    return free


def adam(
    free: Mapping[str, Tensor], modules: nn.ModuleDict, config: TrainConfig
) -> torch.optim.Adam:
    """Return the optimiser of these parameters; modules: say which of them have own rates."""
    own = {
        f"{path}.{name}": rates
        for path, module in modules.named_modules()
        if isinstance(module, Adapter)
        for name, rates in module.rates().items()
    }
    groups: dict[Rates, list[Tensor]] = {}
    for name, parameter in free.items():
        groups.setdefault(own.get(name, Rates()), []).append(parameter)

    def group(rates: Rates, parameters: list[Tensor]) -> dict[str, Any]:
        found: dict[str, Any] = {"params": parameters}
        if rates.weight_decay is not None:
            found["weight_decay"] = rates.weight_decay
        if rates.learning_rate is not None:
            found["lr"] = rates.learning_rate
        return found

    return torch.optim.Adam(
        [group(rates, parameters) for rates, parameters in groups.items()],
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def adapters(model: SeqModel) -> list[Adapter]:
    """Return all item tables of a model, parts of others included."""
    return [module for module in model.modules() if isinstance(module, Adapter)]


def loss_of(model: SeqModel, phase: Phase, batch: Batch, items: Tensor | None = None) -> Tensor:
    """Return the scalar that a step of this phase lowers.

    items: [M], if the batch holds places among them instead of item ids.
    """
    tables = model.tables(items)
    states = model.states(batch.history, tables)
    loss = batch.targets.new_zeros((), dtype=torch.get_default_dtype())
    for weight, objective in phase.objectives.values():
        loss = loss + weight * objective(model, batch, tables, states)
    return loss


def refuse_infinite(mean: float, phase: Phase, epoch: int, config: TrainConfig) -> None:
    """Raise DivergedError unless the mean loss of an epoch is finite."""
    if not np.isfinite(mean):
        raise DivergedError(
            f"train: the loss is {mean} in phase {phase.name}, epoch {epoch}, learning "
            f"rate {config.learning_rate}. Lower train.learning_rate, or look at the inputs."
        )


def measured(model: SeqModel, loss: float, value: float, config: TrainConfig) -> dict[str, float]:
    """Return the numbers of an epoch: loss, validation, and what the item tables tell."""
    numbers = {LOSS: loss, f"valid/ndcg@{config.monitor_k}": value}
    for adapter in adapters(model):
        numbers |= adapter.measures()
    return numbers
