"""How many numbers training changes, counted apart for the backbone and the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import config, naming
from pipeline.backbones import sasrec
from pipeline.methods import llm_esr, rlmrec, spectran
from pipeline.model import Method, MethodConfig, Parts, Phase
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import read_yaml
from pipeline.training.parameters import trained_numbers

METHODS = read_yaml(Path("params.yaml"))["methods"]
N, H, D = 24, 12, 8
ENCODER = 2 * (4 * D + (3 * D * D + 3 * D) + 3 * (D * D + D)) + 5 * D + 2 * D
"""SASRec by hand: per block two norms, three projections in and one out, two feed-forward layers;
five positions; the last norm."""


def made(module: Any, params: config.Params, inputs: Any, **changes: Any) -> Method:
    name = module.__name__.rpartition(".")[2]
    settings = naming.settings("methods", name, METHODS).model_copy(update=changes)
    assert isinstance(settings, MethodConfig)
    shape = sasrec.Config(history=5, blocks=2, heads=1, init_std=0.02, norm_eps=1e-8)
    parts = Parts(
        params.train,
        lambda width: sasrec.build(shape, width, 0.1),
        lambda: ranking_loss(params.train.loss, inputs.sequences.train_counts()),
    )
    method: Method = module.build(settings, inputs, parts)
    return method


def test_spectran_counts_ids_queries_keys_lambda_and_coefficients(
    params: config.Params, inputs: Any
) -> None:
    found = trained_numbers(made(spectran, params, inputs, query_width=6))
    assert found.method == (N + 1) * D + 6 * (D + H) + 1 + 4
    assert found.backbone == ENCODER


def test_what_only_the_loss_uses_counts(params: config.Params, inputs: Any) -> None:
    """The projector of RLMRec ranks nothing, but is trained."""
    inner = (H + D) // 2
    projector = H * inner + inner + inner * D + D
    assert trained_numbers(made(rlmrec, params, inputs)).method == (N + 1) * D + projector


def test_a_shared_backbone_counts_once(params: config.Params, inputs: Any) -> None:
    method = made(llm_esr, params, inputs)
    half = D // 2
    blocks = 2 * (4 * half + (3 * half * half + 3 * half) + 3 * (half * half + half))
    assert trained_numbers(method).backbone == blocks + 7 * half


@pytest.mark.parametrize("order", [0, 1])
def test_frozen_parameters_do_not_count(params: config.Params, inputs: Any, order: int) -> None:
    """Two phases train two parts: both count, and what neither trains does not."""
    method = made(spectran, params, inputs, query_width=6)
    ((_, ranking),) = method.phases[0].objectives.values()
    phases = [
        Phase(name="ids", objectives={"ranking": (1.0, ranking)}, train=("adapters.item.id",)),
        Phase(name="blocks", objectives={"ranking": (1.0, ranking)}, train=("backbones.*.norm.*",)),
    ]
    found = trained_numbers(Method(model=method.model, phases=tuple(phases[order:])))
    assert found == ((N + 1) * D if order == 0 else 0, 2 * D)
