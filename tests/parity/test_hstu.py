"""HSTU against numbers of the authors' code, against plain loops, and its size and padding."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import config
from pipeline.backbones import hstu
from pipeline.errors import ConfigError
from pipeline.experiment.prepared import Experiment
from pipeline.model import Method, Parts
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import load
from pipeline.sampling.batches import History
from pipeline.training.fit import fit, initialised
from pipeline.training.progress import Checkpoint
from pipeline.values import Catalog, Sequences

RECORDED = json.loads(Path(__file__).with_name("hstu.json").read_text())
ITEMS = torch.tensor(
    [[0, 0, 0, 3, 1, 2], [0, 4, 2, 2, 5, 1], [0, 0, 0, 0, 0, 7], [0, 0, 9, 8, 6, 4]]
)
TIMES = torch.tensor(
    [
        [0, 0, 0, 1_000_000_000, 1_000_000_060, 1_000_086_400],
        [0, 1_100_000_000, 1_100_000_000, 1_100_000_001, 1_103_000_000, 1_200_000_000],
        [0, 0, 0, 0, 0, 1_300_000_000],
        [0, 0, 10, 13, 30, 1_000],
    ]
)
TARGET_TIMES = torch.tensor([1_000_086_401, 1_200_000_007, 1_300_003_600, 1_000_000_000])


def settings(**changes: Any) -> hstu.Config:
    values: dict[str, Any] = {
        "history": 6,
        "blocks": 2,
        "heads": 2,
        "attention_width": 3,
        "linear_width": 4,
        "time_bias": True,
        "time_buckets": 128,
        "time_scale": 0.301,
        "scale_input": True,
        "init_std": 0.02,
        "position_gain": 1.0,
        "output_gain": 1.0,
        "norm_eps": 1e-6,
    }
    return hstu.Config(**values | changes)


def encoder(width: int = 6, **changes: Any) -> hstu.HSTU:
    """Weights large enough that every part matters."""
    torch.manual_seed(0)
    made = hstu.HSTU(settings(**changes), width, 0.0)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made.double().eval()


# ---------------------------------------------------------------- the authors' code


def recorded_weights(model: hstu.HSTU) -> tuple[Tensor, Tensor]:
    """Fill the blocks with the recorded run's weights; return its item table and positions."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    table, positions = draw(10, 6), draw(6, 6)
    with torch.no_grad():
        for block in model.blocks:
            assert isinstance(block, hstu.Block) and block.time is not None
            block.project_in.copy_(draw(6, 28))
            block.project_out.weight.copy_(draw(6, 8))
            block.project_out.bias.copy_(draw(6))
            # Theirs is ordered by key minus query, from -5 to 5; keys after the query are masked.
            block.position.copy_(draw(11)[:6].flip(0))
            block.time.copy_(draw(129))
    return table, positions


def states_like_the_authors(
    model: hstu.HSTU, table: Tensor, positions: Tensor, buckets: Tensor | None
) -> Tensor:
    """Their positions count from a history's first event: one row at a time, shifted."""
    found = []
    for row, items in enumerate(ITEMS):
        size = int((items > 0).sum())
        with torch.no_grad():
            model.positions.copy_(positions.roll(6 - size, 0))
            own = None if buckets is None else buckets[row : row + 1]
            found.append(model.encode(table[items][None], items[None] > 0, own)[0, 6 - size :])
    return torch.cat(found)


def test_states_equal_the_authors_without_times() -> None:
    model = encoder()
    table, positions = recorded_weights(model)
    with torch.no_grad():
        for block in model.blocks:  # theirs has no bias at all without times
            block.position.zero_()
    found = states_like_the_authors(model, table, positions, None)
    expected = torch.tensor(RECORDED["without_times"], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)  # 12 digits are recorded


def test_states_equal_the_authors_with_times() -> None:
    """Theirs asks at the time of the next event; ours is asked so here, and else at its own."""
    model = encoder()
    table, positions = recorded_weights(model)
    asked = torch.cat([TIMES[:, 1:], TARGET_TIMES[:, None]], dim=1)
    buckets = hstu.time_buckets(asked, TIMES, model.config)
    found = states_like_the_authors(model, table, positions, buckets)
    expected = torch.tensor(RECORDED["with_times"], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


# ---------------------------------------------------------------- plain loops


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def normed(row: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Row minus its mean, divided by its deviation."""
    spread: np.ndarray = (row - row.mean()) / math.sqrt(row.var() + eps)
    return spread


def looped(block: hstu.Block, rows: np.ndarray, times: list[int] | None) -> np.ndarray:
    """One layer over the real events of one history, [n, 6]; L = 6, two heads, d_qk 3, d_v 4."""
    weight = {name: p.detach().numpy() for name, p in block.named_parameters()}
    joined = [[silu(x) for x in normed(row) @ weight["project_in"]] for row in rows]
    gate, value, query, key = (
        np.array([row[a:b] for row in joined]) for a, b in ((0, 8), (8, 16), (16, 22), (22, 28))
    )
    found = []
    for i in range(len(rows)):
        mixed = np.zeros(8)
        for head in range(2):
            for j in range(i + 1):
                score = weight["position"][i - j]
                if times is not None:
                    gap = max(1, abs(times[i] - times[j]))
                    score += weight["time"][min(128, int(math.log(gap) / 0.301))]
                for d in range(3):
                    score += query[i, 3 * head + d] * key[j, 3 * head + d]
                for d in range(4):
                    mixed[4 * head + d] += silu(score) / 6 * value[j, 4 * head + d]
        gated = normed(mixed) * gate[i]
        out = weight["project_out.weight"] @ gated + weight["project_out.bias"]
        found.append(rows[i] + out)
    return np.array(found)


@pytest.mark.parametrize("time_bias", [False, True])
def test_states_equal_plain_loops(time_bias: bool) -> None:
    model = encoder(time_bias=time_bias)
    x = torch.randn(4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        found = model(x, History(ITEMS, times=TIMES if time_bias else None))
    for row, items in enumerate(ITEMS):
        size = int((items > 0).sum())
        positions = model.positions.detach().numpy()
        rows = (x[row].numpy() * math.sqrt(6) + positions)[6 - size :]
        times = TIMES[row, 6 - size :].tolist() if time_bias else None
        for block in model.blocks:
            assert isinstance(block, hstu.Block)
            rows = looped(block, rows, times)
        assert np.allclose(found[row, 6 - size :].numpy(), rows, rtol=0, atol=1e-11)
    assert not found[ITEMS == 0].any()


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0, 0), (1, 0), (2, 2), (5, 5), (60, 13), (86_400, 37), (10**9, 68)],
)
def test_bucket_of_a_time_difference(seconds: int, bucket: int) -> None:
    """floor(log(max(1, seconds)) / 0.301); either order of the two events."""
    times = torch.tensor([[7, 7 + seconds]])
    found = hstu.time_buckets(times, times, settings())
    assert found.tolist() == [[[0, bucket], [bucket, 0]]]
    assert hstu.time_buckets(times, times, settings(time_buckets=4)).max() == min(bucket, 4)


def test_parameter_count_of_a_block() -> None:
    """128 x 512 for U, V, Q, K; 128 x 128 + 128 for the output; 10 distances; 129 buckets."""
    made = hstu.Block(
        128, settings(history=10, heads=1, attention_width=128, linear_width=128), 0.1
    )
    counts = {name: p.numel() for name, p in made.named_parameters()}
    assert counts == {
        "project_in": 65_536,
        "position": 10,
        "time": 129,
        "project_out.weight": 16_384,
        "project_out.bias": 128,
    }
    assert counts["project_out.weight"] + counts["project_out.bias"] == 16_512


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_initial_values_have_the_references_spread(gain: float) -> None:
    """With gains of one; others are factors of it."""
    torch.manual_seed(0)
    sizes = {"history": 200, "heads": 1, "attention_width": 128, "linear_width": 128}
    made = hstu.HSTU(settings(**sizes, position_gain=gain, output_gain=gain), 128, 0)
    deviation = gain * 128**-0.5
    positions = made.positions.detach()
    assert positions.abs().max() <= 2 * deviation
    # A normal cut at two deviations keeps 0.8796 of its deviation; 25,600 draws: 0.5% off at most.
    assert float(positions.std()) == pytest.approx(0.8796 * deviation, rel=0.02)
    block = made.blocks[0]
    assert isinstance(block, hstu.Block)
    assert float(block.project_in.detach().std()) == pytest.approx(0.02, rel=0.02)
    bound = gain * math.sqrt(6 / 256)
    assert 0.99 * bound < float(block.project_out.weight.detach().abs().max()) <= bound
    assert 0.9 * deviation < float(block.project_out.bias.detach().abs().max()) <= deviation


def test_future_events_change_no_earlier_state() -> None:
    model = encoder()
    x = torch.randn(4, 6, 6, dtype=torch.float64)
    changed, later = x.clone(), TIMES.clone()
    changed[:, 4:] = torch.randn(4, 2, 6, dtype=torch.float64)
    later[:, 4:] += 10**8
    with torch.no_grad():
        before, after = (
            model(x, History(ITEMS, times=TIMES)),
            model(changed, History(ITEMS, times=later)),
        )
    assert torch.equal(before[:, :4], after[:, :4])
    real = ITEMS[:, 4:] > 0
    assert not torch.isclose(before[:, 4:][real], after[:, 4:][real]).any()


def test_padding_vectors_and_times_change_nothing() -> None:
    model = encoder()
    x = torch.randn(4, 6, 6, dtype=torch.float64)
    padded = ITEMS == 0
    changed = torch.where(padded[..., None], x + 5, x)
    other = torch.where(padded, torch.tensor(999_999_999), TIMES)
    with torch.no_grad():
        before, after = (
            model(x, History(ITEMS, times=TIMES)),
            model(changed, History(ITEMS, times=other)),
        )
    assert torch.equal(before[~padded], after[~padded])


def test_longer_padding_changes_only_the_divisor() -> None:
    """With twice the L all of A is halved; LN(A V) undoes it but for its epsilon."""
    short, long = encoder(history=6, norm_eps=1e-300), encoder(history=12, norm_eps=1e-300)
    with torch.no_grad():
        for ours, theirs in zip(long.blocks, short.blocks, strict=True):
            for name, parameter in ours.named_parameters():
                given = theirs.get_parameter(name)
                parameter.copy_(F.pad(given, (0, 6)) if name == "position" else given)
        long.positions.copy_(F.pad(short.positions, (0, 0, 6, 0)))
        x = torch.randn(4, 6, 6, dtype=torch.float64)
        found = long(
            F.pad(x, (0, 0, 6, 0)), History(F.pad(ITEMS, (6, 0)), times=F.pad(TIMES, (6, 0)))
        )
        assert torch.allclose(
            found[:, 6:], short(x, History(ITEMS, times=TIMES)), rtol=0, atol=1e-12
        )


# ---------------------------------------------------------------- in training


def trained(params: config.Params, inputs: Any, **changes: Any) -> list[float]:
    """Losses of an `id` cell on the tiny walk."""
    from pipeline.methods import id as method

    train = params.train
    sizes = settings(history=5, **changes)
    parts = Parts(
        train,
        lambda width: hstu.build(sizes, width, train.dropout),
        lambda: ranking_loss(train.loss, np.ones(len(inputs.catalog) + 1)),
    )
    made = initialised(lambda: method.build(method.Config(), inputs, parts), 0)
    assert isinstance(made, Method)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    curves = fit(made, inputs.sequences, train, 0).curves
    assert not [n for n, p in made.model.named_parameters() if torch.equal(p, before[n])]
    return [value for _, _, name, value in curves if name == "train/loss"]


def test_every_part_is_trained_and_times_reach_it(params: config.Params, inputs: Any) -> None:
    data = inputs.sequences
    inputs.sequences = replace(data, times=np.arange(len(data.items)) ** 2)
    slow = trained(params, inputs, time_bias=True)
    inputs.sequences = replace(data, times=np.arange(len(data.items)) ** 3)
    assert trained(params, inputs, time_bias=True) != slow


CELL = {"dataset": "demo", "encoder": "none", "backbone": "hstu", "method": "id"}


def prepared(folder: Path, *, time_bias: bool) -> Experiment:
    """The cell with small sizes."""
    small = {"train.width": 8, "train.max_epochs": 2, "backbones.hstu.time_bias": time_bias}
    return Experiment.prepare(load(folder / "params.yaml", small), folder / "artifacts", 1, CELL)


def test_data_without_times_are_refused_by_name(tiny_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbones\.hstu reads .* data set demo has no times"):
        prepared(tiny_root, time_bias=True)
    prepared(tiny_root, time_bias=False)


def test_a_cell_with_times_trains_and_ranks(tiny_root: Path) -> None:
    root = tiny_root / "artifacts"
    data = Sequences.load(root, "demo", Catalog.load(root, "demo"))
    replace(data, times=np.arange(len(data.items)) * 3_600).save(root, "demo", {})
    found = prepared(tiny_root, time_bias=True).run_seed(
        0, device="cpu", checkpoint=Checkpoint(), log=lambda *a, **k: None, advance=lambda n: None
    )
    assert len(found["ranks"]) == 2 * data.num_users
