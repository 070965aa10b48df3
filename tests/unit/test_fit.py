"""The training loop: repeatable, resumable at any epoch, stops early, refuses NaN."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import config, naming
from pipeline.adapters import IdTable
from pipeline.backbones import bert4rec, sasrec
from pipeline.errors import DataError
from pipeline.model import Backbone, Method, Parts, Phase, single
from pipeline.objectives.ranking import ranking_loss
from pipeline.training.fit import Checkpoint, Progress, fit, initialised


def causal(width: int, dropout: float) -> Backbone:
    sizes = sasrec.Config(history=5, blocks=1, heads=1, init_std=0.02, norm_eps=1e-8)
    return sasrec.build(sizes, width, dropout)


def cloze(width: int, dropout: float) -> Backbone:
    sizes = bert4rec.Config(
        history=5, blocks=1, heads=1, inner=4, rho=0.4, last_only=0.1, init_std=0.02, norm_eps=1e-12
    )
    return bert4rec.build(sizes, width, dropout)


def method(
    params: config.Params,
    inputs: Any,
    seed: int = 0,
    dropout: float = 0.2,
    backbone: Callable[[int, float], Backbone] = causal,
) -> Method:
    train = params.train
    parts = Parts(
        train,
        lambda width: backbone(width, dropout),
        lambda: ranking_loss(train.loss, inputs.sequences.train_counts()),
    )
    settings = naming.settings("methods", "spectran", params.methods)
    build = naming.module("methods", "spectran").build
    made = initialised(lambda: build(settings, inputs, parts), seed)
    assert isinstance(made, Method)
    return made


class Killed(Exception):
    pass


class Dies(Checkpoint):
    """Keeps the progress, and dies after some epochs."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.kept: Progress | None = None

    def load(self) -> Progress | None:
        return copy.deepcopy(self.kept)

    def save(self, progress: Progress) -> None:
        self.kept = copy.deepcopy(progress)
        self.after -= 1
        if self.after == 0:
            raise Killed


@pytest.mark.parametrize("backbone", [causal, cloze])
def test_resumed_run_equals_an_uninterrupted_one(
    backbone: Callable[[int, float], Backbone], params: config.Params, inputs: Any
) -> None:
    def made(seed: int = 0) -> Method:
        return method(params, inputs, seed, backbone=backbone)

    train = params.train.model_copy(update={"max_epochs": 5, "weight_decay": 0.01})
    whole = fit(made(), inputs.sequences, train, 3)
    checkpoint = Dies(after=2)
    with pytest.raises(Killed):
        fit(made(), inputs.sequences, train, 3, checkpoint=checkpoint)
    torch.rand(5)  # what else the process drew must not matter
    resumed = fit(made(seed=9), inputs.sequences, train, 3, checkpoint=checkpoint)
    assert resumed.curves == whole.curves
    for (name, a), b in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_other_seed_gives_another_model(params: config.Params, inputs: Any) -> None:
    first = fit(method(params, inputs), inputs.sequences, params.train, 0)
    other = fit(method(params, inputs), inputs.sequences, params.train, 1)
    assert first.curves != other.curves


def test_stops_after_patience_and_keeps_the_best(params: config.Params, inputs: Any) -> None:
    train = params.train.model_copy(
        update={"max_epochs": 500, "patience": 2, "learning_rate": 0.05}
    )
    fitted = fit(method(params, inputs), inputs.sequences, train, 0)
    values = [v for _, _, name, v in fitted.curves if name == "valid/ndcg@20"]
    assert len(values) == fitted.best_epoch + 2 < 500
    assert values.index(max(values)) + 1 == fitted.best_epoch


def test_diverged_loss_stops_the_run(params: config.Params, inputs: Any) -> None:
    made = method(params, inputs)
    made.model.adapters["item"].position.data.fill_(torch.inf)
    with pytest.raises(DataError, match=r"the loss is nan in phase fit, epoch 1, learning rate"):
        fit(made, inputs.sequences, params.train, 0)


def test_later_phase_starts_from_the_best_state_and_freezes(
    params: config.Params, inputs: Any
) -> None:
    train = params.train
    parts = Parts(
        train,
        lambda width: causal(width, 0.0),
        lambda: ranking_loss(train.loss, inputs.sequences.train_counts()),
    )
    made = initialised(lambda: single(IdTable(len(inputs.catalog), 8, 0.02), parts), 0)
    first = made.phases[0]
    second = Phase(name="again", objectives=first.objectives, train=("backbones.*",))
    fit(made, inputs.sequences, train, 0)
    table = made.model.adapters["item"].weight.detach().clone()
    two = initialised(lambda: single(IdTable(len(inputs.catalog), 8, 0.02), parts), 0)
    both = Method(model=two.model, phases=(two.phases[0], second))
    fitted = fit(both, inputs.sequences, train, 0)
    assert torch.equal(two.model.adapters["item"].weight, table)
    assert {phase for _, phase, _, _ in fitted.curves} == {"fit", "again"}


@pytest.mark.parametrize("source", ["trained", "catalogue"])
def test_untrained_items_are_pushed_only_as_negatives_of_the_catalogue(
    source: str, params: config.Params, inputs: Any
) -> None:
    """An item without training events keeps its vector unless it is drawn as a negative."""
    data = dataclasses.replace(inputs.sequences, items=np.minimum(inputs.sequences.items, 20))
    loss = params.train.loss.model_copy(update={"negatives_from": source})
    train = params.train.model_copy(update={"loss": loss})
    made = method(params, inputs)
    before = made.model.adapters["item"].id.detach().clone()
    fit(made, data, train, 0)
    moved = (made.model.adapters["item"].id != before).any(dim=1)
    assert moved[1:21].all()
    assert moved[21:].any() == (source == "catalogue")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_starts_like_the_cpu(params: config.Params, inputs: Any) -> None:
    """Without dropout, whose masks differ, the first epochs agree within float32 rounding."""
    train = params.train
    curves = [
        fit(method(params, inputs, dropout=0.0), inputs.sequences, train, 0, device=device).curves
        for device in ("cpu", "cuda:0")
    ]
    first, second = ([v for _, _, kind, v in c if kind == "train/loss"] for c in curves)
    assert first == pytest.approx(second, rel=1e-4)
