"""The loss block of params.yaml, what it draws, and how the report puts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from pipeline.config import Loss, Params
from pipeline.errors import ConfigError
from pipeline.params import load
from pipeline.randomness import generator
from pipeline.reporting.protocol import loss
from pipeline.sampling.negatives import Pool

COUNTS = np.array([0, 4, 0, 1, 9])

SAMPLED = {"negatives": 64, "negatives_from": "trained", "similarity": "cosine", "temperature": 0.1}
BLOCKS: dict[str, dict[str, Any]] = {
    "infonce": {**SAMPLED},
    "softmax": {"similarity": "dot", "temperature": 1.0},
    "sampled_softmax": {**SAMPLED, "sampling_power": 0.5},
    "bce": {**SAMPLED, "negatives": 1},
    "gbce": {**SAMPLED, "negatives_from": "catalogue", "calibration": 0.75},
}


def config(name: str, **changes: Any) -> Any:
    return TypeAdapter(Loss).validate_python({"name": name, **BLOCKS[name], **changes})


def params(name: str, **changes: Any) -> Params:
    return load(Path("params.yaml"), {"train.loss": {"name": name, **BLOCKS[name], **changes}})


# ---------------------------------------------------------------- params.yaml


@pytest.mark.parametrize("name", BLOCKS)
def test_a_loss_dumps_what_its_block_says_and_no_more(name: str) -> None:
    """The dump is part of every result's identity."""
    block = {"name": name, **BLOCKS[name]}
    assert params(name).train_for("toys").model_dump(mode="json")["loss"] == block


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("infonce", "calibration"),
        ("softmax", "negatives"),
        ("softmax", "draw_power"),
        ("sampled_softmax", "calibration"),
        ("bce", "sampling_power"),
        ("gbce", "sampling_power"),
    ],
)
def test_a_field_of_another_loss_is_refused(name: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.loss\.{key}: unknown key"):
        params(name, **{key: 1})


def test_a_missing_field_and_an_unknown_loss_are_refused() -> None:
    block = {key: value for key, value in BLOCKS["gbce"].items() if key != "calibration"}
    with pytest.raises(ConfigError, match=r"train\.loss\.calibration: missing"):
        load(Path("params.yaml"), {"train.loss": {"name": "gbce", **block}})
    with pytest.raises(ConfigError, match=r"train\.loss: Input tag 'hinge'.*'gbce'"):
        load(Path("params.yaml"), {"train.loss": {"name": "hinge"}})


@pytest.mark.parametrize(("key", "value"), [("calibration", 1.5), ("sampling_power", -0.1)])
def test_shares_lie_between_zero_and_one(key: str, value: float) -> None:
    name = "gbce" if key == "calibration" else "sampled_softmax"
    with pytest.raises(ConfigError, match=rf"{key}: Input should be"):
        params(name, **{key: value})


# ---------------------------------------------------------------- negatives


def test_uniform_negatives_are_those_of_earlier_runs() -> None:
    """Drawn by one call of torch.randint: another way would change every recorded result."""
    for source, items in (("trained", [1, 3, 4]), ("catalogue", [1, 2, 3, 4])):
        pool = Pool.of(config("infonce", negatives_from=source), COUNTS)
        drawn = pool.draw(5, 7, generator(3, "negatives"))
        again = torch.randint(len(items), (5, 7), generator=generator(3, "negatives"))
        assert torch.equal(drawn, torch.tensor(items)[again])


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weighted_negatives_come_as_often_as_their_probability_says(power: float) -> None:
    pool = Pool.of(config("sampled_softmax", sampling_power=power), COUNTS)
    shares = COUNTS**power * (COUNTS > 0) / (COUNTS[COUNTS > 0] ** power).sum()
    assert np.allclose(pool.log_probability(4).exp(), shares, atol=1e-15)
    drawn = pool.draw(400, 100, generator(0, "negatives")).flatten()
    found = np.bincount(drawn, minlength=5) / len(drawn)
    # one deviation of a share of 40,000 draws is at most 0.0025
    assert np.allclose(found, shares, atol=0.0125)
    assert found[0] == found[2] == 0


def test_negatives_from_events_come_as_often_as_items_have_events() -> None:
    pool = Pool.of(config("infonce", negatives_from="events"), COUNTS)
    assert np.allclose(pool.log_probability(4).exp(), COUNTS / COUNTS.sum(), atol=1e-15)
    events = np.repeat(np.arange(5), COUNTS)  # drawn evenly, in the order of items
    level = torch.rand((6, 50), dtype=torch.float64, generator=generator(1, "negatives"))
    expected = events[(level * len(events)).long().numpy()]
    assert np.array_equal(pool.draw(6, 50, generator(1, "negatives")), expected)


@pytest.mark.parametrize("name", ["sampled_softmax", "gbce"])
def test_losses_that_count_on_their_draws_refuse_those_by_events(name: str) -> None:
    with pytest.raises(ConfigError, match="negatives_from: events is not for this loss"):
        params(name, negatives_from="events")


def test_draws_by_training_events_refuse_items_that_have_none() -> None:
    with pytest.raises(ConfigError, match=r"sampling_power: 0[.]5 never draws items"):
        params("sampled_softmax", negatives_from="catalogue", sampling_power=0.5)


def test_softmax_draws_nothing() -> None:
    how = config("softmax")
    assert Pool.of(how, COUNTS).draw(3, how.negatives, generator(0)).shape == (3, 0)


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (config("infonce"), "infonce, 64 negatives from items with a training event, cosine / 0.1"),
        (
            config("infonce", negatives_from="events"),
            "infonce, 64 negatives from the training events, popular items more often, "
            "cosine / 0.1",
        ),
        (config("softmax"), "softmax over the whole catalogue, dot / 1"),
        (
            config("sampled_softmax"),
            "sampled_softmax, 64 negatives from items with a training event drawn by training "
            "events ^ 0.5, log-q corrected, cosine / 0.1",
        ),
        (
            config("sampled_softmax", sampling_power=0, negatives_from="catalogue"),
            "sampled_softmax, 64 negatives from the whole catalogue drawn uniformly, log-q "
            "corrected, cosine / 0.1",
        ),
        (config("bce"), "bce, 1 negative from items with a training event, cosine / 0.1"),
        (
            config("gbce"),
            "gbce, 64 negatives from the whole catalogue, calibration 0.75, cosine / 0.1",
        ),
    ],
)
def test_the_protocol_names_the_loss(how: Any, words: str) -> None:
    assert loss(how) == words
