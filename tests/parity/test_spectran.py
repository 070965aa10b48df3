"""SpecTran's table against closed forms and a loop over its definition."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbones import sasrec
from pipeline.errors import ConfigError
from pipeline.methods import svd
from pipeline.methods.spectran import Config, SpectralAttention, build
from pipeline.model import Parts
from pipeline.objectives.ranking import ranking_loss
from pipeline.training.steps import adam
from pipeline.values import Spectrum
from tests import plain

N, H = 30, 12


def unit_rows() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(N, H)) + 1.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def spectrum(rows: np.ndarray | None = None) -> Spectrum:
    u, s, vt = np.linalg.svd(unit_rows() if rows is None else rows, full_matrices=False)
    parts = (np.zeros(H), u, s, vt.T)
    return Spectrum("unit", *(p.astype(np.float32) for p in parts), "")


def config(**changes: Any) -> Config:
    block = plain.content()["methods"]["spectran"]
    return Config.model_validate(block | {"query_width": 4, "std": 0.3} | changes)


def adapter(width: int = 5, **changes: Any) -> SpectralAttention:
    torch.manual_seed(0)
    return SpectralAttention(spectrum(), width, 0.02, config(**changes))


def without_attention(made: SpectralAttention, position: list[int]) -> SpectralAttention:
    made.query.data.zero_()
    made.position.data = torch.tensor(position, dtype=torch.float32)
    return made


def test_first_power_alone_is_truncated_svd() -> None:
    """A = 0, a = (0, 1, 0, 0): E' = M V_D."""
    made = without_attention(adapter(), [0, 1, 0, 0])
    expected = unit_rows() @ spectrum().v[:, :5]
    assert np.allclose(made.text().detach()[1:], expected, atol=1e-5)


def test_constant_term_alone_is_scaled_identity() -> None:
    """A = 0, a = (1, 0, 0, 0): E' = s_1 U_D."""
    made = without_attention(adapter(), [1, 0, 0, 0])
    expected = spectrum().s[0] * spectrum().u[:, :5]
    assert np.allclose(made.text().detach()[1:], expected, atol=1e-5)


def viewed(view: str) -> Spectrum:
    """Decompose rows of unequal length as the view says."""
    rows = unit_rows() * np.linspace(1, 3, N)[:, None]
    if view.startswith("unit"):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if view.endswith("centred"):
        rows -= rows.mean(axis=0)
    return spectrum(rows)


@pytest.mark.parametrize("view", ["unit", "centred", "raw", "unit_centred"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("value", ["u", "sqrt_n_u"])
def test_table_equals_a_loop_over_the_definition(
    value: str, scaled: bool, view: str, params: Any
) -> None:
    shape = sasrec.Config(history=5, blocks=1, heads=1, init_std=0.02, norm_eps=1e-8)
    parts = Parts(
        params.train.model_copy(update={"width": 5}),
        lambda width: sasrec.build(shape, width, 0.0),
        lambda: ranking_loss(params.train.loss, np.ones(N + 1)),
    )
    torch.manual_seed(0)
    how = config(value=value, scaled=scaled, view=view)
    inputs: Any = SimpleNamespace(spectrum=viewed)
    (made,) = build(how, inputs, parts).model.adapters.values()
    assert isinstance(made, SpectralAttention)
    made.shrink.data.fill_(0.05)
    spec = viewed(view)
    q, k, a = (p.detach().numpy().astype(np.float64) for p in (made.query, made.key, made.position))
    expected = np.zeros((N, 5))
    for item in range(N):
        for d in range(5):
            for j in range(len(spec.s)):
                score = sum(q[d, h] * k[j, h] for h in range(4)) / (math.sqrt(4) if scaled else 1)
                weight = math.copysign(max(abs(score) - 0.05, 0.0), score)
                if j == d:
                    ratio = float(spec.s[j] / spec.s[0])
                    weight += float(spec.s[0]) * sum(a[p] * ratio**p for p in range(4))
                size = math.sqrt(N) if value == "sqrt_n_u" else 1
                expected[item, d] += size * spec.u[item, j] * weight
    ids = made.id.detach().numpy()[1:]
    assert np.allclose(made.table().detach()[1:], expected + ids, atol=1e-5)


def test_padding_row_has_no_text() -> None:
    assert not adapter().table()[0].any()


def test_permuting_items_permutes_the_text() -> None:
    order = np.random.default_rng(1).permutation(N)
    torch.manual_seed(0)
    u, s, vt = np.linalg.svd(unit_rows(), full_matrices=False)
    parts = (np.zeros(H), u[order], s, vt.T)
    moved = SpectralAttention(
        Spectrum("unit", *(p.astype(np.float32) for p in parts), ""), 5, 0.02, config()
    )
    assert torch.allclose(moved.text()[1:], adapter().text()[1:][order], atol=1e-6)


def test_gradient_of_lambda_is_not_zero_at_zero() -> None:
    made = adapter()
    made.text().square().sum().backward()
    assert made.shrink.grad is not None
    assert float(made.shrink.grad) != 0


def test_lambda_is_clamped_after_a_step() -> None:
    made = adapter()
    made.shrink.data.fill_(-0.3)
    made.after_step()
    assert made.shrink.item() == 0


def test_every_dimension_may_have_its_own_lambda() -> None:
    made, one = adapter(thresholds="per_dimension"), adapter()
    levels = [0.0, 0.02, 0.05, 0.1, 10.0]
    made.shrink.data.copy_(torch.tensor(levels)[:, None])
    found = made.attention()
    assert found is not None
    for place, level in enumerate(levels):
        one.shrink.data.fill_(level)
        alone = one.attention()
        assert alone is not None and torch.equal(alone[place], found[place])
    found.square().sum().backward()
    assert made.shrink.grad is not None and (made.shrink.grad[:4] != 0).all()
    made.shrink.data.fill_(-1.0)
    made.after_step()
    assert not made.shrink.any()


@pytest.mark.parametrize("scale", ["s1", "si", "none"])
@pytest.mark.parametrize("position", ["polynomial", "sigma", "identity"])
def test_embed_scale_is_that_of_the_decomposed_rows(position: str, scale: str) -> None:
    settings = {"position": position, "position_scale": scale}
    found = adapter(embed_scale=40.0, **settings).text()
    torch.manual_seed(0)
    spec = spectrum(40 * unit_rows())
    assert np.allclose(np.abs(spec.u), np.abs(spectrum().u), atol=1e-5)
    spec = Spectrum("unit", spec.mean, spectrum().u, spec.s, spec.v, "")
    expected = SpectralAttention(spec, 5, 0.02, config(**settings)).text()
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_fewer_components_than_dimensions() -> None:
    """R < D: the principal part has R entries, the other dimensions are attention only."""
    made = adapter(width=H + 3)
    assert made.table().shape == (N + 1, H + 3)
    made = without_attention(made, [1, 0, 0, 0])
    assert not made.text()[:, H:].any()


def test_parameter_count_of_the_paper() -> None:
    """SpecTran Table 5: 2.21M for N = 11,757, D = 128, L = 10, R = 4,096, h = 120, order 3."""
    items, components = 11_757, 4_096
    ones = np.ones
    big = Spectrum(
        "unit",
        ones(4, np.float32),
        np.zeros((items, components), np.float32),
        ones(components, np.float32),
        ones((4, components), np.float32),
        "",
    )
    made = SpectralAttention(big, 128, 0.02, config(query_width=120))
    encoder = sasrec.build(
        sasrec.Config(history=10, blocks=2, heads=1, init_std=0.02, norm_eps=1e-8), 128, 0.1
    )
    total = sum(p.numel() for m in (made, encoder) for p in m.parameters())
    assert total == 2_212_613


def test_initial_sizes_on_unit_rows() -> None:
    """The mean of f starts at s_1 (1 + mean of the powers); |A| at 0.8 std^2 sqrt(h)."""
    torch.manual_seed(0)
    made = adapter(query_width=120, std=0.02)
    ratio = spectrum().s[:5] / spectrum().s[0]
    expected = spectrum().s[0] * (1 + ratio + ratio**2 + ratio**3)
    assert np.allclose(made.weights().detach(), expected, rtol=1e-5)
    size = float(made.attention().detach().abs().mean())
    # 60 draws of a half-normal mean: a tenth of deviation
    assert size == pytest.approx(0.8 * 0.02**2 * math.sqrt(120), rel=0.3)


def test_text_starts_with_entries_of_s1_over_root_n() -> None:
    """Columns of U have norm one: the entries' mean square is sum f^2 / (N D) but for A."""
    items, width = 400, 128
    rows = np.random.default_rng(0).normal(size=(items, 160)) + 2.0
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert (rows @ rows.T).mean() == pytest.approx(0.8, abs=0.01)  # as in a language model
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    parts = (np.zeros(160), u, s, vt.T)
    spec = Spectrum("unit", *(p.astype(np.float32) for p in parts), "")
    torch.manual_seed(0)
    made = SpectralAttention(spec, width, 0.02, config(query_width=120, std=0.02))
    ratio = s[:width] / s[0]
    weights = s[0] * (1 + ratio + ratio**2 + ratio**3)
    found = float(made.text().detach()[1:].square().mean())
    # |A| is 0.0035 beside weights of 18 and more.
    assert found == pytest.approx((weights**2).sum() / (items * width), rel=1e-4)
    # The powers above 0 add a tenth: their ratios are 0.06, but for the first, which are one.
    assert made.measures()["std_text"] == pytest.approx(1.1 * s[0] / math.sqrt(items), rel=0.01)


# ---------------------------------------------------------------- variants


def test_sigma_without_attention_is_the_method_svd() -> None:
    made = adapter(attention="none", position="sigma")
    rows = torch.from_numpy(unit_rows() @ spectrum().v[:, :5]).float()
    assert torch.allclose(made.text()[1:], rows, atol=1e-5)
    torch.manual_seed(0)
    frozen = svd.FrozenText(rows, 0.02)
    assert torch.allclose(made.table(), frozen.table(), atol=1e-5)


def test_identity_without_attention_is_u_with_entries_of_one_over_root_n() -> None:
    made = adapter(attention="none", position="identity")
    assert np.allclose(made.text()[1:], spectrum().u[:, :5], atol=1e-6)
    assert math.isclose(float(made.text()[1:].square().mean().sqrt()), N**-0.5, rel_tol=1e-4)
    wide = adapter(attention="none", position="identity", value="sqrt_n_u")
    assert torch.allclose(wide.text(), made.text() * N**0.5, atol=1e-6)


def test_softmax_weights_of_every_query_sum_to_one() -> None:
    made = adapter(attention="softmax", scaled=True)
    found = made.attention()
    assert found is not None
    assert torch.allclose(found.sum(1), torch.ones(5), atol=1e-6)
    expected = (made.query @ made.key.T / math.sqrt(4)).detach().exp()
    assert torch.allclose(found, expected / expected.sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("scale", ["s1", "si", "none"])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("order", [1, 3, 8])
def test_polynomial_equals_a_loop(order: int, scale: str, constant: bool) -> None:
    made = adapter(position_scale=scale, constant=constant, order=order)
    first = 0 if constant else 1
    s = spectrum().s.astype(np.float64)
    a = np.arange(1.0, order + 2.0)[first:]
    made.position.data = torch.from_numpy(a).float()
    for i in range(5):
        value = sum(a[k - first] * (s[i] / s[0]) ** k for k in range(first, order + 1))
        value *= {"s1": s[0], "si": s[i], "none": 1.0}[scale]
        assert math.isclose(float(made.weights().detach()[i]), value, rel_tol=1e-5)


def test_without_a_threshold_the_map_is_linear() -> None:
    """Order 1, lambda = 0: E' = U (Q K^T)^T + U_D diag(s_1 a_0 + a_1 s)."""
    made = adapter(order=1)
    made.position.data = torch.tensor([0.5, -2.0])
    assert made.shrink.item() == 0, "as it starts"
    spec = spectrum()
    scores = (made.query @ made.key.T).detach().numpy()
    weights = 0.5 * spec.s[0] - 2.0 * spec.s[:5]
    expected = spec.u @ scores.T + spec.u[:, :5] * weights
    assert np.allclose(made.text().detach()[1:], expected, atol=1e-5)


def test_fusions_place_ids_and_text() -> None:
    concat = adapter(width=6, fusion="concat")
    assert torch.equal(concat.table()[:, :3], concat.id)
    assert torch.equal(concat.table()[:, 3:], concat.text())
    null = adapter(width=6, fusion="nullspace")
    assert torch.equal(null.table()[:, :3], null.text()[:, :3])
    assert torch.allclose(null.table()[:, 3:], null.text()[:, 3:] + null.id)
    alone = adapter(width=6, fusion="none")
    assert torch.equal(alone.table(), alone.text()) and not hasattr(alone, "id")


@pytest.mark.parametrize("fusion", ["add", "concat", "nullspace", "none"])
@pytest.mark.parametrize("attention", ["softshrink", "softmax", "none"])
def test_rows_are_those_of_the_table(fusion: str, attention: str) -> None:
    made = adapter(width=6, fusion=fusion, attention=attention)
    items = torch.tensor([0, 3, 1, 3])
    assert torch.allclose(made.rows_of(items), made.table()[items], atol=1e-6)


def test_own_rates_of_the_id_part_reach_the_optimiser(params: Any) -> None:
    made = adapter(id_weight_decay=0.5, id_learning_rate=0.25)
    modules = torch.nn.ModuleDict({"item": made})
    free = dict(modules.named_parameters())
    train = params.train.model_copy(update={"weight_decay": 0.125, "learning_rate": 0.5})
    found = {
        name: (group["weight_decay"], group["lr"])
        for group in adam(free, modules, train).param_groups
        for parameter in group["params"]
        for name in [next(n for n, p in free.items() if p is parameter)]
    }
    assert found == {
        "item.id": (0.5, 0.25),
        "item.query": (0.125, 0.5),
        "item.key": (0.125, 0.5),
        "item.shrink": (0.0, 0.5),
        "item.position": (0.0, 0.5),
    }


def test_id_dropout_hides_whole_vectors_in_training_only() -> None:
    made = adapter(id_dropout=0.5)
    torch.manual_seed(0)
    table = made.train().table()
    hidden = (table == made.text()).all(1)[1:]
    assert 0.2 * N < int(hidden.sum()) < 0.8 * N
    assert torch.equal(table[1:][~hidden], (made.text() + made.id)[1:][~hidden]), "not scaled up"
    assert torch.equal(made.eval().table(), made.text() + made.id)


def test_a_frozen_position_is_no_parameter() -> None:
    made = adapter(learn_position=False)
    assert "position" not in dict(made.named_parameters())
    assert torch.equal(made.weights(), adapter().weights())


def test_settings_without_any_text_are_refused(inputs: Any, params: Any) -> None:
    with pytest.raises(ConfigError, match="attention and position are both none"):
        build(config(attention="none", position="none"), inputs, params)


@pytest.mark.parametrize(("fusion", "width"), [("add", 5), ("concat", 10)])
def test_spectral_weights_equal_a_loop(fusion: str, width: int) -> None:
    """Over the dimensions of the text part, here five."""
    made = adapter(width, fusion=fusion)
    attention, weights = made.attention(), made.weights().detach()
    assert attention is not None
    principal = [abs(float(attention.detach()[i, i] + weights[i])) for i in range(5)]
    rest = [sum(abs(float(attention.detach()[i, j])) for j in range(5, H)) for i in range(5)]
    found = made.measures()
    assert math.isclose(found["principal"], sum(principal) / 5, rel_tol=1e-5)
    assert math.isclose(found["subordinate"], sum(rest) / 5, rel_tol=1e-5)
    alone = adapter(width, fusion=fusion, attention="none", position="identity").measures()
    assert (alone["principal"], alone["subordinate"]) == (1.0, 0.0)
