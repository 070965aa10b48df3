"""MoRec, WhitenRec, LLMInit and AlphaFuse against numbers recorded from public code.

spectral_baselines.json names repository and commit of every number. Signs of singular vectors are
free: columns are compared after turning theirs to ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import naming
from pipeline.adapters import Concat, IdTable, Sum, TextMap
from pipeline.config import Params
from pipeline.errors import ConfigError, DataError
from pipeline.layers.dropout import dropout
from pipeline.methods import alphafuse, llminit, morec, whitenrec
from pipeline.model import Adapter, Backbone, Method, Parts
from pipeline.objectives.ranking import ranking_loss
from pipeline.spectral.whiten import whiten, whiten_groups
from pipeline.values import SemanticEmbeddings, Spectrum

RECORDED = json.loads(Path(__file__).with_name("spectral_baselines.json").read_text())
N, H, D = 16, 8, 4


class Drawn:
    """The recorded inputs: rows of norm one, weights of heads, ID vectors."""

    def __init__(self) -> None:
        rng = np.random.default_rng(11)
        rows = rng.normal(size=(N, H)) * 0.9 ** np.arange(H) + 0.5
        self.rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.w, self.b = rng.normal(size=(D, H)) * 0.3, rng.normal(size=D) * 0.1
        self.mlp = [
            rng.normal(size=(H // 2, H)) * 0.3,
            rng.normal(size=H // 2) * 0.1,
            rng.normal(size=(D, H // 2)) * 0.3,
            rng.normal(size=D) * 0.1,
        ]
        self.ids = rng.normal(size=(N, D))


class Inputs:
    """What the methods read, made from the recorded rows by numpy."""

    def __init__(self, rows: np.ndarray) -> None:
        self.catalog = range(len(rows))
        padded = np.concatenate([np.zeros((1, rows.shape[1])), rows])
        self.semantic = SemanticEmbeddings(padded.astype(np.float32), "")

    def spectrum(self, view: str) -> Spectrum:
        assert view == "centred"
        rows = self.semantic.values[1:].astype(np.float64)
        u, s, vt = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        kept = s > 1e-4 * s[0]
        parts = (rows.mean(0), u[:, kept], s[kept], vt[kept].T)
        return Spectrum(view, *(p.astype(np.float32) for p in parts), "")


class NoEncoder(Backbone):
    """Stands where the backbone would."""


DRAWN = Drawn()
INPUTS: Any = Inputs(DRAWN.rows)


def adapter(name: str, params: Params, width: int = D, inputs: Any = INPUTS, **changes: Any) -> Any:
    """Build a method from its block with some values changed; return its adapter."""
    module = naming.module("methods", name)
    config = module.Config(**params.methods[name] | changes)
    train = params.train.model_copy(update={"width": width})
    method = module.build(config, inputs, parts(train))
    assert isinstance(method, Method)
    (found,) = method.model.adapters.values()
    assert isinstance(found, Adapter)
    return found


def parts(train: Any) -> Parts:
    ranking = ranking_loss(train.loss, np.ones(2))  # nothing is trained here
    return Parts(train, lambda width: NoEncoder(), lambda: ranking)


def table(made: Any) -> np.ndarray:
    return np.asarray(made.table().detach()[1:])


def turned(theirs: Any, ours: np.ndarray) -> np.ndarray:
    """Return their columns with the signs of ours."""
    found = np.array(theirs)
    assert found.shape == ours.shape
    return found * np.sign((found * ours).sum(0))


def load(parameters: list[torch.nn.Parameter], values: list[np.ndarray]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = torch.from_numpy(value.astype(np.float32))


# ------------------------------------------------------------------------- MoRec


def test_morec_equals_alphafuse(params: Params) -> None:
    made = adapter("morec", params)
    load(list(made.mapping.parameters()), [DRAWN.w, DRAWN.b])
    assert np.allclose(table(made), RECORDED["alphafuse"]["morec"], atol=2e-5)


def test_morec_with_layers_equals_a_plain_sequence(params: Params) -> None:
    made = adapter("morec", params, hidden_layers=2, init="xavier").eval()
    linears = [m for m in made.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(H, D), (D, D), (D, D)]
    assert not any(m.bias.any() for m in linears)
    expected = torch.from_numpy(DRAWN.rows * 40).float()
    for layer in linears:
        expected = F.gelu(expected @ layer.weight.T + layer.bias)
    assert np.allclose(table(made), expected.detach(), atol=1e-4)


def test_morec_drops_inputs_of_further_layers_only(params: Params) -> None:
    made = adapter("morec", params, hidden_layers=1).train()
    first, second = made.mapping
    torch.manual_seed(0)
    found = table(made)
    torch.manual_seed(0)
    inner = F.gelu(first.project(made.rows))
    expected = F.gelu(second.project(dropout(inner, params.train.dropout, True)))
    assert np.allclose(found, expected.detach(), atol=1e-6)
    assert not np.allclose(found, table(made.eval()), atol=1e-3)


def test_xavier_starts_with_the_stated_deviation(params: Params) -> None:
    torch.manual_seed(0)
    config = morec.Config(**params.methods["morec"] | {"init": "xavier", "init_gain": 2.0})
    weight = morec.Layer(300, 100, 0.0, config).project.weight.detach()
    # 30,000 draws: one deviation of the deviation is 0.4%
    assert float(weight.std()) == pytest.approx(2 * (2 / 400) ** 0.5, rel=0.02)


# ------------------------------------------------------------------------- WhitenRec


def test_pca_whitening_equals_alphafuse() -> None:
    ours = whiten(INPUTS.spectrum("centred"), "pca", eps=0.0, floor=1e-6)
    theirs = RECORDED["alphafuse"]["whitenrec"]["rows"]
    assert np.allclose(ours, turned(theirs, ours), atol=2e-5)


def test_whitenrec_equals_alphafuse(params: Params) -> None:
    made = adapter("whitenrec", params, kind="pca", eps=0.0)
    theirs = np.array(RECORDED["alphafuse"]["whitenrec"]["rows"])
    signs = np.sign((theirs * made.rows[0].numpy()).sum(0))
    load(list(made.mapping.parameters()), [DRAWN.w * signs, DRAWN.b])
    assert np.allclose(table(made), RECORDED["alphafuse"]["whitenrec"]["table"], atol=2e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_whitening_equals_dwsrec(groups: int) -> None:
    """Theirs divides by N, ours by N - 1."""
    ours = whiten_groups(DRAWN.rows, groups, "zca", eps=0.0, floor=1e-6)
    theirs = np.array(RECORDED["dwsrec"][str(groups)])
    assert np.allclose(ours, theirs * np.sqrt((N - 1) / N), atol=2e-5)


def test_whitenrec_plus_equals_a_public_port(params: Params) -> None:
    """Their rows are shorter by sqrt(N - 1); their first weights were recorded longer by it."""
    made = adapter("whitenrec", params, eps=0.0, groups=[2], head="mlp")
    load(list(made.mapping.parameters()), DRAWN.mlp)
    assert np.allclose(table(made), RECORDED["ace"]["table"], atol=2e-5)


def test_several_groups_are_summed(params: Params) -> None:
    made = adapter("whitenrec", params, groups=[2, 4], head="mlp")
    assert made.rows.shape == (3, N, H)
    one = [np.asarray(made.mapping.head(rows).detach()) for rows in made.rows]
    assert np.allclose(table(made), one[0] + one[1] + one[2], atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_every_layer_of_a_head_starts_within_its_bound(kind: Any) -> None:
    torch.manual_seed(0)
    made = whitenrec.head(kind, 400, 100, 0.5)
    for layer in (m for m in made if isinstance(m, torch.nn.Linear)):
        bound = 0.5 / layer.in_features**0.5
        for start in layer.parameters():
            assert 0.9 * bound < float(start.detach().abs().max()) <= bound


def test_groups_that_do_not_divide_the_width_are_refused(params: Params) -> None:
    with pytest.raises(ConfigError, match=r"whitenrec\.groups: 3 does not divide the 8 columns"):
        adapter("whitenrec", params, groups=[3])


@pytest.mark.parametrize(
    ("groups", "read"),
    [((), ("spectrum:centred",)), ((2,), ("spectrum:centred", "semantic"))],
)
def test_only_groups_read_the_embeddings(
    params: Params, groups: tuple[int, ...], read: tuple[str, ...]
) -> None:
    config = whitenrec.Config(**params.methods["whitenrec"] | {"groups": groups})
    assert whitenrec.needs(config) == read


# ------------------------------------------------------------------------- LLMInit


def test_principal_start_equals_alphafuse(params: Params) -> None:
    ours = table(adapter("llminit", params, std=1.0, standardize=True))
    theirs = turned(RECORDED["alphafuse"]["llminit"], ours)
    assert np.allclose(ours, theirs / theirs.std(ddof=1), atol=2e-5)


@pytest.mark.parametrize("seed", range(5))
def test_most_varied_columns_equal_llminit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, H)) * (1 + rng.random(H))
    counts = rng.permutation(40) + 1
    found = llminit.most_varied(values, counts, 0.2, D)
    assert found.tolist() == RECORDED["llminit"]["chosen"][str(seed)]


def test_items_are_counted_by_training_events_only(params: Params, inputs: Any) -> None:
    """The start is the chosen raw columns, centred and of the asked spread."""
    made = adapter("llminit", params, 3, inputs, kind="var", std=0.1, standardize=False)
    values = inputs.semantic.values[1:].astype(np.float64)
    counts = np.zeros(len(values), int)
    for user in range(inputs.sequences.num_users):
        first = inputs.sequences.offsets[user]
        for item in inputs.sequences.items[first : first + inputs.sequences.train_end[user]]:
            counts[item - 1] += 1
    ranked = sorted(range(len(values)), key=lambda i: (-counts[i], i))[: int(0.2 * len(values))]
    spread = [np.var([values[i, c] for i in ranked]) for c in range(values.shape[1])]
    columns = sorted(sorted(range(values.shape[1]), key=lambda c: -spread[c])[:3])
    expected = values[:, columns] - values[:, columns].mean(0)
    assert np.allclose(table(made), expected * 0.1 / expected.std(ddof=1), atol=1e-6)


def test_columns_may_keep_their_mean_or_get_equal_spread(params: Params, inputs: Any) -> None:
    values = inputs.semantic.values[1:] + np.arange(12, dtype=np.float32)
    inputs.semantic = SemanticEmbeddings(np.pad(values, ((1, 0), (0, 0))), "")
    changes = {"kind": "var", "popular_share": 1.0, "std": 0.5}
    raw = table(adapter("llminit", params, 3, inputs, **changes, centre=False, standardize=False))
    chosen = values[:, np.sort(np.argsort(-values.var(0))[:3])]
    assert np.allclose(raw, chosen * 0.5 / chosen.std(ddof=1), atol=1e-5)
    equal = table(adapter("llminit", params, 3, inputs, **changes, standardize=True))
    scaled = (chosen - chosen.mean(0)) / chosen.std(0, ddof=1)
    assert np.allclose(equal, scaled * 0.5 / scaled.std(ddof=1), atol=1e-5)


@pytest.mark.parametrize(
    ("share", "width", "error", "said"),
    [
        (0.05, 4, DataError, "fewer than two"),
        (1.0, 9, ConfigError, "8 dimensions, train.width asks for 9"),
    ],
)
def test_a_start_that_does_not_exist_is_refused(
    share: float, width: int, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        llminit.most_varied(DRAWN.rows, np.ones(N), share, width)


# ------------------------------------------------------------------------- SVD


@pytest.mark.parametrize("standardize", [False, True])
def test_svd_adds_scaled_coordinates_to_the_ids(params: Params, standardize: bool) -> None:
    made = adapter("svd", params, view="centred", scale=3.0, standardize=standardize)
    rows = DRAWN.rows - DRAWN.rows.mean(0)
    expected = rows @ np.linalg.svd(rows, full_matrices=False)[2][:D].T
    if standardize:
        expected /= expected.std(0, ddof=1)
    text = table(made) - made.id.detach().numpy()[1:]
    assert np.allclose(text, turned(3 * expected, text), atol=2e-5)


# ------------------------------------------------------------------------- AlphaFuse


def alphafuse_case(params: Params, name: str, width: int, **changes: Any) -> None:
    """Compare the table, with their ID vectors put in."""
    theirs = RECORDED["alphafuse"][name]
    made = adapter("alphafuse", params, width, **changes)
    nullity = made.weight.shape[1]
    assert nullity == theirs["nullity"]
    frozen = np.asarray(made.semantic()[1:])
    signs = np.sign((np.array(theirs["frozen"]) * frozen).sum(0))
    ids = np.tile(DRAWN.ids, 2)[:, :nullity]
    if len(signs) == width:  # added: a frozen column and its ID column turn together
        ids = ids * signs[-nullity:]
        expected = np.array(theirs["table"]) * signs
    else:
        expected = np.array(theirs["table"]) * np.append(signs, np.ones(nullity))
    made.weight.data[1:] = torch.from_numpy(ids)
    assert np.allclose(frozen, np.array(theirs["frozen"]) * signs, atol=2e-5)
    assert np.allclose(table(made), expected, atol=2e-5)


def test_alphafuse_adds_as_the_reference(params: Params) -> None:
    alphafuse_case(params, "add", D)


def test_alphafuse_covers_as_the_reference(params: Params) -> None:
    alphafuse_case(params, "cover", D, fusion="cover")


def test_alphafuse_threshold_counts_as_the_reference(params: Params) -> None:
    """Theirs: eigenvalues at or below 100 for rows of norm 40."""
    alphafuse_case(params, "threshold", H, null_threshold=100 / 40**2)


def test_alphafuse_without_standardising_differs_by_the_scale_of_40(params: Params) -> None:
    frozen = np.asarray(adapter("alphafuse", params, standardize=False).semantic()[1:])
    theirs = turned(RECORDED["alphafuse"]["raw"]["frozen"], frozen)
    assert np.allclose(40 * frozen, theirs, atol=2e-4)


@pytest.mark.parametrize("scale", [0.01, 300.0])
def test_the_threshold_does_not_feel_the_scale_of_the_encoder(params: Params, scale: float) -> None:
    config = alphafuse.Config(**params.methods["alphafuse"] | {"null_threshold": 100 / 40**2})
    spectrum = Inputs(DRAWN.rows * scale).spectrum("centred")
    assert (
        alphafuse.null_width(config, spectrum, H) == RECORDED["alphafuse"]["threshold"]["nullity"]
    )


@pytest.mark.parametrize(("threshold", "width"), [(0.51, 2), (0.45, 1), (0.125, 1)])
def test_the_threshold_is_met_by_variances_at_or_below_it(
    params: Params, threshold: float, width: int
) -> None:
    """Five rows: variances 16 / 4 and 4 / 4, mean squared norm 20 / 5 + 4; shares 1/2 and 1/8."""
    mean, s = np.array([2, 0], np.float32), np.array([4, 2], np.float32)
    spectrum = Spectrum("centred", mean, np.zeros((5, 2), np.float32), s, np.eye(2), "")
    config = alphafuse.Config(**params.methods["alphafuse"] | {"null_threshold": threshold})
    assert alphafuse.null_width(config, spectrum, 2) == width


def test_a_threshold_without_null_space_is_refused(params: Params) -> None:
    with pytest.raises(DataError, match="leaves no null space"):
        adapter("alphafuse", params, null_threshold=1e-9)


# ------------------------------------------------------------------------- all


def test_the_text_part_leaves_the_id_vectors_out(params: Params) -> None:
    for name in ("spectran", "svd", "alphafuse"):
        made = adapter(name, params, inputs=Both(DRAWN.rows))
        before = made.semantic().detach().clone()
        for parameter in made.parameters():
            if len(parameter.shape) == 2 and len(parameter) == N + 1:
                parameter.data[1:] += 3.0
        assert torch.equal(made.semantic(), before), name
        assert not before[0].any()


class Both(Inputs):
    """Both views, for methods that read the one that is not centred."""

    def spectrum(self, view: str) -> Spectrum:
        if view == "centred":
            return super().spectrum(view)
        u, s, vt = np.linalg.svd(self.semantic.values[1:].astype(np.float64), full_matrices=False)
        parts = (np.zeros(vt.shape[1]), u, s, vt.T)
        return Spectrum(view, *(p.astype(np.float32) for p in parts), "")


def test_a_table_of_text_is_its_own_text_part(params: Params) -> None:
    for name in ("morec", "whitenrec"):
        made = adapter(name, params)
        assert isinstance(made, TextMap)
        assert torch.equal(made.semantic(), made.table())
    assert adapter("llminit", params).semantic() is None


def test_joined_tables_have_the_text_of_their_parts() -> None:
    torch.manual_seed(0)
    text = TextMap(torch.randn(N, H), torch.nn.Linear(H, D), D)
    ids = IdTable(N, D, 1.0)
    for joined in (Sum([text, ids]), Concat([ids, text])):
        found = joined.semantic()
        assert found is not None and torch.equal(found, text.table())
    both = Concat([text, ids, text]).semantic()
    assert both is not None and torch.equal(both, torch.cat([text.table()] * 2, dim=1))
    assert Sum([ids, ids]).semantic() is None and Concat([ids]).semantic() is None
