"""The training loop: repeatable, resumable at any epoch, stops early, refuses NaN."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import config
from pipeline.adapters import IdTable
from pipeline.errors import ConfigError, DataError
from pipeline.model import Method, Objective, Parts, Phase, SeqModel, Views, single
from pipeline.objectives.ranking import ranking_loss
from pipeline.sampling.batches import Batch, History
from pipeline.training import fit as fit_module
from pipeline.training.fit import fit, initialised
from pipeline.training.parameters import modules_of
from pipeline.training.progress import Checkpoint, Progress
from pipeline.training.saved import saved_state
from pipeline.training.setting import Setting
from pipeline.training.steps import adam
from tests import composed
from tests.composed import method


class Killed(Exception):
    pass


class Dies(Checkpoint):
    """Keeps the progress, and dies after some epochs."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.kept: Progress | None = None

    def load(self) -> Progress | None:
        return copy.deepcopy(self.kept)

    def due(self) -> bool:
        return True

    def save(self, progress: Progress) -> None:
        self.kept = copy.deepcopy(progress)
        self.after -= 1
        if self.after == 0:
            raise Killed


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        *((name, "sasrec") for name in ("spectran", "unisrec", "rlmrec", "llm_esr")),
        ("spectran", "bert4rec"),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(
    name: str, backbone: str, params: config.Params, inputs: Any
) -> None:
    """Noise in the table, a loss with parameters of its own, a shared backbone, masks."""

    def made(seed: int = 0) -> Method:
        return method(params, inputs, seed, name=name, backbone=backbone)

    train = params.train.model_copy(update={"max_epochs": 5, "weight_decay": 0.01})
    whole = fit(made(), inputs.sequences, train, 3)
    checkpoint = Dies(after=2)
    with pytest.raises(Killed):
        fit(made(), inputs.sequences, train, 3, checkpoint=checkpoint)
    torch.rand(5)  # what else the process drew must not matter
    again = made(seed=9)
    resumed = fit(again, inputs.sequences, train, 3, checkpoint=checkpoint)
    assert resumed.curves == whole.curves
    found = saved_state(resumed.method)
    for name, tensor in saved_state(whole.method).items():
        assert torch.equal(tensor, found[name]), name


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


def test_the_optimiser_takes_all_its_settings(params: config.Params, inputs: Any) -> None:
    how = {"learning_rate": 0.25, "weight_decay": 0.5, "adam_betas": (0.5, 0.75), "adam_eps": 0.125}
    train = params.train.model_copy(update=how)
    modules = modules_of(method(params, inputs, name="id"))
    (group,) = adam(dict(modules.named_parameters()), modules, train).param_groups
    assert [group[name] for name in ("lr", "weight_decay", "betas", "eps")] == list(how.values())


@pytest.mark.parametrize(("k", "ranking"), [(4, "cosine"), (15, "dot")])
def test_early_stopping_watches_ndcg_at_its_own_cut_off(
    k: int, ranking: str, params: config.Params, inputs: Any
) -> None:
    """By loops over the validation users, scored as in ranking; no scores are equal here."""
    train = params.train.model_copy(update={"monitor_k": k, "ranking": ranking})
    assert train.loss.similarity == "cosine"
    made, data = method(params, inputs, dropout=0.0), inputs.sequences
    model = made.model.eval()
    gains = []
    with torch.no_grad():
        for user in range(data.num_users):
            if data.valid_at[user] < 0:
                continue
            events = data.items[data.offsets[user] : data.offsets[user] + data.valid_at[user] + 1]
            history = ([0] * composed.LENGTH + events[:-1].tolist())[-composed.LENGTH :]
            scores = model.ranker(train.ranking)(History(torch.tensor([history])))[0]
            rank = 1 + int((scores > scores[events[-1] - 1]).sum())
            gains.append(1 / np.log2(1 + rank) if rank <= k else 0.0)
        found = Setting.of(made, data, train, "cpu").validate(model)
    assert 0 < found == pytest.approx(np.mean(gains))


@pytest.mark.parametrize("other", [(1, "fit", 1), (0, "again", 1), (0, "fit", 2)])
def test_seed_phase_and_epoch_each_change_order_negatives_and_masks(
    other: tuple[int, str, int], params: config.Params, inputs: Any
) -> None:
    made = method(params, inputs, backbone="bert4rec")
    setting = Setting.of(made, inputs.sequences, params.train, "cpu")

    def drawn(seed: int, phase: str, epoch: int) -> list[Tensor]:
        batches = list(setting.batches(made.model, seed, phase, epoch))
        masks = [b.history.masked for b in batches if b.history.masked is not None]
        events = [b.history.items + b.targets for b in batches]
        return [torch.cat(p) for p in (events, masks, [b.negatives for b in batches])]

    first = drawn(0, "fit", 1)
    assert all(torch.equal(*pair) for pair in zip(first, drawn(0, "fit", 1), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, drawn(*other), strict=True))


def test_weight_decay_is_part_of_the_gradient(params: config.Params) -> None:
    """By hand: Adam divides it by its own size, so that a small one takes a whole step too."""
    how = {"learning_rate": 0.01, "weight_decay": 1e-6, "adam_eps": 1e-8}
    value = nn.Parameter(torch.ones(3))
    value.grad = torch.zeros(3)
    adam({"value": value}, nn.ModuleDict(), params.train.model_copy(update=how)).step()
    assert value.tolist() == pytest.approx([1 - 0.01 * 1e-6 / (1e-6 + 1e-8)] * 3, abs=1e-6)


def test_of_equal_epochs_the_first_is_the_best(params: config.Params, inputs: Any) -> None:
    """Without steps every epoch is worth the same, so patience runs from the first."""
    train = params.train.model_copy(
        update={"max_epochs": 9, "patience": 3, "learning_rate": 0.0, "weight_decay": 0.0}
    )
    fitted = fit(method(params, inputs), inputs.sequences, train, 0)
    values = [v for _, _, name, v in fitted.curves if name == "valid/ndcg@20"]
    assert len(set(values)) == 1 and len(values) == 1 + 3
    assert (fitted.best_epoch, fitted.best_value) == (1, values[0])


def test_a_later_phase_keeps_its_own_best_though_the_first_was_better(
    params: config.Params, inputs: Any
) -> None:
    made = method(params, inputs)
    first = made.phases[0]
    worse = Phase(name="worse", objectives={"ranking": (-1.0, first.objectives["ranking"][1])})
    both = Method(model=made.model, phases=(first, worse))
    train = params.train.model_copy(update={"max_epochs": 8, "learning_rate": 0.05})
    fitted = fit(both, inputs.sequences, train, 0)
    reached = {
        phase: [v for _, at, name, v in fitted.curves if (at, name) == (phase, "valid/ndcg@20")]
        for phase in ("fit", "worse")
    }
    assert max(reached["worse"]) < max(reached["fit"])
    assert fitted.best_value == max(reached["worse"])
    assert reached["worse"].index(fitted.best_value) + 1 == fitted.best_epoch


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
        lambda width: composed.BACKBONES["sasrec"](width, 0.0),
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


class Size(Objective):
    """A loss with a parameter of its own; without decay its gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(3))

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        return 0 * self.value.sum()


def with_size(params: config.Params, inputs: Any) -> tuple[Method, Size]:
    made, term = method(params, inputs), Size()
    first = made.phases[0]
    phase = dataclasses.replace(first, objectives={**first.objectives, "size": (1.0, term)})
    return Method(model=made.model, phases=(phase, dataclasses.replace(first, name="again"))), term


def test_weight_decay_acts_on_parameters_of_the_loss(params: config.Params, inputs: Any) -> None:
    for decay in (0.0, 0.1):
        made, term = with_size(params, inputs)
        train = params.train.model_copy(update={"weight_decay": decay})
        fit(Method(model=made.model, phases=made.phases[:1]), inputs.sequences, train, 0)
        assert bool((term.value < 1).all()) == (decay > 0)


def test_a_state_that_nobody_keeps_is_not_copied(
    params: config.Params, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would send all of it to the host after every epoch."""
    copied = []
    now = fit_module._Trainer._now
    monkeypatch.setattr(fit_module._Trainer, "_now", lambda t: copied.append(1) or now(t))
    fit(method(params, inputs), inputs.sequences, params.train, 0)
    assert not copied
    with pytest.raises(Killed):
        fit(method(params, inputs), inputs.sequences, params.train, 0, checkpoint=Dies(2))
    assert len(copied) == 2


def test_parameters_of_a_loss_belong_to_its_own_phase(params: config.Params, inputs: Any) -> None:
    """The second phase lacks the term: its parameter rests, and has no moments to keep."""
    train = params.train.model_copy(update={"weight_decay": 0.1})
    made, term = with_size(params, inputs)
    kept: list[Progress] = []

    class Keeps(Checkpoint):
        def due(self) -> bool:
            return True

        def save(self, progress: Progress) -> None:
            kept.append(copy.deepcopy(progress))

    fit(made, inputs.sequences, train, 0, checkpoint=Keeps())
    name = "fit.size.value"
    assert f"m/{name}" in kept[0].tensors
    assert f"m/{name}" not in kept[-1].tensors
    finished = max(p.epoch for p in kept if p.phase == 0)
    (last,) = (p for p in kept if p.phase == 0 and p.epoch == finished)
    assert torch.equal(term.value, last.tensors[f"best/{name}"])


@pytest.mark.parametrize("source", ["trained", "catalogue", "events"])
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


@pytest.mark.parametrize("name", ["id", "rlmrec"])
def test_item_vectors_that_all_start_at_zero_are_refused_under_a_cosine(
    name: str, params: config.Params, inputs: Any
) -> None:
    zero = params.train.model_copy(update={"item_std": 0.0, "max_epochs": 1})
    assert zero.loss.similarity == "cosine"
    with pytest.raises(ConfigError, match=r"all start at zero.* Set train\.item_std, .* or .* dot"):
        fit(method(params, inputs, name=name, train=zero), inputs.sequences, zero, 0)
    loss = zero.loss.model_copy(update={"similarity": "dot"})
    dot = zero.model_copy(update={"loss": loss})
    made = method(params, inputs, name=name, train=dot)
    found = fit(made, inputs.sequences, dot, 0)
    assert next(value for _, _, key, value in found.curves if key == "std_id") > 0


def test_text_beside_an_id_part_of_zero_trains(params: config.Params, inputs: Any) -> None:
    zero = params.train.model_copy(update={"item_std": 0.0, "max_epochs": 1})
    found = fit(method(params, inputs, train=zero), inputs.sequences, zero, 0)
    assert next(value for _, _, key, value in found.curves if key == "std_id") > 0
