"""Seeds that train together: each is what it is alone.

In float64, where rounding cannot hide a difference; one test in float32, as training is.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import config, naming
from pipeline.errors import DataError, DivergedError
from pipeline.evaluation.ranks import rank
from pipeline.layers.draws import Draw, draw, drawn
from pipeline.layers.packing import Packing, fixed_shapes
from pipeline.model import Method, Objective, Phase, SeqModel, Views
from pipeline.sampling.batches import Batch, held_out
from pipeline.training.fit import Fitted, fit
from pipeline.training.parameters import modules_of
from pipeline.training.progress import Checkpoint, Progress
from pipeline.training.saved import saved_state
from pipeline.training.stacked import fit_together, stackable
from tests import composed

SEEDS = (3, 4, 5)


def trained(params: config.Params, **changes: Any) -> config.TrainConfig:
    changes["loss"] = composed.loss(changes.pop("loss", "infonce"))
    return params.train.model_copy(update={"weight_decay": 0.01, **changes})


def method(
    params: config.Params,
    inputs: Any,
    train: config.TrainConfig,
    seed: int,
    name: str = "spectran",
    backbone: str = "sasrec",
) -> Method:
    return exact(composed.method(params, inputs, seed, name, backbone, train=train))


def exact(made: Method) -> Method:
    """Make it float64; frozen text included."""
    modules_of(made).double()
    return made


Found = dict[int, Fitted | DivergedError]


def fitted(found: Fitted | DivergedError) -> Fitted:
    assert isinstance(found, Fitted), found
    return found


def losses(found: Fitted) -> list[float]:
    return [value for _, _, name, value in found.curves if name == "train/loss"]


def assert_same(alone: Fitted, other: Fitted | DivergedError, data: Any) -> None:
    """The same curves, the same choice of epoch, the same tensors, the same ranks."""
    found = fitted(other)
    assert [point[:3] for point in found.curves] == [point[:3] for point in alone.curves]
    # Losses of an epoch are summed in float32; everything else agrees further.
    values = [[point[3] for point in f.curves] for f in (found, alone)]
    assert values[0] == pytest.approx(values[1], rel=1e-6, abs=1e-9)
    assert (found.best_epoch, found.best_value) == (alone.best_epoch, alone.best_value)
    expected = saved_state(alone.method)
    for name, tensor in saved_state(found.method).items():
        pair = [tensor, expected[name]]
        if name.endswith("project_in.bias"):
            # Softmax ignores a bias of the keys. Its gradient is rounding alone, which Adam brings
            # to the size of any other.
            pair = [torch.cat(t.tensor_split(3)[::2]) for t in pair]
        assert torch.allclose(*pair, rtol=1e-9, atol=1e-12), name
    counts = []
    for model in (alone.model.eval(), found.model.eval()):
        test = held_out(data, "test", times=model.reads_times)
        counts.append(rank(model.ranker("cosine"), test, model.length, data.num_items))
    for name in counts[0]:
        assert np.array_equal(counts[0][name], counts[1][name]), name


def with_times(inputs: Any) -> Any:
    data = inputs.sequences
    gaps = np.random.default_rng(0).integers(1, 5000, len(data.items))
    inputs.sequences = dataclasses.replace(data, times=np.cumsum(gaps))
    return inputs


FILES = [
    name
    for name in naming.names("methods")
    if naming.module("methods", name).build.__annotations__["return"] == "Method"
]
CASES = [
    *((name, "sasrec", "infonce") for name in FILES),
    ("spectran_id_dropout", "sasrec", "infonce"),  # draws of its own
    ("morec_deep", "sasrec", "infonce"),  # dropout of the table
    ("rlmrec_infonce", "sasrec", "infonce"),  # items of a step among themselves
    *(("id", "sasrec", loss) for loss in composed.LOSSES if loss != "infonce"),
    ("id", "bert4rec", "softmax"),
    ("llm_esr", "bert4rec", "infonce"),
    ("spectran", "hstu", "bce"),
    ("id", "hstu_times", "infonce"),
]


@pytest.mark.parametrize(("name", "backbone", "loss"), CASES, ids=map("-".join, CASES))
def test_every_seed_equals_its_separate_run(
    name: str, backbone: str, loss: str, params: config.Params, inputs: Any
) -> None:
    """Batches of 8 leave a smaller one of 4; seeds differ in their numbers of real positions."""
    with_times(inputs)
    train = trained(params, loss=loss, max_epochs=2)
    data = inputs.sequences
    short = data.train_end.copy()
    short[::3] -= 1
    data = dataclasses.replace(data, train_end=short)

    def made(seed: int) -> Method:
        return method(params, inputs, train, seed, name, backbone)

    together = dict(fit_together({seed: made(seed) for seed in SEEDS[:2]}, data, train))
    assert list(together) == list(SEEDS[:2])
    for seed, found in together.items():
        assert_same(fit(made(seed), data, train, seed), found, data)


def test_seeds_stop_at_their_own_epochs(params: config.Params, inputs: Any) -> None:
    """Five seeds, so that idle rows are carried along and later left behind."""
    train = trained(params, max_epochs=60, patience=3, learning_rate=0.02)
    data, seeds = inputs.sequences, range(5)
    order = []
    alone = {s: fit(method(params, inputs, train, s), data, train, s) for s in seeds}
    lengths = {s: len(losses(alone[s])) for s in seeds}
    assert len(set(lengths.values())) >= 3, lengths
    methods = {s: method(params, inputs, train, s) for s in seeds}
    for seed, found in fit_together(methods, data, train):
        order.append(seed)
        assert_same(alone[seed], found, data)
    assert sorted(order) == list(seeds)
    assert [lengths[s] for s in order] == sorted(lengths.values())


def test_a_diverging_seed_leaves_the_others_alone(params: config.Params, inputs: Any) -> None:
    train = trained(params)
    methods = {seed: method(params, inputs, train, seed) for seed in SEEDS}
    methods[4].model.adapters["item"].position.data.fill_(torch.inf)
    together: Found = dict(fit_together(methods, inputs.sequences, train))
    assert isinstance(together[4], DivergedError)
    assert "the loss is nan in phase fit, epoch 1" in str(together[4])
    for seed in (3, 5):
        alone = fit(method(params, inputs, train, seed), inputs.sequences, train, seed)
        assert_same(alone, together[seed], inputs.sequences)


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
        self.after -= 1
        if self.after == 0:
            raise Killed
        self.kept = copy.deepcopy(progress)


def test_a_killed_stack_goes_on(params: config.Params, inputs: Any) -> None:
    """Killed between two seeds' saves: the second and third stand an epoch behind the first."""
    train = trained(params, max_epochs=5)
    data = inputs.sequences
    checkpoints = {3: Dies(9), 4: Dies(3), 5: Dies(9)}
    methods = {seed: method(params, inputs, train, seed) for seed in SEEDS}
    with pytest.raises(Killed):
        list(fit_together(methods, data, train, checkpoints=checkpoints))
    at = {seed: c.kept.epoch for seed, c in checkpoints.items() if c.kept}
    assert at == {3: 3, 4: 2, 5: 2}
    torch.rand(5)  # what else the process drew must not matter
    again = {seed: method(params, inputs, train, 9) for seed in SEEDS}
    events: list[tuple[str, int, int]] = []

    def log(event: str, **numbers: Any) -> None:
        events.append((event, numbers["seed"], numbers["epoch"]))

    resumed = dict(fit_together(again, data, train, checkpoints=checkpoints, log=log))
    assert events[:5] == [
        ("resume", 3, 3),
        ("resume", 4, 2),
        ("resume", 5, 2),
        ("epoch", 4, 3),
        ("epoch", 5, 3),
    ]
    for seed, found in resumed.items():
        alone = fit(method(params, inputs, train, seed), data, train, seed)
        assert_same(alone, found, data)


def test_phases_follow_each_other_for_every_seed(params: config.Params, inputs: Any) -> None:
    """Seeds end the first phase at different epochs; the second trains the backbone only."""
    train = trained(params, max_epochs=30, patience=2, learning_rate=0.02)

    def made(seed: int) -> Method:
        first = method(params, inputs, train, seed, "id")
        second = Phase(name="again", objectives=first.phases[0].objectives, train=("backbones.*",))
        return Method(model=first.model, phases=(*first.phases, second))

    alone = {s: fit(made(s), inputs.sequences, train, s) for s in SEEDS}
    ends = {max(e for e, phase, _, _ in f.curves if phase == "fit") for f in alone.values()}
    assert len(ends) > 1
    together = fit_together({s: made(s) for s in SEEDS}, inputs.sequences, train)
    for seed, found in together:
        assert_same(alone[seed], found, inputs.sequences)


def test_float32_agrees_within_its_rounding(params: config.Params, inputs: Any) -> None:
    """Rounding grows over steps; a wrong mask or negative would move the first loss by percents."""
    train = trained(params, max_epochs=3)

    def made(seed: int) -> Method:
        single_precision = method(params, inputs, train, seed)
        modules_of(single_precision).float()
        return single_precision

    together = dict(fit_together({s: made(s) for s in SEEDS}, inputs.sequences, train))
    for seed, found in together.items():
        alone = fit(made(seed), inputs.sequences, train, seed)
        assert losses(fitted(found)) == pytest.approx(losses(alone), rel=1e-4)
        assert fitted(found).best_epoch == alone.best_epoch


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec", "hstu"])
def test_cuda_draws_the_masks_of_the_separate_run(
    backbone: str, params: config.Params, inputs: Any
) -> None:
    train = trained(params, max_epochs=2)
    data = inputs.sequences

    def made(seed: int) -> Method:
        return method(params, inputs, train, seed, "spectran_id_dropout", backbone)

    together = fit_together({s: made(s) for s in SEEDS}, data, train, device="cuda:0")
    for seed, found in together:
        alone = fit(made(seed), data, train, seed, device="cuda:0")
        assert losses(fitted(found)) == pytest.approx(losses(alone), rel=1e-6)


class OwnShapes(Objective):
    """A term that looks at the values of its batch."""

    stackable: ClassVar[bool] = False

    def forward(self, model: SeqModel, batch: Batch, tables: Views, states: Views) -> Tensor:
        return tables["item"][batch.targets[batch.targets > 0]].sum() * 0


def test_a_part_can_say_that_it_is_not_stackable(params: config.Params, inputs: Any) -> None:
    made = method(params, inputs, trained(params), 0, "id")
    assert stackable(made)
    objectives = {**made.phases[0].objectives, "own": (1.0, OwnShapes())}
    phase = dataclasses.replace(made.phases[0], objectives=objectives)
    assert not stackable(Method(model=made.model, phases=(phase,)))


def test_nothing_to_validate_with_is_refused(params: config.Params, inputs: Any) -> None:
    train = trained(params)
    data = dataclasses.replace(inputs.sequences, valid_at=np.full(20, -1), dataset="toys")
    together = fit_together({0: method(params, inputs, train, 0, "id")}, data, train)
    with pytest.raises(DataError, match="train: toys: the validation split is empty"):
        next(together)


# ------------------------------------------------------------------------- its parts


def test_fixed_shapes_keep_padding_and_clear_it() -> None:
    real = torch.tensor([[False, True, True], [False, False, True]])
    x = torch.arange(12.0).view(2, 3, 2)
    with fixed_shapes():
        packing = Packing(real)
    packed = packing.pack(x)
    assert torch.equal(packed, x.view(6, 2))
    assert torch.equal(packing.pad(packed), x * real[..., None])


@pytest.mark.parametrize("kind", ["keep", "uniform", "normal", "order"])
def test_a_seed_draws_by_its_generator_what_it_draws_alone(kind: Any) -> None:
    """Odd sizes, which the words of a mask do not divide."""
    asked = [Draw(kind, (7,) if kind == "order" else (7, 3), 0.3) for _ in range(3)]
    cpu = torch.device("cpu")
    torch.manual_seed(11)
    alone = [drawn(what, cpu) for what in asked]
    stream = torch.Generator().manual_seed(11)
    again = [draw(what, cpu, stream) for what in asked]
    assert all(torch.equal(*pair) for pair in zip(alone, again, strict=True))
