"""Every method takes a step on every loss, whatever it was written for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import naming
from pipeline.config import Params
from pipeline.params import read_yaml
from pipeline.training.parameters import modules_of
from pipeline.training.setting import Setting
from pipeline.training.steps import loss_of, thaw
from tests.composed import LOSSES, distinct, loss, method

BLOCKS = read_yaml(Path("params.yaml"))["methods"]


def is_trained(name: str) -> bool:
    file = naming.file_of("methods", name, BLOCKS)
    return not naming.is_untrained(naming.module("methods", file))


METHODS = [name for name in distinct(BLOCKS) if is_trained(name)]
FILES = [name for name in naming.names("methods") if is_trained(name)]
CASES = [(name, "sasrec", how) for name in METHODS for how in LOSSES] + [
    (name, backbone, how)
    for name in FILES
    for backbone in ("bert4rec", "hstu")
    for how in ("softmax", "bce")  # the whole catalogue by cosine, drawn items by dot product
]


@pytest.mark.parametrize(("name", "backbone", "how"), CASES)
def test_first_gradient_reaches_all_that_is_trained(
    name: str, backbone: str, how: str, params: Params, inputs: Any
) -> None:
    train = params.train.model_copy(update={"loss": loss(how)})
    made = method(params, inputs, name=name, backbone=backbone, train=train)
    setting = Setting.of(made, inputs.sequences, train, "cpu")
    modules = modules_of(made).train()
    for phase in made.phases:
        free = thaw(modules, phase)
        batch = next(iter(setting.batches(made.model, 0, phase.name, 1)))
        value = loss_of(made.model, phase, batch)
        assert value.isfinite()
        value.backward()  # type: ignore[no-untyped-call]
        for path, parameter in free.items():
            grad = parameter.grad
            assert grad is not None and grad.isfinite().all() and grad.any(), path
