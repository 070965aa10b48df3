"""What UniSRec, RLMRec and LLM-ESR keep beyond the contract of all methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import config, naming
from pipeline.backbones import sasrec
from pipeline.errors import ConfigError
from pipeline.fusion import CrossViews
from pipeline.layers.draws import handed
from pipeline.layouts import Layout, Widths, widths
from pipeline.methods import rlmrec, unisrec
from pipeline.model import Method, Parts
from pipeline.objectives.alignment import (
    Alignment,
    SoftContrast,
    TextToItem,
    contrast,
    cosine_distance,
)
from pipeline.objectives.ranking import ranking_loss
from pipeline.sampling.batches import Batch, History
from pipeline.training.fit import fit, initialised
from pipeline.training.saved import load_state, saved_state

HISTORIES = torch.tensor([[0, 0, 3, 1, 2], [4, 2, 2, 5, 1], [0, 0, 0, 0, 7]])
BATCH = Batch(History(HISTORIES), torch.ones_like(HISTORIES), torch.ones(3, 1, dtype=torch.long))


def build(
    name: str, params: config.Params, inputs: Any, width: int | None = None, **changes: Any
) -> Method:
    blocks = {name: params.methods[name] | changes}
    settings = naming.settings("methods", name, blocks)
    train = params.train.model_copy(update={"width": width or params.train.width})
    sizes = sasrec.Config(history=5, blocks=1, heads=1, init_std=0.02, norm_eps=1e-8)
    parts = Parts(
        train,
        lambda width: sasrec.build(sizes, width, 0.0),
        lambda: ranking_loss(train.loss, inputs.sequences.train_counts()),
    )
    make = naming.module("methods", name).build
    made = initialised(lambda: make(settings, inputs, parts), 0)
    assert isinstance(made, Method)
    return made


# ---------------------------------------------------------------- text beside IDs


@pytest.mark.parametrize("name", ["morec", "unisrec", "whitenrec"])
@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_ids_join_the_text(name: str, fusion: str, params: config.Params, inputs: Any) -> None:
    adapter = build(name, params, inputs, fusion=fusion).model.eval().adapters["item"]
    ids, text = (part.table() for part in adapter.parts)
    expected = ids + text if fusion == "add" else torch.cat([ids, text], dim=1)
    assert torch.equal(adapter.table(), expected)
    assert not adapter.table()[0].any()


@pytest.mark.parametrize("name", ["morec", "unisrec", "whitenrec"])
def test_parts_are_as_wide_as_they_are_set(name: str, params: config.Params, inputs: Any) -> None:
    width = params.train.width
    made = build(name, params, inputs, fusion="concat", id_width=1)
    ids, text = (part.table() for part in made.model.eval().adapters["item"].parts)
    assert (ids.shape[1], text.shape[1]) == (1, width - 1)


@pytest.mark.parametrize("name", ["morec", "unisrec", "whitenrec"])
@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_both_parts_train(name: str, fusion: str, params: config.Params, inputs: Any) -> None:
    made = build(name, params, inputs, fusion=fusion)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    assert [n for n in before if n.endswith("parts.0.weight")]
    fit(made, inputs.sequences, params.train, 0)
    assert not [n for n, p in made.model.named_parameters() if torch.equal(p, before[n])]


# ---------------------------------------------------------------- unisrec


def mixture(params: config.Params) -> unisrec.Mixture:
    settings = naming.settings("methods", "unisrec", params.methods)
    assert isinstance(settings, unisrec.Config)
    torch.manual_seed(0)
    return unisrec.Mixture(6, 4, settings)


def test_unisrec_draws_from_the_global_generator_in_training(params: config.Params) -> None:
    made, text = mixture(params), torch.ones(7, 6)
    torch.manual_seed(1)
    first, second = made(text), made(text)
    torch.manual_seed(1)
    assert torch.equal(made(text), first)
    assert not torch.equal(second, first)


def test_unisrec_draws_nothing_in_evaluation(params: config.Params) -> None:
    made, text = mixture(params).eval(), torch.ones(7, 6)
    state = torch.get_rng_state()
    assert torch.equal(made(text), made(text))
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- rlmrec


def test_rlmrec_sample_is_the_whole_loss_in_expectation(params: config.Params) -> None:
    settings = naming.settings("methods", "rlmrec", params.methods)
    assert isinstance(settings, rlmrec.Config)
    torch.manual_seed(0)
    count = 7
    pair = TextToItem(torch.randn(count, 6), rlmrec.projector(6, 4, settings))
    table = torch.randn(count + 1, 4)

    def loss(items: int | None) -> float:
        term = Alignment("item", pair, cosine_distance, items)
        return float(term(None, BATCH, {"item": table}, {}))  # type: ignore[arg-type]

    with torch.no_grad():
        samples = np.array([loss(3) for _ in range(2000)])
        assert samples.std() > 0.01, "nothing is drawn"
        error = samples.std() / np.sqrt(len(samples))
        assert abs(samples.mean() - loss(None)) < 4 * error
        assert loss(count) == loss(None)


def test_rlmrec_projector_trains_though_it_does_not_rank(
    params: config.Params, inputs: Any
) -> None:
    made = build("rlmrec", params, inputs)
    _, term = made.phases[0].objectives["alignment"]
    before = {n: p.detach().clone() for n, p in term.named_parameters()}
    assert len(before) == 4
    fit(made, inputs.sequences, params.train, 0)
    assert not [n for n, p in term.named_parameters() if torch.equal(p, before[n])]
    assert not [n for n in made.model.state_dict() if "projector" in n]


def test_rlmrec_projector_is_saved_with_the_model(params: config.Params, inputs: Any) -> None:
    """A method drawn anew takes it from there, and refuses a state that lacks it."""
    made, other = (build("rlmrec", params, inputs) for _ in range(2))
    fit(made, inputs.sequences, params.train, 0)
    state = saved_state(made)
    own = {n for n in state if n.startswith("objectives.")}
    assert own == {
        f"objectives.alignment.pair.projector.{layer}.{kind}"
        for layer in (0, 2)
        for kind in ("weight", "bias")
    }
    load_state(other, state)
    for name, tensor in saved_state(other).items():
        assert torch.equal(tensor, state[name]), name
    with pytest.raises(RuntimeError, match=r"Missing key.*projector\.0\.weight"):
        load_state(other, {n: t for n, t in state.items() if n not in own})


def test_rlmrec_text_part_is_the_projected_text(params: config.Params, inputs: Any) -> None:
    """By hand: two maps with a leaky step between, of text brought to norm 40 on average."""
    made = build("rlmrec", params, inputs)
    _, term = made.phases[0].objectives["alignment"]
    first, first_bias, second, second_bias = (p.detach().numpy() for p in term.parameters())
    rows = inputs.semantic.values[1:]
    rows = rows * (40 / np.linalg.norm(rows, axis=1).mean())
    inner = rows @ first.T + first_bias
    inner = np.where(inner > 0, inner, 0.01 * inner)
    with torch.no_grad():
        found = term.semantic()
    assert set(found) == {"item"}
    assert np.allclose(found["item"], inner @ second.T + second_bias, atol=1e-4)


@pytest.mark.parametrize("kind", ["con", "gen"])
def test_rlmrec_settings_reach_its_loss(kind: str, params: config.Params, inputs: Any) -> None:
    """By hand: three items drawn, a slope of 0.5, the mean of their cosine distances."""
    made = build("rlmrec", params, inputs, kind=kind, items_per_step=3, negative_slope=0.5)
    _, term = made.phases[0].objectives["alignment"]
    first, first_bias, second, second_bias = (p.detach() for p in term.parameters())
    order = torch.arange(len(inputs.catalog)).flip(0)
    with torch.no_grad(), handed(lambda what, device: order):
        table = made.model.tables()["item"].detach()
        found = term(made.model, BATCH, {"item": table}, {})
    items = order[:3] + 1
    text = torch.from_numpy(inputs.semantic.values)
    text = text * (40 / text[1:].norm(dim=1).mean())
    x, y = table[items], text[items]
    given, other = (y, x) if kind == "con" else (x, y)
    inner = given @ first.T + first_bias
    made_of_it = torch.where(inner > 0, inner, 0.5 * inner) @ second.T + second_bias
    cosines = (made_of_it * other).sum(1) / made_of_it.norm(dim=1) / other.norm(dim=1)
    assert float(found) == pytest.approx(float(1 - cosines.mean()), abs=1e-5)


@pytest.mark.parametrize("changes", [{"kind": "gen"}, {"fusion": "concat"}])
def test_rlmrec_text_part_is_not_in_the_loss(
    changes: dict[str, Any], params: config.Params, inputs: Any
) -> None:
    """gen leaves the text as it is; a concatenation has its projection in the item table."""
    made = build("rlmrec", params, inputs, **changes)
    assert made.phases[0].objectives["alignment"][1].semantic() == {}
    text = made.model.adapters["item"].semantic()
    assert (text is None) == (changes == {"kind": "gen"})


def test_contrast_equals_a_loop_over_its_definition() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 5, 3))
    tau, total = 0.3, 0.0
    for i in range(5):
        cosines = [x[i] @ v / np.linalg.norm(x[i]) / np.linalg.norm(v) for v in y]
        total -= cosines[i] / tau - np.log(sum(np.exp(c / tau) for c in cosines))
    found = contrast(torch.from_numpy(x), torch.from_numpy(y), tau)
    assert float(found) == pytest.approx(total / 5, abs=1e-12)


def test_rlmrec_contrasts_the_items_of_a_step_only(params: config.Params) -> None:
    """Three of seven: the loss is that of these three among themselves."""
    settings = naming.settings("methods", "rlmrec", params.methods)
    assert isinstance(settings, rlmrec.Config)
    torch.manual_seed(0)
    pair = TextToItem(torch.randn(7, 6), rlmrec.projector(6, 4, settings))
    term = Alignment("item", pair, lambda x, y: contrast(x, y, 0.2), 3)
    table = torch.randn(8, 4)
    few = torch.tensor([6, 2, 3])
    with torch.no_grad(), handed(lambda what, device: torch.tensor([5, 1, 2, 0, 3, 4, 6])):
        found = term(None, BATCH, {"item": table}, {})  # type: ignore[arg-type]
        assert torch.equal(found, contrast(table[few], pair.projector(pair.rows[few - 1]), 0.2))


def test_rlmrec_starts_as_the_original_does(params: config.Params) -> None:
    """Weights fill [-b, b] with b = sqrt(6 / (inputs + outputs)); biases within 1/sqrt(inputs)."""
    settings = naming.settings("methods", "rlmrec_infonce", params.methods)
    assert isinstance(settings, rlmrec.Config)
    for gain in (1.0, 0.25):
        torch.manual_seed(0)
        made = rlmrec.projector(300, 100, settings.model_copy(update={"init_gain": gain}))
        for layer, (inputs, outputs) in ((made[0], (300, 200)), (made[2], (200, 100))):
            assert layer.weight.shape == (outputs, inputs)
            bound = gain * (6 / (inputs + outputs)) ** 0.5
            weight, bias = (p.detach() for p in layer.parameters())
            assert 0.999 * bound < float(weight.abs().max()) <= bound
            assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
            assert 0.9 * gain / inputs**0.5 < float(bias.abs().max()) <= gain / inputs**0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "infonce"}, r"temperature: .*infonce needs a temperature"),
        ({"temperature": 0.2}, r"temperature: .*cosine has no temperature"),
        ({"loss": "infonce", "temperature": 0.0}, r"temperature: .*greater than 0"),
        (
            {"loss": "infonce", "temperature": 0.2, "items_per_step": None},
            r"items_per_step: .*write 2 or more",
        ),
        (
            {"loss": "infonce", "temperature": 0.2, "items_per_step": 1},
            r"items_per_step: .*write 2 or more",
        ),
    ],
)
def test_rlmrec_refuses_settings_that_do_not_fit_its_loss(
    changes: dict[str, Any], said: str, params: config.Params, inputs: Any
) -> None:
    with pytest.raises(ConfigError, match=rf"methods\.rlmrec: {said}"):
        build("rlmrec", params, inputs, **changes)


def test_rlmrec_alignment_raises_the_cosine(params: config.Params, inputs: Any) -> None:
    train = params.train.model_copy(update={"max_epochs": 30, "patience": 30})
    losses = []
    for weight in (0.0, 10.0):
        made = build("rlmrec", params, inputs, weight=weight)
        fit(made, inputs.sequences, train, 0)
        _, term = made.phases[0].objectives["alignment"]
        with torch.no_grad():
            losses.append(float(term(made.model, BATCH, made.model.tables(), {})))
    assert losses[1] < losses[0] - 0.1


def test_rlmrec_concat_aligns_the_halves_that_rank(params: config.Params, inputs: Any) -> None:
    made = build("rlmrec", params, inputs, fusion="concat", items_per_step=None)
    _, term = made.phases[0].objectives["alignment"]
    assert not list(term.parameters()), "the projector ranks, so it belongs to the item table"
    with torch.no_grad():
        rows = made.model.tables()["item"][1:]
        found = term(made.model, BATCH, made.model.tables(), {})
    expected = 1 - F.cosine_similarity(rows[:, :4], rows[:, 4:]).mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_rlmrec_refuses_to_concatenate_what_gen_lacks(params: config.Params, inputs: Any) -> None:
    with pytest.raises(ConfigError, match=r"methods\.rlmrec: fusion: .*concat needs kind con"):
        build("rlmrec", params, inputs, kind="gen", fusion="concat")


# ---------------------------------------------------------------- llm_esr


def test_llm_esr_scores_are_the_sum_of_both_cosines(params: config.Params, inputs: Any) -> None:
    made = build("llm_esr", params, inputs).model.eval()
    with torch.no_grad():
        tables = made.tables()
        states = made.states(History(HISTORIES), tables)
        found = made.ranker("cosine")(History(HISTORIES))
        cosines = [
            F.cosine_similarity(states[view][:, -1, None], tables[view][None, 1:], dim=-1)
            for view in ("id", "text")
        ]
    assert torch.allclose(found, cosines[0] + cosines[1], atol=1e-6)


def test_llm_esr_contrasts_text_with_ids_in_this_order(params: config.Params, inputs: Any) -> None:
    """The soft targets make the loss differ when the views are swapped."""
    made = build("llm_esr", params, inputs, temperature=0.5, weight=0.25)
    weight, term = made.phases[0].objectives["alignment"]
    with torch.no_grad():
        tables = made.model.tables()
        found, right, swapped = (
            float(one(made.model, BATCH, tables, {}))
            for one in (term, SoftContrast("text", "id", 0.5), SoftContrast("id", "text", 0.5))
        )
    assert found == right != swapped
    assert weight == 0.25


def test_llm_esr_reads_both_mixed_views_by_one_backbone(params: config.Params, inputs: Any) -> None:
    made = build("llm_esr", params, inputs).model.eval()
    assert list(made.backbones) == ["id"], "a saved state would hold it twice"
    with torch.no_grad():
        tables = made.tables()
        x = {name: table[HISTORIES] for name, table in tables.items()}
        mixed = made.fusion.mix(x, History(HISTORIES))
        states = made.states(History(HISTORIES), tables)
        for view in ("id", "text"):
            assert torch.equal(states[view], made.backbones["id"](mixed[view], History(HISTORIES)))
            assert not torch.allclose(
                states[view], made.backbones["id"](x[view], History(HISTORIES))
            )


def test_llm_esr_future_items_change_no_earlier_state(params: config.Params, inputs: Any) -> None:
    made = build("llm_esr", params, inputs).model.eval()
    changed = HISTORIES.clone()
    changed[:, 3:] = torch.tensor([6, 3])
    with torch.no_grad():
        tables = made.tables()
        before = made.states(History(HISTORIES), tables)
        after = made.states(History(changed), tables)
    for view in ("id", "text"):
        assert torch.equal(before[view][1, :3], after[view][1, :3])
        assert not torch.allclose(before[view][1, 3:], after[view][1, 3:])


def test_padding_neither_answers_nor_asks() -> None:
    torch.manual_seed(0)
    fusion = CrossViews("id", "text", width=4, heads=2, init_gain=1.0)
    x = {view: torch.randn(3, 5, 4) for view in ("id", "text")}
    padded = (HISTORIES == 0)[..., None]
    other = {view: torch.where(padded, part + 5, part) for view, part in x.items()}
    mixed, again = fusion.mix(x, History(HISTORIES)), fusion.mix(other, History(HISTORIES))
    for view in x:
        assert not mixed[view][HISTORIES == 0].any()
        assert torch.equal(mixed[view], again[view])


@pytest.mark.parametrize(
    ("width", "heads", "message"),
    [
        (7, 1, r"train\.width: 7 is odd, but methods\.llm_esr halves it"),
        (8, 3, r"llm_esr\.heads: 3 does not divide the width 4 \(half of train\.width 8\)"),
    ],
)
def test_llm_esr_refuses_sizes_that_do_not_divide(
    width: int, heads: int, message: str, params: config.Params, inputs: Any
) -> None:
    with pytest.raises(ConfigError, match=message):
        build("llm_esr", params, inputs, width=width, heads=heads)


# ---------------------------------------------------------------- widths


@pytest.mark.parametrize(
    ("layout", "id_width", "text_width", "expected"),
    [
        ("none", None, None, (0, 8)),
        ("none", None, 8, (0, 8)),
        ("add", None, None, (8, 8)),
        ("concat", None, None, (4, 4)),
        ("concat", 3, None, (3, 5)),
        ("concat", None, 2, (6, 2)),
        ("concat", 6, 2, (6, 2)),
    ],
)
def test_widths_left_open_follow_from_the_layout(
    layout: Layout, id_width: int | None, text_width: int | None, expected: tuple[int, int]
) -> None:
    found = widths(layout, id_width, text_width, 8, block="methods.x", key="train.width")
    assert found == Widths(*expected)


@pytest.mark.parametrize(
    ("layout", "id_width", "text_width", "width", "message"),
    [
        ("none", 4, None, 8, r"methods\.x\.id_width: 4 does not fit .* fusion none\. Write null"),
        ("none", None, 4, 8, r"methods\.x\.text_width: 4 does not fit y\.train\.width 8"),
        ("add", 4, None, 8, r"methods\.x\.id_width: 4 does not fit .*Write 8, or null"),
        ("concat", 4, 3, 8, r"id_width: 4 and text_width 3 add up to 7, not to y\.train\.width 8"),
        ("concat", 8, None, 8, r"methods\.x\.id_width: 8 leaves no column of y\.train\.width 8"),
        ("concat", None, 9, 8, r"methods\.x\.text_width: 9 leaves no column"),
        ("concat", None, None, 7, r" y\.train\.width: 7 is odd, but methods\.x\.fusion: concat"),
    ],
)
def test_widths_that_do_not_fit_are_refused_by_key(
    layout: Layout, id_width: int | None, text_width: int | None, width: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        widths(layout, id_width, text_width, width, block="methods.x", key="y.train.width")
