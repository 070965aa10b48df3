"""What trains and ranks on a CUDA device keeps its tensors there, on a machine without one too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import config
from pipeline.errors import DivergedError
from pipeline.evaluation.ranks import rank
from pipeline.sampling.batches import SPLITS, held_out
from pipeline.training import recorded, selection
from pipeline.training.fit import Fitted, fit
from pipeline.training.parameters import modules_of
from pipeline.training.progress import Checkpoint, Progress
from pipeline.training.recorded import Recorded
from pipeline.training.saved import saved_state
from pipeline.training.stacked import fit_together
from tests import composed
from tests.pretended import NAME, Generator, MixedDevices, cuda, mark, place
from tests.unit.test_stacked import CASES, with_times


def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    with cuda():
        there = torch.ones(3, 3, device=NAME)
        here = torch.from_numpy(np.ones((3, 3), np.float32))
        layer = nn.Linear(3, 3).to(NAME)
        refused: list[Callable[[], Any]] = [
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            lambda: there.numpy(),
            lambda: torch.rand(3, device=NAME, generator=Generator()),
            lambda: layer(here),
        ]
        for mixed in refused:
            with pytest.raises(MixedDevices):
                mixed()
        assert (there @ there).device.type == "cuda"
        assert (here.to(NAME) + there).device.type == "cuda"
        assert there[here[0].long()].device.type == "cuda"
        assert (there + torch.tensor(1.0)).cpu().numpy().sum() == 18
        layer(there).sum().backward()
        assert layer.weight.grad.device.type == "cuda"
        assert here.device.type == "cpu"


@contextmanager
def replaying(device: Any) -> Iterator[None]:
    """A recorded step was told where to make its constants, and here that is the CPU."""
    take, rewrite = Recorded.__call__, recorded.lighten

    def freely(function: Callable[..., Any], *given: Any) -> Any:
        device.refuses = False
        found = mark(function(*given), "cuda")
        device.refuses = True
        return found

    def replay(self: Recorded, *given: Any) -> Any:
        if self.operations is None:
            self.operations = self._record(*given)
        return freely(take, self, *given)

    with (
        mock.patch.object(Recorded, "__call__", replay),
        mock.patch.object(recorded, "lighten", partial(freely, rewrite)),
    ):
        yield


class Kept(Checkpoint):
    def __init__(self) -> None:
        self.progress: Progress | None = None

    def load(self) -> Progress | None:
        return self.progress

    def due(self) -> bool:
        return True

    def save(self, progress: Progress) -> None:
        tensors = {name: tensor.cpu().clone() for name, tensor in progress.tensors.items()}
        self.progress = replace(progress, curves=[*progress.curves], tensors=tensors)


DRAWING = ("rlmrec_infonce", "spectran_id_dropout", "unisrec")
"""Methods with draws of their own."""
TOGETHER = [case for case in CASES if case[1] != "sasrec" or case[0] in DRAWING]


@pytest.mark.parametrize(
    ("name", "backbone", "loss", "together"),
    [
        *(pytest.param(*case, False, id="-".join(case)) for case in CASES),
        *(pytest.param(*case, True, id="-".join((*case, "together"))) for case in TOGETHER),
    ],
)
def test_training_and_ranking_stay_on_the_device(
    name: str, backbone: str, loss: str, together: bool, params: config.Params, inputs: Any
) -> None:
    check(name, backbone, loss, together, params, inputs)


@pytest.mark.parametrize("name", ["spectran", "spectran_id_dropout"])
def test_steps_over_the_items_of_a_batch_stay_there_too(
    name: str, params: config.Params, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SHARE", 100.0)
    check(name, "sasrec", "infonce", False, params, inputs)


def check(
    name: str, backbone: str, loss: str, together: bool, params: config.Params, inputs: Any
) -> None:
    """Train two epochs in two runs, so that a kept state is read as well, and rank."""
    with_times(inputs)
    data = inputs.sequences
    kept = {seed: Kept() for seed in (0, 1)}

    def trained(epochs: int) -> Fitted | DivergedError:
        changes = {"loss": composed.loss(loss), "max_epochs": epochs}
        train = params.train.model_copy(update=changes)
        methods = {
            seed: composed.method(params, inputs, seed, name, backbone, train=train)
            for seed in kept
        }
        if together:
            runs = fit_together(methods, data, train, device=NAME, checkpoints=kept)
            return dict(runs)[0]
        return fit(methods[0], data, train, 0, device=NAME, checkpoint=kept[0])

    with cuda() as device, replaying(device):
        trained(1)
        found = trained(2)
        assert isinstance(found, Fitted)
        assert kept[0].progress is not None and kept[0].progress.epoch > 0
        assert {place(p) for p in modules_of(found.method).parameters()} == {"cuda"}
        model = found.model.eval()
        with torch.inference_mode():
            for split in SPLITS:
                held = held_out(data, split, times=model.reads_times)
                rank(model.ranker("cosine"), held, model.length, data.num_items, NAME)
        for tensor in saved_state(found.method).values():
            tensor.cpu().numpy()
