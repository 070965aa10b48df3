"""Steps over a batch's items alone: the same losses, gradients and training as over all items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.config import InfoNCELoss
from pipeline.model import Method
from pipeline.objectives.ranking import ranking_loss
from pipeline.training import selection
from pipeline.training.fit import fit
from pipeline.training.selection import select, selects
from pipeline.training.setting import Setting
from pipeline.training.steps import loss_of
from tests import composed
from tests.composed import method

MAPS = ("morec", "morec_deep", "morec_add", "unisrec", "unisrec_concat", "whitenrec_plus")
"""Methods that map every item's text by itself, some with draws per item."""


def batches(made: Method, params: config.Params, inputs: Any) -> list[Any]:
    setting = Setting.of(made, inputs.sequences, params.train, "cpu")
    return list(setting.batches(made.model, 0, "fit", 1))


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec", "hstu_times"])
def test_places_lead_back_to_the_items(backbone: str, params: config.Params, inputs: Any) -> None:
    data = inputs.sequences
    inputs.sequences = replace(data, times=np.arange(len(data.items)))
    made = method(params, inputs, backbone=backbone)
    for batch in batches(made, params, inputs):
        items, placed = select(batch)
        assert items[0] == 0 and (items.diff() > 0).all()
        assert torch.equal(items[placed.history.items], batch.history.items)
        assert torch.equal(items[placed.targets], batch.targets)
        assert torch.equal(items[placed.negatives], batch.negatives)
        assert placed.history.masked is batch.history.masked
        assert placed.history.times is batch.history.times
        assert (batch.history.times is None) == (backbone != "hstu_times")
        assert torch.equal(placed.history.real, batch.history.real)


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec", "hstu"])
@pytest.mark.parametrize(
    "name",
    ["spectran", "spectran_no_attention", "spectran_concat", "spectran_id_dropout", *MAPS],
)
@pytest.mark.parametrize("loss", ["infonce", "bce", "gbce"])
def test_loss_and_gradients_are_those_of_the_whole_table(
    name: str, loss: str, backbone: str, params: config.Params, inputs: Any
) -> None:
    made = method(params, inputs, name=name, backbone=backbone, dropout=0.0)
    made.model.double()
    objective = ranking_loss(composed.loss(loss), inputs.sequences.train_counts())
    phase = type(made.phases[0])(name="fit", objectives={"ranking": (1.0, objective)})
    batch = batches(made, params, inputs)[0]
    found = []
    for items, given in ((None, batch), select(batch)):
        made.model.zero_grad()
        torch.manual_seed(0)
        value = loss_of(made.model, phase, given, items)
        value.backward()  # type: ignore[no-untyped-call]
        found.append([value.detach(), *(p.grad for p in made.model.parameters())])
    whole, own = found
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(whole, own, strict=True))


@pytest.mark.parametrize("name", ["spectran", "spectran_id_dropout", *MAPS])
def test_training_is_the_same(
    name: str, params: config.Params, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = []
    for share in (0.0, 1e9):
        monkeypatch.setattr(selection, "SHARE", share)
        made = method(params, inputs, name=name)
        picked = selects(made.model, made.phases[0], params.train, inputs.sequences.num_items)
        assert picked == (share > 1)
        curves.append(fit(made, inputs.sequences, params.train, 0).curves)
    whole, own = curves
    assert len(whole) == len(own) > 0
    for (*place, value), (*other, same) in zip(whole, own, strict=True):
        assert place == other and value == pytest.approx(same, rel=1e-3, abs=1e-5)


def test_only_small_batches_of_large_catalogues_select(params: config.Params, inputs: Any) -> None:
    made = method(params, inputs)
    assert isinstance(params.train.loss, InfoNCELoss)
    touched = params.train.batch_size * (2 * 5 + 2 + params.train.loss.negatives)
    phase = made.phases[0]
    assert selects(made.model, phase, params.train, 2 * touched)
    assert not selects(made.model, phase, params.train, 2 * touched - 1)


@pytest.mark.parametrize("name", ["morec", "whitenrec_add", "unisrec_concat", "spectran"])
def test_maps_of_the_text_select(name: str, params: config.Params, inputs: Any) -> None:
    made = method(params, inputs, name=name)
    assert selects(made.model, made.phases[0], params.train, 10**9)


@pytest.mark.parametrize("name", ["rlmrec_concat", "llm_esr"])
def test_terms_of_the_loss_that_name_items_do_not_select(
    name: str, params: config.Params, inputs: Any
) -> None:
    """Their text is mapped, too, but the alignment reads items by their numbers."""
    made = method(params, inputs, name=name)
    assert not selects(made.model, made.phases[0], params.train, 10**9)


def test_parts_that_need_all_items_do_not_select(params: config.Params, inputs: Any) -> None:
    ids = method(params, inputs, name="id")
    assert not selects(ids.model, ids.phases[0], params.train, 10**9), "nothing to gain"
    whole = params.train.model_copy(update={"loss": composed.loss("softmax")})
    objective = ranking_loss(whole.loss, inputs.sequences.train_counts())
    made = method(params, inputs)
    phase = type(made.phases[0])(name="fit", objectives={"ranking": (1.0, objective)})
    assert not selects(made.model, phase, whole, 10**9)
