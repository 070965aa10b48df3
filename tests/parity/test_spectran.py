"""SpecTran's table against closed forms and a loop over its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.backbones import sasrec
from pipeline.methods.spectran import Config, SpectralAttention
from pipeline.values import Spectrum

N, H = 30, 12


def unit_rows() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(N, H)) + 1.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def spectrum(rows: np.ndarray | None = None) -> Spectrum:
    u, s, vt = np.linalg.svd(unit_rows() if rows is None else rows, full_matrices=False)
    parts = (np.zeros(H), u, s, vt.T)
    return Spectrum("unit", *(p.astype(np.float32) for p in parts), "")


def adapter(width: int = 5, order: int = 3, std: float = 0.3) -> SpectralAttention:
    torch.manual_seed(0)
    return SpectralAttention(spectrum(), width, 0.02, Config(query_width=4, order=order, std=std))


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


def test_table_equals_a_loop_over_the_definition() -> None:
    made = adapter()
    made.shrink.data.fill_(0.05)
    spec = spectrum()
    q, k, a = (p.detach().numpy().astype(np.float64) for p in (made.query, made.key, made.position))
    expected = np.zeros((N, 5))
    for item in range(N):
        for d in range(5):
            for j in range(len(spec.s)):
                score = sum(q[d, h] * k[j, h] for h in range(4))
                weight = math.copysign(max(abs(score) - 0.05, 0.0), score)
                if j == d:
                    ratio = float(spec.s[j] / spec.s[0])
                    weight += float(spec.s[0]) * sum(a[p] * ratio**p for p in range(4))
                expected[item, d] += spec.u[item, j] * weight
    ids = made.id.detach().numpy()[1:]
    assert np.allclose(made.table().detach()[1:], expected + ids, atol=1e-5)


def test_padding_row_has_no_text() -> None:
    assert not adapter().table()[0].any()


def test_permuting_items_permutes_the_text() -> None:
    order = np.random.default_rng(1).permutation(N)
    torch.manual_seed(0)
    config = Config(query_width=4, order=3, std=0.3)
    u, s, vt = np.linalg.svd(unit_rows(), full_matrices=False)
    parts = (np.zeros(H), u[order], s, vt.T)
    moved = SpectralAttention(
        Spectrum("unit", *(p.astype(np.float32) for p in parts), ""), 5, 0.02, config
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


def test_fewer_components_than_dimensions() -> None:
    """R < D: the principal part has R entries, the other dimensions are attention only."""
    made = adapter(width=H + 3)
    assert made.table().shape == (N + 1, H + 3)
    made = without_attention(made, [1, 0, 0, 0])
    assert not made.text()[:, H:].any()


def test_parameter_count_of_the_paper() -> None:
    """SpecTran Table 5: 2.21M for N = 11,757, D = 128, L = 10, R = 4,096, h = 120, order 3."""
    items, components = 11_757, 4_096
    config = Config(query_width=120, order=3, std=0.02)
    ones = np.ones
    big = Spectrum(
        "unit",
        ones(4, np.float32),
        np.zeros((items, components), np.float32),
        ones(components, np.float32),
        ones((4, components), np.float32),
        "",
    )
    made = SpectralAttention(big, 128, 0.02, config)
    encoder = sasrec.build(
        sasrec.Config(history=10, blocks=2, heads=1, init_std=0.02, norm_eps=1e-8), 128, 0.1
    )
    total = sum(p.numel() for m in (made, encoder) for p in m.parameters())
    assert total == 2_212_613


def test_initial_sizes_on_unit_rows() -> None:
    """The mean of f starts at s_1 (1 + mean of the powers); |A| at 0.8 std^2 sqrt(h)."""
    torch.manual_seed(0)
    made = SpectralAttention(spectrum(), 5, 0.02, Config(query_width=120, order=3, std=0.02))
    ratio = spectrum().s[:5] / spectrum().s[0]
    expected = spectrum().s[0] * (1 + ratio + ratio**2 + ratio**3)
    assert np.allclose(made.weights().detach(), expected, rtol=1e-5)
    size = float(made.attention().detach().abs().mean())
    # 60 draws of a half-normal mean: a tenth of deviation
    assert size == pytest.approx(0.8 * 0.02**2 * math.sqrt(120), rel=0.3)
