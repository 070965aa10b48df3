"""The memory that a cell announces: what a step keeps for the way back is no more than it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import config, naming
from pipeline.backbones import sasrec
from pipeline.experiment import Experiment
from pipeline.model import Method, Parts
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import load, read_yaml

METHODS = read_yaml(Path("params.yaml"))["methods"]
ITEMS, H = 24, 12

CASES = [
    ("unisrec", {"experts": 5}),
    ("unisrec", {"experts": 9, "fusion": "concat"}),
    ("rlmrec", {"fusion": "concat"}),
    ("whitenrec_plus", {}),
]


def kept(method: Method) -> int:
    """Numbers that autograd keeps of making the item table, parameters and buffers left out."""
    known = {t.untyped_storage().data_ptr() for t in method.model.state_dict().values()}
    known |= {t.untyped_storage().data_ptr() for t in method.model.buffers()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            found[place] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(method.model.train().tables())
    return sum(found.values())


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_method_announces_what_its_step_keeps(
    name: str, changes: dict[str, Any], params: config.Params, inputs: Any
) -> None:
    module = naming.module("methods", naming.file_of("methods", name, METHODS))
    settings = naming.settings("methods", name, METHODS).model_copy(update=changes)
    shape = sasrec.Config(history=5, blocks=1, heads=1, init_std=0.02, norm_eps=1e-8)
    parts = Parts(
        params.train,
        lambda width: sasrec.build(shape, width, 0.1),
        lambda: ranking_loss(params.train.loss, inputs.sequences.train_counts()),
    )
    per_item = kept(module.build(settings, inputs, parts)) / ITEMS
    announced = module.held(settings, H, params.train.width)
    # The map's text rows and the joined table are part of inputs and tables.
    others = 2 * H + 4 * params.train.width
    assert announced / 4 < per_item < announced + others


def test_experts_are_in_the_memory_of_the_cell(tiny_root: Path) -> None:
    found = []
    for experts in (8, 16):
        changes = {"methods.unisrec.experts": experts, "train.width": 8}
        params = load(tiny_root / "params.yaml", changes)
        cell = {"dataset": "demo", "encoder": "hash", "backbone": "sasrec", "method": "unisrec"}
        work = Experiment.prepare(params, tiny_root / "artifacts", 2, cell)
        found.append(work.memory_bytes())
    assert found[1] - found[0] == 4 * 3 * 8 * 8 * (ITEMS + 1)
