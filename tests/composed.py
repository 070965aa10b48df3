"""Small whole methods that several tests train, composed as cells are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from pipeline import config, naming
from pipeline.backbones import bert4rec, hstu, sasrec
from pipeline.config import Loss
from pipeline.model import Backbone, Method, Parts
from pipeline.objectives.ranking import ranking_loss
from pipeline.training.fit import initialised

LENGTH = 5

BACKBONES: dict[str, Callable[[int, float], Backbone]] = {
    "sasrec": lambda width, dropout: sasrec.build(
        sasrec.Config(history=LENGTH, blocks=2, heads=2, init_std=0.02, norm_eps=1e-8),
        width,
        dropout,
    ),
    "bert4rec": lambda width, dropout: bert4rec.build(
        bert4rec.Config(
            history=LENGTH,
            blocks=1,
            heads=2,
            inner=4,
            rho=0.4,
            last_only=0.1,
            init_std=0.02,
            norm_eps=1e-12,
        ),
        width,
        dropout,
    ),
    **{
        name: lambda width, dropout, times=times: hstu.build(  # type: ignore[misc]
            hstu.Config(
                history=LENGTH,
                blocks=1,
                heads=2,
                attention_width=4,
                linear_width=4,
                time_bias=times,
                time_buckets=8,
                time_scale=1.0,
                scale_input=True,
                init_std=0.02,
                position_gain=1.0,
                output_gain=1.0,
                norm_eps=1e-6,
            ),
            width,
            dropout,
        )
        for name, times in (("hstu", False), ("hstu_times", True))
    },
}

SAMPLED = {"negatives": 6, "negatives_from": "trained", "similarity": "dot", "temperature": 1.0}
LOSSES: dict[str, dict[str, Any]] = {
    "infonce": {**SAMPLED, "similarity": "cosine", "temperature": 0.07},
    "softmax": {"similarity": "cosine", "temperature": 0.07},
    "sampled_softmax": {**SAMPLED, "sampling_power": 0.5},
    "bce": SAMPLED,
    "gbce": {**SAMPLED, "calibration": 0.75},
}


def distinct(blocks: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the first block of a method of those that differ in their values of `train` only."""
    first: dict[str, str] = {}
    for name in blocks:
        settings = naming.settings("methods", name, blocks)
        first.setdefault(f"{naming.file_of('methods', name, blocks)} {settings}", name)
    return list(first.values())


def loss(name: str) -> Loss:
    """Return a ranking loss by its name."""
    return TypeAdapter(Loss).validate_python({"name": name, **LOSSES[name]})


def method(
    params: config.Params,
    inputs: Any,
    seed: int = 0,
    name: str = "spectran",
    backbone: str = "sasrec",
    *,
    train: config.TrainConfig | None = None,
    dropout: float = 0.2,
) -> Method:
    """Compose a method of params.yaml, or a variant, with one of BACKBONES."""
    how = train or params.train
    parts = Parts(
        how,
        lambda width: BACKBONES[backbone](width, dropout),
        lambda: ranking_loss(how.loss, inputs.sequences.train_counts()),
    )
    settings = naming.settings("methods", name, params.methods)
    build = naming.module("methods", naming.file_of("methods", name, params.methods)).build
    made = initialised(lambda: build(settings, inputs, parts), seed)
    assert isinstance(made, Method)
    return made
