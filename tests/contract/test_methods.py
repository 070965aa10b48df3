"""What every method file must keep, whatever it composes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from pipeline import config, naming
from pipeline.backbones import bert4rec, sasrec
from pipeline.evaluation.ranks import ndcg, rank
from pipeline.model import Adapter, Backbone, Method, Parts, Untrained
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import read_yaml
from pipeline.sampling.batches import History, held_out
from pipeline.training.fit import fit, initialised
from pipeline.training.saved import load_state, saved_state, terms_of
from pipeline.tuning.space import BACKBONE
from pipeline.values import Sequences
from tests.composed import distinct

BLOCKS = read_yaml(Path("params.yaml"))["methods"]
FILES = naming.names("methods")


def module_of(name: str) -> ModuleType:
    return naming.module("methods", naming.file_of("methods", name, BLOCKS))


TRAINED = [name for name in distinct(BLOCKS) if not naming.is_untrained(module_of(name))]
CASES = [(name, "sasrec") for name in TRAINED] + [("id", "bert4rec"), ("spectran", "bert4rec")]
"""Every method with next-item targets, and two with cloze targets."""


def encoder(name: str, width: int, dropout: float) -> Backbone:
    if name == "sasrec":
        sizes = sasrec.Config(history=5, blocks=1, heads=1, init_std=0.02, norm_eps=1e-8)
        return sasrec.build(sizes, width, dropout)
    cloze = bert4rec.Config(
        history=5, blocks=1, heads=1, inner=4, rho=0.2, last_only=0.5, init_std=0.02, norm_eps=1e-12
    )
    return bert4rec.build(cloze, width, dropout)


@pytest.mark.parametrize("name", FILES)
def test_no_setting_has_the_name_of_another_part_of_a_cell(name: str) -> None:
    """A search tells keys of `train` and of the backbone by the first part of their name."""
    fields = naming.module("methods", name).Config.model_fields
    assert not {naming.TRAIN, BACKBONE} & set(fields)


def make(
    name: str, params: config.Params, inputs: Any, seed: int = 0, backbone: str = "sasrec"
) -> Method | Untrained:
    settings = naming.settings("methods", name, params.methods)
    train = params.train
    parts = Parts(
        train,
        lambda width: encoder(backbone, width, train.dropout),
        lambda: ranking_loss(train.loss, inputs.sequences.train_counts()),
    )
    return initialised(lambda: module_of(name).build(settings, inputs, parts), seed)


def adapters(method: Method) -> list[Adapter]:
    return [m for m in method.model.modules() if isinstance(m, Adapter)]


@pytest.fixture(params=CASES, ids="-".join)
def method(request: pytest.FixtureRequest, params: config.Params, inputs: Any) -> Method:
    name, backbone = request.param
    made = make(name, params, inputs, backbone=backbone)
    assert isinstance(made, Method)
    return made


def test_every_file_has_a_block() -> None:
    assert set(FILES) <= set(BLOCKS)


@pytest.mark.parametrize("name", FILES)
def test_docstring_has_source_and_differs(name: str) -> None:
    text = naming.module("methods", name).__doc__ or ""
    assert "\nSource:" in text
    assert "\nDiffers:" in text


@pytest.mark.parametrize("name", BLOCKS)
def test_scores_cover_the_catalogue(name: str, params: config.Params, inputs: Any) -> None:
    made = make(name, params, inputs)
    scorer = made.scorer if isinstance(made, Untrained) else made.model.eval().ranker("cosine")
    length = made.length if isinstance(made, Untrained) else made.model.length
    history = held_out(inputs.sequences, "test").histories(slice(0, 3), length)
    with torch.no_grad():
        assert scorer(History(history)).shape == (3, len(inputs.catalog))


def test_undeclared_input_is_refused(tmp_path: Path) -> None:
    from pipeline.experiment.inputs import CellInputs

    with pytest.raises(AssertionError, match="NEEDS does not list"):
        CellInputs(tmp_path, "demo", "hash", ("semantic",)).spectrum("unit")


def test_table_has_a_zero_padding_row(method: Method, inputs: Any) -> None:
    for adapter in adapters(method):
        table = adapter.table()
        assert table.shape == (len(inputs.catalog) + 1, adapter.width)
        assert not table[0].any()


@pytest.mark.parametrize("training", [True, False])
def test_rows_of_some_items_are_those_of_the_table(
    method: Method, inputs: Any, training: bool
) -> None:
    items = torch.tensor([0, 2, 3, len(inputs.catalog)])
    for adapter in adapters(method):
        adapter.train(training)
        found = []
        for ask in (lambda a: a.table()[items], lambda a: a.rows_of(items)):
            torch.manual_seed(0)
            found.append(ask(adapter))
        assert torch.allclose(*found, atol=1e-6)


def test_padding_row_stays_zero_and_parameters_move(
    method: Method, params: config.Params, inputs: Any
) -> None:
    before = {n: p.detach().clone() for n, p in method.model.named_parameters()}
    fit(method, inputs.sequences, params.train, 0)
    for adapter in adapters(method):
        assert not adapter.table()[0].any()
    unmoved = {
        name
        for name, p in method.model.named_parameters()
        if torch.equal(p, before[name]) and p.numel() > 1
    }
    assert not unmoved


def test_saved_state_restores_the_scores(
    method: Method, params: config.Params, inputs: Any, request: pytest.FixtureRequest
) -> None:
    fit(method, inputs.sequences, params.train, 0)
    content = save({n: t.numpy() for n, t in saved_state(method).items()})
    name, backbone = request.node.callspec.params["method"]
    again = make(name, params, inputs, seed=7, backbone=backbone)
    assert isinstance(again, Method)
    load_state(again, {n: torch.from_numpy(a) for n, a in load(content).items()})
    history = History(held_out(inputs.sequences, "test").histories(slice(0, 20), 5))
    with torch.no_grad():
        first = method.model.eval().ranker("cosine")(history)
        second = again.model.eval().ranker("cosine")(history)
    assert torch.equal(first, second)


def test_frozen_inputs_are_not_saved(method: Method) -> None:
    """What is saved is what is trained, in the loss too."""
    parts = {"": method.model, "objectives.": terms_of(method)}
    trained = {start + n for start, part in parts.items() for n, _ in part.named_parameters()}
    assert set(saved_state(method)) == trained


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_learns_a_walk_of_twenty_users(
    name: str, backbone: str, params: config.Params, inputs: Any
) -> None:
    """Every user walks up the catalogue: after 60 epochs the next item is among the first.

    An epoch of cloze targets asks for one or two items of a sequence instead of three.
    """
    epochs = 150 if backbone == "bert4rec" else 60
    train = params.train.model_copy(
        update={"max_epochs": epochs, "patience": epochs, "dropout": 0.0, "learning_rate": 1e-2}
    )
    # Built with these values, so that dropout is off inside the model too.
    method = make(name, params.model_copy(update={"train": train}), inputs, backbone=backbone)
    assert isinstance(method, Method)
    data: Sequences = inputs.sequences
    fit(method, data, train, 0)
    held = held_out(data, "test")
    found = rank(method.model.eval().ranker("cosine"), held, 5, data.num_items)
    random_ndcg = float(np.mean([1 / np.log2(r + 1) for r in range(1, 6)]) * 5 / 24)
    assert ndcg(found["greater"], found["equal"], 5) > 2.5 * random_ndcg
