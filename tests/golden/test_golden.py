"""Recorded numbers of the costly stages, tied to their revision.

A change of code that moves them must bump revisions.yaml, so that `dvc repro` repeats the stage;
`make golden` then records the new numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from pipeline import naming
from pipeline.backbones import bert4rec, sasrec
from pipeline.config import Loss, Params, TrainConfig
from pipeline.encoders import open_encoder
from pipeline.model import Backbone, Method, Parts
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import read_yaml
from pipeline.training.fit import fit, initialised

RECORD = Path(__file__).with_name("recorded.json")
RECORDING = os.environ.get("SPECTRAN_GOLDEN") == "record"
METHODS = [
    name
    for name in naming.names("methods")
    if naming.module("methods", name).build.__annotations__["return"] == "Method"
]
TITLES = ["Wooden Train Set, 40 pieces", "Card game for two", "Red wooden train"]


def compare(stage: str, name: str, found: list[float], tolerance: float) -> None:
    revision = read_yaml(Path("revisions.yaml"))[stage]
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if RECORDING:
        recorded.setdefault(stage, {})[name] = {"revision": revision, "values": found}
        RECORD.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
        return
    known = recorded.get(stage, {}).get(name)
    assert known is not None, f"{stage} {name}: nothing recorded. Run: make golden"
    assert known["revision"] == revision, f"revisions.yaml: {stage} was bumped. Run: make golden"
    moved = f"{stage} {name}: the numbers moved. Bump `{stage}` in revisions.yaml, run make golden."
    assert np.allclose(found, known["values"], rtol=tolerance, atol=tolerance), moved


SAMPLED = {"negatives": 6, "negatives_from": "trained", "similarity": "cosine", "temperature": 0.07}
LOSSES: dict[str, dict[str, Any]] = {
    "softmax": {"similarity": "cosine", "temperature": 0.07},
    "sampled_softmax": {**SAMPLED, "sampling_power": 0.5},
    "bce": {**SAMPLED},
    "gbce": {**SAMPLED, "calibration": 0.75},
}


def first_losses(
    method: str, params: Params, inputs: Any, encoder: Callable[[int], Backbone], train: TrainConfig
) -> list[float]:
    """Twenty epochs of three steps each; other CPUs may differ in the last bits of every step."""
    train = train.model_copy(update={"max_epochs": 20, "patience": 20})
    counts = inputs.sequences.train_counts()
    parts = Parts(train, encoder, lambda: ranking_loss(train.loss, counts))
    settings = naming.settings("methods", method, params.methods)
    build = naming.module("methods", method).build
    made = initialised(lambda: build(settings, inputs, parts), 0)
    assert isinstance(made, Method)
    curves = fit(made, inputs.sequences, train, 0).curves
    return [v for _, _, kind, v in curves if kind == "train/loss"]


def small_sasrec(params: Params) -> Callable[[int], Backbone]:
    sizes = sasrec.Config(history=5, blocks=2, heads=1, init_std=0.02, norm_eps=1e-8)
    return lambda width: sasrec.build(sizes, width, params.train.dropout)


@pytest.mark.parametrize("name", METHODS)
def test_first_losses(name: str, params: Params, inputs: Any) -> None:
    found = first_losses(name, params, inputs, small_sasrec(params), params.train)
    compare("train", name, found, 1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_first_values_of_other_losses(name: str, params: Params, inputs: Any) -> None:
    block = TypeAdapter(Loss).validate_python({"name": name, **LOSSES[name]})
    train = params.train.model_copy(update={"loss": block})
    found = first_losses("id", params, inputs, small_sasrec(params), train)
    compare("train", f"id, {name}", found, 1e-4)


@pytest.mark.parametrize("name", ["id", "spectran"])
def test_first_losses_with_cloze_targets(name: str, params: Params, inputs: Any) -> None:
    sizes = bert4rec.Config(
        history=5, blocks=2, heads=1, inner=4, rho=0.4, last_only=0.1, init_std=0.02, norm_eps=1e-12
    )

    def encoder(width: int) -> Backbone:
        return bert4rec.build(sizes, width, params.train.dropout)

    found = first_losses(name, params, inputs, encoder, params.train)
    compare("train", f"{name}, bert4rec", found, 1e-4)


@pytest.mark.parametrize("name", ["hash", "minilm"])
def test_embeddings(name: str, params: Params) -> None:
    """First entries of three titles; batches move MiniLM by 1.5e-7."""
    values = open_encoder(params.encoder(name), Path(), "cpu").encode(TITLES)
    compare("encode", name, [round(float(v), 7) for v in values[:, :8].ravel()], 1e-5)
