"""The streamed decomposition against scipy's SVD, and the rules on top of it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.linalg import svd

from pipeline import tensorfile
from pipeline.artifacts import SEMANTIC
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.spectral import decompose as module
from pipeline.spectral.decompose import Basis, decompose, project

CUTOFF = 1e-4
VIEWS = ("unit", "centred", "raw", "unit_centred")
CELL = {"dataset": "d", "encoder": "e"}


def stored(root: Path, x: np.ndarray) -> tensorfile.Rows:
    """Write rows without the checks of the stage that makes them."""
    values = np.vstack([np.zeros((1, x.shape[1])), x]).astype(np.float32)
    shapes = {"values": values.shape}
    with tensorfile.write(SEMANTIC, root, shapes, items="i", params={}, **CELL) as writer:
        writer.put("values", values)
    return tensorfile.open_rows(SEMANTIC, root, "values", **CELL)


def run(
    x: np.ndarray, views: tuple[str, ...] = VIEWS, cutoff: float = CUTOFF
) -> dict[str, tuple[Basis, np.ndarray]]:
    """Return view -> (basis, U)."""
    with TemporaryDirectory() as folder:
        rows = stored(Path(folder), x)
        bases = decompose(rows, views, cutoff)
        parts = [[u.copy() for u in part] for _, part in project(rows, bases)]
    return {b.view: (b, np.vstack(u)) for b, u in zip(bases, zip(*parts, strict=True), strict=True)}


def view_of(x: np.ndarray, view: str) -> np.ndarray:
    """The matrix a view decomposes, the slow way."""
    x = x.astype(np.float32).astype(np.float64)
    if view.startswith("unit"):
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    return x - x.mean(axis=0) if view.endswith("centred") else x


def language_like(n: int, d: int, seed: int = 0, mean: float = 2.0) -> np.ndarray:
    """Rows with a common direction and a spectrum that falls by a factor of 300."""
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(draw.standard_normal((d, d)))[0]
    x: np.ndarray = (draw.standard_normal((n, d)) * np.geomspace(1, 1 / 300, d)) @ turn
    return x + mean * turn[0]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("n", "d"), [(50, 12), (12, 12), (13, 12), (9, 12), (2, 12)])
def test_equals_the_svd_of_scipy(n: int, d: int, view: str) -> None:
    x = language_like(n, d)
    basis, u = run(x)[view]
    u0, s0, v0 = svd(view_of(x, view), full_matrices=False)
    keep = s0 >= CUTOFF * s0[0]
    np.testing.assert_allclose(basis.s, s0[keep], rtol=1e-6)
    signs = np.sign((v0[keep].T * basis.v).sum(axis=0))
    np.testing.assert_allclose(basis.v, v0[keep].T * signs, atol=1e-6)  # float32 input
    np.testing.assert_allclose(u, u0[:, keep] * signs, atol=2e-5)  # float32 products, s down 1/300


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("mean", [0.0, 5.0, 100.0])
def test_u_is_orthonormal_down_to_the_cutoff(view: str, mean: float) -> None:
    """Measured 4e-5 at worst; the promise is 1e-3."""
    draw = np.random.default_rng(1)
    turn = np.linalg.qr(draw.standard_normal((96, 96)))[0]
    x = (draw.standard_normal((3000, 96)) * np.geomspace(1, 1.2e-4, 96)) @ turn + mean * turn[3]
    basis, u = run(x)[view]
    assert basis.s[-1] < 3e-4 * basis.s[0]
    error = np.abs(u.astype(np.float64).T @ u - np.eye(u.shape[1])).max()
    assert error < 1e-4


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = language_like(101, 10)
    whole = run(x)
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * 10 * 4)
    for view, (basis, u) in run(x).items():
        np.testing.assert_allclose(basis.s, whole[view][0].s, rtol=1e-9)
        np.testing.assert_allclose(u, whole[view][1], atol=2e-5)


def test_both_views_come_from_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored(tmp_path, language_like(40, 6))
    reads = []
    real = tensorfile.Rows.chunks

    def counted(self: tensorfile.Rows, step: int, start: int = 0) -> object:
        reads.append(start)
        return real(self, step, start)

    monkeypatch.setattr(tensorfile.Rows, "chunks", counted)
    decompose(rows, VIEWS, CUTOFF)
    assert reads == [1]


finite = st.floats(-8, 8, width=32).map(lambda v: round(v, 2))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 9), st.integers(1, 6)), elements=finite))
def test_product_and_mean_rebuild_the_view(x: np.ndarray) -> None:
    if np.ptp(x, axis=0).max() < 0.01 or not x.any():
        return
    unit = view_of(x, "unit")
    spread = np.ptp(unit, axis=0).max() >= 1e-3  # else nothing is left after centring
    views = VIEWS if spread else VIEWS[:3]
    for view, (basis, u) in run(x, views, cutoff=1e-6).items():
        rebuilt = u * basis.s @ basis.v.T + basis.mean
        size = max(1.0, np.abs(x).max())
        target = unit if view.startswith("unit") else x
        np.testing.assert_allclose(rebuilt, target, atol=1e-5 * size)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(30, 6), (5, 8)]))
def test_permuting_items_permutes_rows_of_u(seed: int, shape: tuple[int, int]) -> None:
    x = language_like(*shape, seed=seed)
    order = np.random.default_rng(seed).permutation(len(x))
    straight, shuffled = run(x), run(x[order])
    for view in VIEWS:
        np.testing.assert_allclose(shuffled[view][0].v, straight[view][0].v, atol=1e-5)
        np.testing.assert_allclose(shuffled[view][1], straight[view][1][order], atol=5e-5)


@pytest.mark.parametrize(("n", "d"), [(40, 9), (6, 9)])
def test_largest_entry_of_each_right_vector_is_positive(n: int, d: int) -> None:
    for basis, _ in run(language_like(n, d)).values():
        largest = np.abs(basis.v).argmax(axis=0)
        assert (basis.v[largest, np.arange(basis.v.shape[1])] > 0).all()


def test_of_equal_entries_the_first_is_positive() -> None:
    """Rows along (1, -1): both entries have the same size, whatever the last bit says."""
    basis, u = run(np.array([[1.0, -1], [2, -2], [-3, 3]]), ("unit",))["unit"]
    np.testing.assert_allclose(basis.v[:, 0], [0.5**0.5, -(0.5**0.5)])
    assert u[0, 0] > 0 > u[2, 0]


def test_the_last_bit_does_not_decide_a_sign() -> None:
    nearly = np.array([[0.5], [-0.5 - 2e-9], [0.5 + 1e-9]])
    assert module.column_signs(nearly).tolist() == [1]
    assert module.column_signs(-nearly).tolist() == [-1]
    assert module.column_signs(np.array([[0.4], [-0.5]])).tolist() == [-1]


def test_equal_rows_lower_the_number_of_components() -> None:
    x = np.repeat(language_like(4, 10), 5, axis=0)
    found = run(x)
    assert len(found["unit"][0].s) == 4
    assert len(found["centred"][0].s) == 3


def test_components_below_the_cutoff_are_dropped() -> None:
    x = np.diag([1.0, 0.1, 0.01])[[0, 0, 1, 1, 2, 2]] * np.array([1, -1, 1, -1, 1, -1])[:, None]
    assert len(run(x, ("centred",), 0.05)["centred"][0].s) == 2
    assert len(run(x, ("centred",), 0.005)["centred"][0].s) == 3


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("n", "d"), [(30, 6), (5, 8)])
def test_energy_counts_what_the_cutoff_drops(n: int, d: int, view: str) -> None:
    x = language_like(n, d)
    basis, _ = run(x, (view,), 0.1)[view]
    assert basis.energy == pytest.approx((view_of(x, view) ** 2).sum(), rel=1e-9)
    assert (basis.s**2).sum() < (1 - 1e-6) * basis.energy, "nothing was dropped"


@pytest.mark.parametrize(("n", "d"), [(20, 4), (9, 12)])
def test_zero_rows_stay_zero_in_views_that_are_not_centred(n: int, d: int) -> None:
    x = language_like(n, d)
    x[[3, 7]] = 0
    found = run(x)
    assert found["unit"][0].zero_rows == 2
    for view in ("unit", "raw"):
        assert not found[view][1][[3, 7]].any()


def test_large_common_offset_does_not_cancel() -> None:
    """G - N mu mu^T of the raw rows would lose the small components."""
    x = language_like(400, 8, mean=0) + 3000
    basis, _ = run(x, ("centred",))["centred"]
    np.testing.assert_allclose(basis.s, svd(view_of(x, "centred"), compute_uv=False), rtol=1e-6)


@pytest.mark.parametrize("n", [3, 30])
def test_equal_embeddings_have_no_centred_view(n: int) -> None:
    x = np.full((n, 5), 0.3)
    with pytest.raises(DataError, match=r"are all the same.*remove `centred`"):
        run(x)
    assert len(run(x, ("unit",))["unit"][0].s) == 1


def test_noise_of_an_engine_is_not_a_spectrum() -> None:
    draw = np.random.default_rng(0)
    x = 0.3 * (1 + 1.5e-7 * draw.standard_normal((40, 5)))
    with pytest.raises(DataError, match="all the same"):
        run(x)


@pytest.mark.parametrize("size", [1e-9, 1e9])
@pytest.mark.parametrize("n", [8, 50])
def test_size_of_the_embeddings_does_not_matter(n: int, size: float) -> None:
    x = language_like(n, 12)
    plain, scaled = run(x), run(x * size)
    for view in VIEWS:
        factor = 1 if view in module.UNIT else size
        np.testing.assert_allclose(scaled[view][0].s, plain[view][0].s * factor, rtol=1e-3)
    with pytest.raises(DataError, match="all the same"):
        run(np.full((n, 12), size), ("unit_centred",))


def test_one_item_has_a_unit_view_only() -> None:
    x = np.array([[3.0, 4.0]])
    basis, u = run(x, ("unit",))["unit"]
    np.testing.assert_allclose(basis.v[:, 0], [0.6, 0.8], atol=1e-7)
    np.testing.assert_allclose((basis.s, u[0]), [[1], [1]], atol=1e-7)
    with pytest.raises(DataError, match=r"has one item.*lower preprocess.core"):
        run(x)


def test_zeros_only_are_refused() -> None:
    with pytest.raises(DataError, match="all embeddings of the 4 items are zero"):
        run(np.zeros((4, 3)))


def test_cutoff_below_the_resolution_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"spectrum\.cutoff: 1e-09"):
        run(language_like(20, 4), cutoff=1e-9)


def test_not_a_number_names_the_row(tmp_path: Path) -> None:
    rows = stored(tmp_path, language_like(20, 4))
    with rows.path.open("r+b") as handle:
        handle.seek(rows.offset + (5 * 4 + 2) * 4)
        handle.write(np.float32("nan").tobytes())
    with pytest.raises(ArtifactError, match=r"NaN or infinity in row 5\. Run: spectran encode d e"):
        decompose(rows, VIEWS, CUTOFF)
