"""UniSRec, RLMRec and LLM-ESR against numbers from the authors' code and AlphaFuse's.

text_baselines.json was recorded by running the public code (repositories and commits stand in it)
in float32 on a CPU, with the inputs below: unit text rows times 40 (times 1 in the code of RLMRec's
authors), an ID table, and every weight drawn in this order from one generator. AlphaFuse numbers
items from 0 and pads with N.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import naming
from pipeline.adapters import text_rows
from pipeline.backbones import sasrec
from pipeline.fusion import CrossViews
from pipeline.layers.draws import handed
from pipeline.layers.dropout import dropout
from pipeline.methods import llm_esr, rlmrec, unisrec
from pipeline.model import Method, Parts, with_padding
from pipeline.objectives.alignment import Alignment, ItemToText, SoftContrast, TextToItem
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import load
from pipeline.sampling.batches import Batch, History
from pipeline.spectral.coordinates import leading
from pipeline.values import SemanticEmbeddings, Spectrum

N, H, D, E, L = 7, 6, 4, 8, 5
INNER = (H + D) // 2
HISTORIES = torch.tensor([[0, 0, 3, 1, 2], [4, 2, 2, 5, 1], [0, 0, 0, 0, 7]])
RECORDED = json.loads(Path(__file__).with_name("text_baselines.json").read_text())
ROUNDING = 2e-5
"""float32 sums in another order."""


class Drawn:
    """What the recorded runs were given, in the order of drawing."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)

        def draw(size: float, *shape: int) -> Tensor:
            values = rng.normal(size=shape).astype(np.float32)
            return torch.from_numpy(values * np.float32(size))

        rows = rng.normal(size=(N, H)).astype(np.float32) + np.float32(0.5)
        self.rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.experts = (draw(0.3, E, D, H), draw(1, E, H), draw(0.1, H, E), draw(0.1, H, E))
        self.ids = draw(1, N, D)
        shapes = [(INNER, H), (INNER,), (D, INNER), (D,)]
        self.con = [draw(0.3, *shape) for shape in shapes]
        shapes = [(INNER, D), (INNER,), (H, INNER), (H,)]
        self.gen = [draw(0.3, *shape) for shape in shapes]
        shapes = [(H // 2, H), (H // 2,), (D, H // 2), (D,)]
        sizes = (0.1, 0.1, 0.3, 0.3)
        self.adapter = [draw(s, *shape) for s, shape in zip(sizes, shapes, strict=True)]
        shapes = [(D, D)] * 4 + [(D,)]
        self.attention = [[draw(0.5, *shape) for shape in shapes] for _ in range(2)]

    def semantic(self) -> SemanticEmbeddings:
        return SemanticEmbeddings(np.pad(self.rows, ((1, 0), (0, 0))), "")

    def text(self) -> Tensor:
        return text_rows(self.semantic(), 40.0)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return Drawn()


def fill(module: torch.nn.Module, values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)


def settings(name: str, **changes: Any) -> Any:
    blocks = load(Path("params.yaml"), {}).methods
    return naming.settings("methods", name, {name: blocks[name] | changes})


def close(found: Tensor | None, recorded: Any) -> bool:
    assert found is not None
    expected = torch.tensor(recorded, dtype=torch.float32)
    assert found.shape == expected.shape
    return torch.allclose(found.detach(), expected, rtol=ROUNDING, atol=ROUNDING)


def batch(histories: Tensor = HISTORIES) -> Batch:
    return Batch(History(histories), torch.ones_like(histories), torch.ones(len(histories), 1))


# ---------------------------------------------------------------- unisrec


def mixture(drawn: Drawn, text_dropout: float) -> unisrec.Mixture:
    made = unisrec.Mixture(H, D, settings("unisrec", text_dropout=text_dropout))
    fill(made, list(drawn.experts))
    return made


def test_unisrec_table_equals_the_authors(drawn: Drawn) -> None:
    made = mixture(drawn, 0.2).eval()
    assert close(made(drawn.text()), RECORDED["unisrec"]["table"])


def test_unisrec_noise_and_gradients_equal_the_authors(drawn: Drawn) -> None:
    """Same seed of torch's global generator, no dropout: masks are shared here, not there."""
    made = mixture(drawn, 0.0).train()
    recorded = RECORDED["unisrec"]
    torch.manual_seed(11)
    table = made(drawn.text())
    assert close(table, recorded["table_in_training"])
    table.square().sum().backward()
    size = 1e4  # gradients of 10^2 to 10^5 from text of norm 40
    for found, name in (
        (made.noise.grad, "gradient_noise"),
        (made.gate.grad, "gradient_gate"),
        (made.bias.grad[0] if made.bias.grad is not None else None, "gradient_bias_first_expert"),
    ):
        assert found is not None
        assert close(found / size, (np.array(recorded[name]) / size).tolist())


def test_unisrec_drops_text_before_the_experts_and_not_before_the_gate(drawn: Drawn) -> None:
    """By hand: the gate's noise is drawn first, then one mask that all experts share."""
    made = mixture(drawn, 0.5).train()
    weight, bias, gate, noise = (p.detach() for p in made.parameters())
    torch.manual_seed(3)
    found = made(drawn.text())
    text = drawn.text()
    torch.manual_seed(3)
    level = torch.nn.functional.softplus(text @ noise) + made.noise_floor
    shares = (text @ gate + torch.randn(N, E) * level).softmax(1)
    left = dropout(text, 0.5, True)
    assert 0.3 * text.numel() < int((left == 0).sum()) < 0.7 * text.numel()
    expected = sum(shares[:, k, None] * ((left - bias[k]) @ weight[k].T) for k in range(E))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_unisrec_starts_as_the_mean_of_its_experts() -> None:
    made = unisrec.Mixture(H, D, settings("unisrec")).eval()
    x = torch.randn(3, H)
    assert torch.allclose(made(x), torch.stack([x @ w.T for w in made.weight]).mean(0), atol=1e-6)


# ---------------------------------------------------------------- rlmrec


def rlmrec_gradients(
    config: rlmrec.Config, drawn: Drawn, vectors: Tensor, order: list[int] | None = None
) -> tuple[Tensor, Tensor, torch.nn.Sequential]:
    """Return the loss, the gradient of the item table, and the projector with its gradients.

    vectors: [N, D]; order: the items of the step, in this order, instead of all.
    """
    con = config.kind == "con"
    projector = rlmrec.projector(*((H, D) if con else (D, H)), config)
    fill(projector, drawn.con if con else drawn.gen)
    rows = text_rows(drawn.semantic(), config.scale)
    pair = (TextToItem if con else ItemToText)(rows, projector)
    count = None if order is None else len(order)
    term = Alignment("item", pair, rlmrec.loss_of(config), count)
    table = with_padding(vectors).requires_grad_()
    with handed(lambda what, device: torch.tensor(order) - 1):
        loss = term(None, batch(), {"item": table}, {})  # type: ignore[arg-type]
    loss.backward()
    assert table.grad is not None
    assert not table.grad[0].any()
    return loss, table.grad[1:], projector


@pytest.mark.parametrize("kind", ["con", "gen"])
def test_rlmrec_loss_equals_alphafuse(kind: str, drawn: Drawn) -> None:
    config = settings("rlmrec", kind=kind)
    loss, gradient, projector = rlmrec_gradients(config, drawn, drawn.ids)
    recorded = RECORDED[f"rlmrec_{kind}"]
    assert close(loss, recorded["loss"])
    assert close(gradient, recorded["gradient_ids"])
    assert close(projector[0].weight.grad, recorded["gradient_first_weight"])


@pytest.mark.parametrize(("name", "kind"), [("rlmrec_infonce", "con"), ("rlmrec_gen", "gen")])
def test_rlmrec_contrast_equals_the_authors(name: str, kind: str, drawn: Drawn) -> None:
    """The variants hold the authors' temperatures and scale."""
    config, recorded = settings(name), RECORDED[f"rlmrec_{kind}_infonce"]
    assert (config.kind, config.temperature) == (kind, recorded["temperature"])
    loss, gradient, projector = rlmrec_gradients(config, drawn, drawn.ids)
    assert close(loss, recorded["loss"])
    assert close(gradient, recorded["gradient_ids"])
    assert close(projector[0].weight.grad, recorded["gradient_first_weight"])
    assert close(projector[2].weight.grad, recorded["gradient_last_weight"])


def test_rlmrec_reconstruction_of_masked_items_equals_the_authors(drawn: Drawn) -> None:
    """Of what propagation gave the masked items: drawn items are the authors' masked ones."""
    recorded = RECORDED["rlmrec_gen_infonce_masked"]
    loss, gradient, projector = rlmrec_gradients(
        settings("rlmrec_gen"), drawn, torch.tensor(recorded["vectors"]), recorded["items"]
    )
    assert close(loss, recorded["loss"])
    assert close(gradient, recorded["gradient_vectors"])
    assert close(projector[0].weight.grad, recorded["gradient_first_weight"])
    assert close(projector[2].weight.grad, recorded["gradient_last_weight"])


# ---------------------------------------------------------------- llm_esr


def centred(rows: np.ndarray) -> Spectrum:
    mean = rows.mean(0)
    u, s, vt = np.linalg.svd(rows - mean, full_matrices=False)
    parts = (mean, u, s, vt.T)
    return Spectrum("centred", *(p.astype(np.float32) for p in parts), "")


def test_llm_esr_item_vectors_equal_alphafuse(drawn: Drawn) -> None:
    """ID view: standardised principal coordinates, whose signs are free; then the text view."""
    table = np.array(RECORDED["llm_esr_table"], np.float32)
    ids = leading(centred(drawn.rows * 40), D, standardize=True)
    signs = np.sign(ids[0]) * np.sign(table[0, :D])
    assert np.allclose(ids * signs, table[:, :D], atol=ROUNDING)
    mapping = llm_esr.TwoLinear(H, D, 1.0)
    fill(mapping, drawn.adapter)
    assert close(mapping(drawn.text()), table[:, D:].tolist())


def test_llm_esr_starts_its_ids_at_those_coordinates(drawn: Drawn) -> None:
    """Entries are brought to the standard deviation asked for; AlphaFuse's columns have 1."""
    inputs = SimpleNamespace(
        semantic=drawn.semantic(), spectrum=lambda view: centred(drawn.rows), catalog=range(N)
    )
    made = build("llm_esr", inputs, width=2 * D, id_std=1.0)
    ids = made.model.adapters["id"].weight.detach()[1:].numpy()
    table = np.array(RECORDED["llm_esr_table"], np.float32)[:, :D]
    signs = np.sign(ids[0]) * np.sign(table[0])
    size = np.sqrt((N - 1) / (N - 1 / D))  # deviation over all entries, not per column
    assert np.allclose(ids * signs * size, table, atol=ROUNDING)


def test_llm_esr_may_start_its_ids_with_columns_of_their_own_sizes(drawn: Drawn) -> None:
    """Then they are the centred rows along the leading directions, but for one factor."""
    inputs = SimpleNamespace(
        semantic=drawn.semantic(), spectrum=lambda view: centred(drawn.rows), catalog=range(N)
    )
    made = build("llm_esr", inputs, width=2 * D, id_std=0.1, standardize=False)
    ids = made.model.adapters["id"].weight.detach()[1:].numpy()
    rows = drawn.rows - drawn.rows.mean(0)
    expected = rows @ np.linalg.svd(rows, full_matrices=False)[2][:D].T
    expected *= 0.1 / expected.std(ddof=1)
    assert np.allclose(ids, expected * np.sign((ids * expected).sum(0)), atol=ROUNDING)


def test_llm_esr_cross_attention_equals_the_authors(drawn: Drawn) -> None:
    """Their mask is not causal: recorded at the last position of every prefix."""
    fusion = CrossViews("id", "text", width=D, heads=2, init_gain=1.0)
    fill(fusion.answers["id"], drawn.attention[0])
    fill(fusion.answers["text"], drawn.attention[1])
    mapping = llm_esr.TwoLinear(H, D, 1.0)
    fill(mapping, drawn.adapter)
    tables = {"id": with_padding(drawn.ids), "text": with_padding(mapping(drawn.text()))}
    x = {name: table[HISTORIES] for name, table in tables.items()}
    found = fusion.mix(x, History(HISTORIES))
    assert close(found["id"], RECORDED["llm_esr_cross"]["id"])
    assert close(found["text"], RECORDED["llm_esr_cross"]["text"])


@pytest.mark.parametrize("temperature", [1, 0.5])
def test_llm_esr_contrast_equals_the_authors(temperature: float, drawn: Drawn) -> None:
    mapping = llm_esr.TwoLinear(H, D, 1.0)
    fill(mapping, drawn.adapter)
    tables = {
        "id": with_padding(0.5 * drawn.ids).requires_grad_(),
        "text": with_padding(mapping(drawn.text())).detach().requires_grad_(),
    }
    term = SoftContrast("text", "id", temperature)
    loss = term(None, batch(), tables, {})  # type: ignore[arg-type]
    loss.backward()
    recorded = RECORDED[f"llm_esr_contrast_{temperature}"]
    assert close(loss, recorded["loss"])
    for name, table in tables.items():
        assert table.grad is not None
        assert close(table.grad[1:], recorded[f"gradient_{name}"])
        assert not table.grad[0].any()


def test_llm_esr_contrast_equals_a_loop_over_its_definition() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 4, 3))
    items = [2, 1, 2, 3]  # an item that occurs twice counts twice

    def softmax(values: list[float]) -> np.ndarray:
        powers = np.exp(np.array(values))
        return powers / powers.sum()

    total, tau = 0.0, 0.7
    for i in items:
        p = softmax([x[i] @ y[j] / tau for j in items])
        q = softmax([y[i] @ x[j] / tau for j in items])
        forth = softmax([tau * (x[i] @ x[j] + y[i] @ y[j]) / 2 for j in items])
        back = [
            softmax([tau * (x[j] @ x[k] + y[j] @ y[k]) / 2 for k in items])[items.index(i)]
            for j in items
        ]
        total -= float(forth @ np.log(p) + np.array(back) @ np.log(q)) / 2
    tables = {"text": torch.from_numpy(x), "id": torch.from_numpy(y)}
    found = SoftContrast("text", "id", tau)(None, batch(torch.tensor([[0, *items]])), tables, {})  # type: ignore[arg-type]
    assert float(found) == pytest.approx(total / len(items), abs=1e-12)


# ---------------------------------------------------------------- sizes


def build(name: str, inputs: Any, width: int, **changes: Any) -> Method:
    train = load(Path("params.yaml"), {"train.width": width}).train
    sizes = sasrec.Config(history=10, blocks=2, heads=1, init_std=0.02, norm_eps=1e-8)
    parts = Parts(
        train,
        lambda width: sasrec.build(sizes, width, 0.0),
        lambda: ranking_loss(train.loss, np.ones(len(inputs.catalog) + 1)),
    )
    made = naming.module("methods", name).build(settings(name, **changes), inputs, parts)
    assert isinstance(made, Method)
    return made


TOYS_ITEMS, TOYS_WIDTH, FEW = 11_757, 4_096, 150
TABLE = (TOYS_ITEMS + 1) * 128
"""Of ID vectors; the padding row counts."""
ENCODER = 2 * (4 * 128 + 6 * 128 * 128 + 6 * 128) + 10 * 128 + 2 * 128
"""SASRec: per block two norms, four projections of the attention and two feed-forward layers; ten
positions; the last norm."""


@cache
def few_toys() -> SimpleNamespace:
    values = np.random.default_rng(0).normal(size=(FEW + 1, TOYS_WIDTH)).astype(np.float32)
    values[0] = 0
    return SimpleNamespace(
        semantic=SemanticEmbeddings(values, ""),
        spectrum=cache(lambda view: centred(values[1:])),
        catalog=range(FEW),
    )


def parameters_on_toys(name: str, **changes: Any) -> int:
    """Count with few items, then add the rows of the ID table: nothing else grows with N."""
    made = build(name, few_toys(), width=128, **changes)
    terms = [term for phase in made.phases for _, term in phase.objectives.values()]
    whole = torch.nn.ModuleList([made.model, *terms])
    counts = {p: p.numel() for p in whole.parameters()}
    per_item = sum(p.shape[1] for p in counts if p.dim() == 2 and len(p) == FEW + 1)
    return sum(counts.values()) + per_item * (TOYS_ITEMS - FEW)


def test_sasrec_parameter_count_of_the_paper() -> None:
    """SpecTran Table 5: 1.70M. LLMInit has the same: only its start is another."""
    assert parameters_on_toys("id") == TABLE + ENCODER == 1_705_728
    assert parameters_on_toys("llminit") == 1_705_728


@pytest.mark.parametrize("name", ["morec", "whitenrec"])
def test_one_linear_layer_takes_the_place_of_the_id_table(name: str) -> None:
    assert parameters_on_toys(name) == TOYS_WIDTH * 128 + 128 + ENCODER == 725_120
    assert parameters_on_toys(name, fusion="add") == 725_120 + TABLE
    beside = TOYS_WIDTH * 64 + 64 + ENCODER + TABLE // 2
    assert parameters_on_toys(name, fusion="concat") == beside


def test_alphafuse_has_half_an_id_table_and_nothing_else() -> None:
    """64 of the 128 columns carry ID vectors; the others are frozen."""
    assert parameters_on_toys("alphafuse") == TABLE // 2 + ENCODER


def test_unisrec_parameter_count_of_the_paper() -> None:
    """SpecTran Table 5: 3.15M, 64 ID and 64 text columns."""
    assert parameters_on_toys("unisrec", fusion="concat") == 3_148_672


def test_rlmrec_parameter_count_of_the_paper() -> None:
    """SpecTran Table 5: 9.60M, a projector 4096-2080-64 and 64 ID columns."""
    assert parameters_on_toys("rlmrec", fusion="concat") == 9_608_160


def test_rlmrec_parameter_count_of_full_width() -> None:
    """A projector 4096-2112-128 beside the whole ID table."""
    projector = TOYS_WIDTH * 2112 + 2112 + 2112 * 128 + 128
    assert parameters_on_toys("rlmrec") == TABLE + ENCODER + projector == 10_629_056


def test_llm_esr_parameter_count() -> None:
    """SpecTran Table 5: 9.52M, which 9,507,904 explains with an encoder of width 128.

    The public code reads both views by one encoder of their own width, 64: it has 51,200
    parameters instead of 200,704, and everything else is counted in 9,507,904.
    """
    assert parameters_on_toys("llm_esr") == 9_507_904 - 200_704 + 51_200
