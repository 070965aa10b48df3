"""The memory that a cell announces: what a step keeps for the way back is no more than it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline import config, naming
from pipeline.backbones import sasrec
from pipeline.experiment.prepared import Experiment
from pipeline.model import Parts
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import load, read_yaml
from pipeline.sampling.batches import History
from pipeline.training.memory import per_history

METHODS = read_yaml(Path("params.yaml"))["methods"]
ITEMS, H = 24, 12

CASES = [
    ("unisrec", {"experts": 5}),
    ("unisrec", {"experts": 9, "fusion": "concat"}),
    ("rlmrec", {"fusion": "concat"}),
    ("whitenrec_plus", {}),
    ("morec_deep", {}),
    ("morec_deep", {"fusion": "add"}),
]


def kept(module: nn.Module, make: Callable[[], Any]) -> int:
    """Numbers that autograd keeps of making something, parameters and buffers left out."""
    known = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    known |= {t.untyped_storage().data_ptr() for t in module.buffers()}
    found: dict[int, float] = {}
    alive: list[Any] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            found[place] = tensor.untyped_storage().nbytes() / 4
            alive.append(tensor)  # else its place may be another's
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(make())
    return round(sum(found.values()))


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
    model = module.build(settings, inputs, parts).model.train()
    per_item = kept(model, model.tables) / ITEMS
    announced = module.held(settings, H, params.train.width)
    # The map's text rows and the joined table are part of inputs and tables.
    others = 2 * H + 4 * params.train.width
    assert announced / 4 < per_item < announced + others


@pytest.mark.parametrize(("history", "width"), [(10, 128), (80, 16)])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sasrec", {"heads": 1}),
        ("sasrec", {"heads": 4, "blocks": 3}),
        ("bert4rec", {"inner": 1}),
        ("bert4rec", {"heads": 4, "inner": 4}),
        ("hstu", {}),
        ("hstu", {"heads": 4, "attention_width": 8, "linear_width": 16}),
        ("hstu", {"time_bias": True}),
    ],
)
def test_of_a_backbone_no_more_is_kept_than_announced(
    name: str, changes: dict[str, Any], history: int, width: int
) -> None:
    module = naming.module("backbones", name)
    settings = naming.settings("backbones", name, read_yaml(Path("params.yaml"))["backbones"])
    settings = settings.model_copy(update=changes | {"history": history})
    model = module.build(settings, width, 0.1).train()
    places = history + (model.targets == "cloze")
    items = torch.ones(3, places, dtype=torch.long)
    # Every position is real: the most that a batch can hold.
    asked = History(items, masked=items == 0, times=items.cumsum(1) * 1000)
    x = torch.randn(3, places, width, requires_grad=True)
    found = kept(model, lambda: model(x, asked)) / 3
    announced = per_history(settings, width)
    # The rest is for gradients on their way back, of which there are fewer than layers.
    assert announced / 2.5 < found < announced


def test_the_length_of_histories_and_batches_are_in_the_memory_of_the_cell(tiny_root: Path) -> None:
    def need(history: int, batch: int) -> int:
        changes = {"backbones.sasrec.history": history, "train.batch_size": batch}
        params = load(tiny_root / "params.yaml", changes)
        cell = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
        return Experiment.prepare(params, tiny_root / "artifacts", 2, cell).memory_bytes()

    blocks, histories = 2, 20
    scores = 4 * histories * blocks * 2000 * 2000
    assert need(2000, 256) - need(10, 256) > scores, "attention of every event to every other"
    assert need(2000, 256) == need(2000, 20) > need(2000, 5) + scores / 2, "20 histories, no more"


def test_experts_are_in_the_memory_of_the_cell(tiny_root: Path) -> None:
    found = []
    for experts in (8, 16):
        changes = {"methods.unisrec.experts": experts, "train.width": 8}
        params = load(tiny_root / "params.yaml", changes)
        cell = {"dataset": "demo", "encoder": "hash", "backbone": "sasrec", "method": "unisrec"}
        work = Experiment.prepare(params, tiny_root / "artifacts", 2, cell)
        found.append(work.memory_bytes())
    assert found[1] - found[0] == 4 * 2 * 8 * 8 * (ITEMS + 1)
