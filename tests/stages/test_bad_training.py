"""Data and settings that training cannot use as they are: a right answer, or what to do instead.

Every method with the `hash` encoder on catalogues of a dozen items; no case leaves a traceback or
a number that is not finite (tables of ranks and curves are checked for that when they are read).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from click.testing import Result
from typer.testing import CliRunner

from pipeline import artifacts, naming
from pipeline.data.batches import held_out
from pipeline.experiment import Experiment
from pipeline.model import Method
from pipeline.params import load, read_yaml
from pipeline.values import Catalog, Sequences
from stages.cli import build

APP = build()
ITEMS, USERS, EVENTS, WIDTH = 12, 10, 6, 4
WRITTEN = read_yaml(Path("params.yaml"))
METHODS = list(WRITTEN["methods"])
FILES = naming.names("methods")
BACKBONES = ("sasrec", "bert4rec", "hstu")
SPECTRAL = {"llminit", "llminit_equal", "alphafuse", "alphafuse_cover", "svd", "llm_esr"}
"""Methods whose item vectors need as many components as they are wide (llm_esr: half)."""


def file_of(method: str) -> str:
    return naming.file_of("methods", method, WRITTEN["methods"])


def cell_of(method: str, backbone: str = "sasrec") -> tuple[str, str, str, str]:
    """Return the cell of a method as its file says that it runs."""
    found = naming.module("methods", file_of(method))
    encoder = "hash" if found.NEEDS else "none"
    untrained = found.build.__annotations__["return"] == "Untrained"
    return "demo", encoder, "none" if untrained else backbone, method


def run(*words: str) -> Result:
    done = CliRunner().invoke(APP, list(words))
    assert done.exit_code in (0, 2), f"{words}: {done.exception!r}\n{done.stderr}"
    return done


def said(done: Result) -> str:
    """Return the message of a command that a user's mistake stops."""
    assert done.exit_code == 2, done.output
    return done.stderr


def text(number: int) -> str:
    return f"Red toy {number} word{7 * number % 5}"


Title = Callable[[int], str]


def project(folder: Path, items: int = ITEMS, title: Title = text, **train: Any) -> Path:
    """Write a data set of users that walk up the catalogue, and encode its titles."""
    root = folder / "artifacts"
    content = yaml.safe_load(Path("params.yaml").read_text())
    small = {"width": WIDTH, "max_epochs": 1, "seeds": [0], "batch_size": 8}
    content["datasets"]["demo"]["train"] = small | train
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copy("revisions.yaml", folder)
    blank = [""] * items
    columns = {"raw_item": [f"i{n:02d}" for n in range(items)], "title": map(title, range(items))}
    columns |= {name: blank for name in ("brand", "categories", "description")}
    numbers = {"item": pa.array(range(1, items + 1), pa.uint32())}
    catalog = Catalog.of(pa.table(numbers | {n: pa.array(list(v)) for n, v in columns.items()}))
    catalog.save(root, "demo", {})
    starts = np.arange(USERS)[:, None] + np.arange(EVENTS)
    data = Sequences(
        raw_users=pa.array([f"u{n}" for n in range(USERS)]),
        items=(starts % items + 1).ravel().astype(np.int64),
        times=None,
        offsets=np.arange(USERS + 1) * EVENTS,
        train_end=np.full(USERS, EVENTS - 2),
        valid_at=np.full(USERS, EVENTS - 2),
        test_at=np.full(USERS, EVENTS - 1),
        num_items=items,
        fingerprint=catalog.fingerprint,
    )
    data.save(root, "demo", {})
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what makes a project folder the working directory, with vectors and spectra."""

    def make(*, spectrum: bool = True, **changes: Any) -> Path:
        folder = project(tmp_path, **changes)
        monkeypatch.chdir(folder)
        monkeypatch.delenv("SPECTRAN_CACHE", raising=False)
        assert run("encode", "demo", "hash").exit_code == 0
        if spectrum:
            assert run("spectrum", "demo", "hash").exit_code == 0
        return folder

    return make


def edit(changes: dict[str, Any]) -> None:
    """Lay values over params.yaml, by dotted keys; blocks that are not there are made."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    for key, value in changes.items():
        *blocks, last = key.split(".")
        place = content
        for block in blocks:
            place = place.setdefault(block, {})
        place[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def trained(*cell: str) -> None:
    """Train a cell and read what it left."""
    done = run("train", *cell)
    assert done.exit_code == 0, done.output
    fields = dict(zip(("dataset", "encoder", "backbone", "method"), cell, strict=True))
    artifacts.RANKS.load(Path("artifacts"), **fields, seed=0)
    if cell[2] != "none":
        artifacts.CURVES.load(Path("artifacts"), **fields, seed=0)
        arrays, _ = artifacts.MODEL.load(Path("artifacts"), **fields, seed=0)
        assert all(np.isfinite(array).all() for array in arrays.values())


# ------------------------------------------------------------------------- few components


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fewer_components_and_items_than_columns(here: Callable[..., Path], backbone: str) -> None:
    """12 items, 64 dimensions of text, 28 columns: at most 12 components, 11 when centred."""
    here(width=28)
    for method in METHODS if backbone == "sasrec" else FILES:
        cell = cell_of(method, backbone)
        if method not in SPECTRAL:
            trained(*cell)
            continue
        message = said(run("train", *cell))
        view, most = ("unit", 12) if method == "svd" else ("centred", 11)
        asked = "14 of datasets.demo.train.width 28 need one" if method == "llm_esr" else (
            "datasets.demo.train.width asks for 28"
        )  # fmt: skip
        at_most = 22 if method == "llm_esr" else most
        assert f"the {view} spectrum has {most} components, {asked}" in message, method
        assert f"Set datasets.demo.train.width to at most {at_most}, or use more items" in message


@pytest.mark.parametrize("method", sorted(SPECTRAL))
def test_the_width_that_is_said_to_fit_does(here: Callable[..., Path], method: str) -> None:
    here(width=28)
    found = re.search(r"to at most (\d+)", said(run("train", *cell_of(method))))
    assert found is not None
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["methods"]["llm_esr"]["heads"] = 1  # two do not divide half of 22
    content["datasets"]["demo"]["train"]["width"] = int(found[1])
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    trained(*cell_of(method))


@pytest.mark.parametrize(
    ("own", "key"),
    [
        ({}, "datasets.demo.train.width"),
        ({"backbones": "sasrec"}, "backbones.sasrec.train.width"),
        ({"backbones": "sasrec", "methods": "svd"}, "methods.svd.train.width"),
        (None, "train.width"),
    ],
)
def test_too_wide_names_the_key_that_sets_the_width(
    here: Callable[..., Path], own: dict[str, str] | None, key: str
) -> None:
    here(width=28)
    content = yaml.safe_load(Path("params.yaml").read_text())
    for section, name in (own or {}).items():
        content[section][name]["train"] = {"width": 28}
    if own is None:
        del content["datasets"]["demo"]["train"]["width"]
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    message = said(run("train", *cell_of("svd")))
    assert f", {key} asks for " in message and f"Set {key} to at most 12" in message


# ------------------------------------------------------------------------- keys to edit


MISFITS: tuple[tuple[int, dict[str, Any], str, str, str], ...] = (
    (9, {"backbones.sasrec.heads": 2}, "sasrec", "id",
     "backbones.sasrec.heads: 2 does not divide the width 9 (KEY). Allowed: a divisor of 9"),
    (9, {"backbones.bert4rec.heads": 2}, "bert4rec", "id",
     "backbones.bert4rec.heads: 2 does not divide the width 9 (KEY)"),
    (8, {"backbones.sasrec.heads": 8}, "sasrec", "llm_esr",
     "backbones.sasrec.heads: 8 does not divide the width 4 (a part of KEY 8)"),
    (8, {"methods.llm_esr.heads": 3}, "sasrec", "llm_esr",
     "methods.llm_esr.heads: 3 does not divide the width 4 (half of KEY 8)"),
    (9, {}, "sasrec", "llm_esr", "params.yaml: KEY: 9 is odd, but methods.llm_esr halves it"),
    (9, {"methods.rlmrec.fusion": "concat"}, "sasrec", "rlmrec",
     "params.yaml: KEY: 9 is odd, but methods.rlmrec.fusion: concat halves it"),
    (8, {"methods.unisrec.text_width": 3}, "sasrec", "unisrec",
     "methods.unisrec.text_width: 3 does not fit KEY 8 with fusion none"),
    (8, {"methods.alphafuse.null_threshold": 1e-12}, "sasrec", "alphafuse",
     "Use a larger threshold or KEY, or null_threshold: null"),
)  # fmt: skip
"""Width, other values, backbone, method, and what is said, with KEY for where the width is set."""


@pytest.mark.parametrize("section", ["", "datasets", "backbones", "methods"])
def test_a_size_that_does_not_fit_names_the_key_that_sets_the_width(
    here: Callable[..., Path], section: str
) -> None:
    here(width=7)
    if not section:  # the data set's own width would win
        content = yaml.safe_load(Path("params.yaml").read_text())
        del content["datasets"]["demo"]["train"]["width"]
        Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    before = Path("params.yaml").read_bytes()
    for width, changes, backbone, method, told in MISFITS:
        names = {"datasets": "demo", "backbones": backbone, "methods": method}
        key = f"{section}.{names[section]}.train.width" if section else "train.width"
        edit(changes | {key: width})
        assert told.replace("KEY", key) in said(run("train", *cell_of(method, backbone)))
        Path("params.yaml").write_bytes(before)


@pytest.mark.parametrize(
    ("kind", "name", "of", "changes", "told"),
    [
        ("methods", "whitenrec_plus", "whitenrec", {"groups": [5]}, ".groups: 5 does not divide"),
        ("methods", "alphafuse_cover", "alphafuse", {"null_threshold": 1e-12},
         ".null_threshold: 1e-12 leaves no null space"),
        ("methods", "llminit_var", "llminit", {"popular_share": 0.1},
         ".popular_share: 0.1 of 12 items are fewer than two"),
        ("methods", "spectran_no_attention", "spectran", {"position": "none"},
         ": attention and position are both none"),
        ("methods", "spectran_concat", "spectran", {"id_share": 0.01}, ".id_share: 0.01 of 8"),
        ("methods", "llm_esr_wide", "llm_esr", {"heads": 3}, ".heads: 3 does not divide"),
        ("methods", "llm_esr_wide", "llm_esr", {"train": {"width": 7}},
         ".train.width: 7 is odd, but methods.llm_esr_wide halves it"),
        ("methods", "rlmrec_wide", "rlmrec", {"fusion": "concat", "train": {"width": 7}},
         ".train.width: 7 is odd, but methods.rlmrec_wide.fusion: concat halves it"),
        ("methods", "unisrec_wide", "unisrec", {"id_width": 3}, ".id_width: 3 does not fit"),
        ("methods", "unisrec_wide", "unisrec", {"fusion": "concat", "id_width": 8},
         ".id_width: 8 leaves no column"),
        ("methods", "unisrec_wide", "unisrec",
         {"fusion": "concat", "id_width": 2, "text_width": 2}, ".id_width: 2 and text_width 2 add"),
        ("backbones", "bert4rec_last", "bert4rec", {"heads": 3}, ".heads: 3 does not divide"),
        ("backbones", "sasrec_softmax", "sasrec", {"heads": 3}, ".heads: 3 does not divide"),
    ],
)  # fmt: skip
def test_a_mistake_of_a_variant_names_its_own_block(
    here: Callable[..., Path], kind: str, name: str, of: str, changes: dict[str, Any], told: str
) -> None:
    here(width=8)
    block = yaml.safe_load(Path("params.yaml").read_text())[kind]
    edit({f"{kind}.{name}": {**block[of], **block.get(name, {}), "of": of, **changes}})
    method, backbone = (name, "sasrec") if kind == "methods" else ("id", name)
    encoder = "none" if method == "id" else "hash"
    message = said(run("train", "demo", encoder, backbone, method))
    assert f"params.yaml: {kind}.{name}{told}" in message and f"{kind}.{of}." not in message


# ------------------------------------------------------------------------- views of the spectrum


@pytest.mark.parametrize(
    ("method", "changes", "view", "lists"),
    [
        ("spectran", {"methods.spectran.view": "raw"}, "raw", "unit, centred"),
        ("svd", {"methods.svd.view": "unit_centred"}, "unit_centred", "unit, centred"),
        ("whitenrec", {"spectrum.views": ["unit"]}, "centred", "unit"),
    ],
)
def test_a_view_that_is_not_made_names_what_makes_it(
    here: Callable[..., Path], method: str, changes: dict[str, Any], view: str, lists: str
) -> None:
    here()
    (Path("artifacts/spectrum/demo/hash") / f"{view}.safetensors").unlink(missing_ok=True)
    edit(changes)
    message = said(run("train", *cell_of(method)))
    assert f"spectrum.views: lists {lists}, but {view} is read by demo/hash/sasrec/{method}. Add " \
        f"{view} there and run: spectran spectrum demo hash" in message  # fmt: skip
    edit({"spectrum.views": [*WRITTEN["spectrum"]["views"], view]})
    assert run("spectrum", "demo", "hash").exit_code == 0
    trained(*cell_of(method))


def test_a_view_that_lies_there_is_read_though_no_longer_listed(here: Callable[..., Path]) -> None:
    here()
    edit({"spectrum.views": ["unit"]})
    trained(*cell_of("whitenrec"))


# ------------------------------------------------------------------------- equal and short text


def test_equal_titles_lower_the_rank(here: Callable[..., Path]) -> None:
    here(title=lambda n: f"Toy {'abc'[n % 3]}")
    for method in FILES:
        if method not in SPECTRAL or method == "llm_esr":
            trained(*cell_of(method))  # two components are enough for llm_esr's half of 4
            continue
        message = said(run("train", *cell_of(method)))
        assert "items with equal text add none" in message and "lower the cutoff" in message


def test_an_encoder_narrower_than_the_items_vectors(here: Callable[..., Path]) -> None:
    here(spectrum=False, width=8)
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["encoders"]["hash"]["width"] = 5
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert run("encode", "demo", "hash", "--force").exit_code == 0
    assert run("spectrum", "demo", "hash").exit_code == 0
    message = said(run("train", *cell_of("svd")))
    assert "has 5 components" in message and "the encoder has 5 dimensions" in message
    assert "Set datasets.demo.train.width to at most 5, or use a wider encoder" in message
    message = said(run("train", *cell_of("llminit_var")))
    assert "have 5 dimensions, datasets.demo.train.width asks for 8" in message
    for method in ("spectran", "morec", "unisrec", "rlmrec", "whitenrec"):
        trained(*cell_of(method))


# ------------------------------------------------------------------------- text that says nothing


def test_constant_text(here: Callable[..., Path]) -> None:
    """The centred spectrum is refused; what reads raw vectors or their one component trains."""
    here(title=lambda n: "Toy", spectrum=False)
    message = said(run("spectrum", "demo", "hash"))
    assert "all the same" in message and "remove `centred` from spectrum.views, and" in message
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["spectrum"]["views"] = ["unit"]
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert run("spectrum", "demo", "hash").exit_code == 0
    settings = load(Path("params.yaml")).methods
    for method in METHODS:
        found = naming.module("methods", file_of(method))
        config = naming.settings("methods", method, settings)
        cell = cell_of(method)
        if "spectrum:centred" in naming.needs(found, config):
            message = said(run("train", *cell))
            assert f"centred is read by demo/hash/sasrec/{method}. Use other" in message
        elif method == "svd":
            assert "items with equal text add none" in said(run("train", *cell))
        elif method == "llminit_var":
            message = said(run("train", *cell))
            assert "the same for all 12 items" in message and "or the method id" in message
            assert "methods.llminit_var: 4 of the 4 dimensions" in message
        else:
            trained(*cell)


def test_vectors_of_zeros_among_others(here: Callable[..., Path]) -> None:
    here(title=lambda n: "!?" if n in (3, 7) else text(n))
    vectors, _ = artifacts.SEMANTIC.load(Path("artifacts"), dataset="demo", encoder="hash")
    assert not vectors["values"][[4, 8]].any()
    for method in FILES:
        trained(*cell_of(method))


# ------------------------------------------------------------------------- sizes at the border


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_catalogue_of_one_item(here: Callable[..., Path], backbone: str) -> None:
    here(items=1, spectrum=False)
    for method in METHODS if backbone == "sasrec" else FILES:
        message = said(run("train", *cell_of(method, backbone)))
        assert "train: demo: the catalogue has one item, and ranking needs at least two" in message
        assert "lower datasets.demo.preprocess.core" in message
    assert not Path("artifacts/ranks").exists()


def test_one_column(here: Callable[..., Path]) -> None:
    """Half of one column is none: refused where a part would vanish, trained otherwise."""
    here(width=1)
    refused = {
        "spectran_concat": "id_share: 0.5 of 1 columns (datasets.demo.train.width) are 0",
        "spectran_nullspace": "id_share: 0.5 of 1 columns (datasets.demo.train.width) are 0",
        "llm_esr": "is odd, but methods.llm_esr halves it",
        "unisrec_concat": "is odd, but methods.unisrec_concat.fusion: concat halves it",
        "rlmrec_concat": "is odd, but methods.rlmrec_concat.fusion: concat halves it",
    }
    for method in METHODS:
        if method in refused:
            assert refused[method] in said(run("train", *cell_of(method)))
        else:
            trained(*cell_of(method))


def test_no_null_space_is_all_text(here: Callable[..., Path]) -> None:
    here()
    words = ("--set", "methods.alphafuse.null_share=0", "--out", "s")
    assert run("train", *cell_of("alphafuse"), *words).exit_code == 0
    fields = {"dataset": "demo", "encoder": "hash", "backbone": "sasrec", "method": "alphafuse"}
    curves, _ = artifacts.CURVES.load(Path("s"), **fields, seed=0)
    assert "std_text" in curves["name"].to_pylist() and "std_id" not in curves["name"].to_pylist()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_events_beyond_the_history_change_nothing(here: Callable[..., Path], backbone: str) -> None:
    """With L = 3 the ranks of a user with five events before the target follow from three."""
    folder = here()
    changes = {f"backbones.{backbone}.history": 3}
    params = load(folder / "params.yaml", changes)
    cell = dict(zip(("dataset", "encoder", "backbone", "method"), cell_of("spectran", backbone),
                    strict=True))  # fmt: skip
    work = Experiment.prepare(params, folder / "artifacts", 2, cell)
    made = work.build()
    assert isinstance(made, Method)
    data = work.inputs.sequences
    scorer = made.model.eval().ranker("cosine")

    def scores(items: np.ndarray) -> torch.Tensor:
        held = held_out(replace(data, items=items.ravel()), "test")
        with torch.inference_mode():
            return scorer(held.history(slice(0, USERS), made.model.length))

    items = data.items.reshape(USERS, EVENTS)
    for places, read in ((slice(0, 2), False), (slice(2, 3), True), (slice(4, 5), True)):
        other = items.copy()
        other[:, places] = (other[:, places] + 5) % ITEMS + 1
        assert torch.equal(scores(items), scores(other)) != read, places


def test_histories_longer_than_l_train(here: Callable[..., Path]) -> None:
    here()
    content = yaml.safe_load(Path("params.yaml").read_text())
    for backbone in BACKBONES:
        content["backbones"][backbone]["history"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for backbone in BACKBONES:
        for method in FILES:
            cell = cell_of(method, backbone)
            if cell[2] != "none":
                trained(*cell)


def test_strata_without_users_are_dashes(here: Callable[..., Path]) -> None:
    """Every item is trained on at least once and at most six times: one stratum has all users."""
    here()
    content = yaml.safe_load(Path("params.yaml").read_text())
    for group in content["grid"].values():
        if isinstance(group, dict):
            group |= {"method": [], **({"encoder": []} if "encoder" in group else {})}
    content["grid"] |= {"encoder": ["hash"], "plain": {"backbone": ["sasrec"], "method": ["id"]}}
    content["grid"]["baseline"] = {"backbone": ["none"], "method": ["popularity"]}
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    stats = {"users": USERS, "items": ITEMS}
    artifacts.save_json(artifacts.DATA_STATS, Path("artifacts"), stats, dataset="demo")
    counts = Sequences.load(
        Path("artifacts"), "demo", Catalog.load(Path("artifacts"), "demo")
    ).train_counts()
    assert counts[1:].min() >= 1 and counts.max() <= 6
    for method in ("id", "popularity"):
        trained(*cell_of(method))
    for words in (("evaluate", "demo"), ("collapse", "demo"), ("report",)):
        done = run(*words)
        assert done.exit_code == 0, done.output
    metrics = artifacts.METRICS.load(Path("artifacts"), dataset="demo")[0].to_pylist()
    users = {row["slice"]: row["users"] for row in metrics if row["split"] == "test"}
    assert users == {"all": 10, "warm": 0, "median": 0, "cold": 10, "unseen": 0}
    assert {row["mean"] for row in metrics if not row["users"]} == {None}
    page = Path("artifacts/report/index.html").read_text()
    assert "Every test target has training events" in page
    row = page[page.index("<h3>By how often") :].split("<tr>")[2].split("</tr>")[0]
    cells = re.findall("<td.*?>(.*?)</td>", row)
    assert len(cells) == 5 and [cells[place].strip() for place in (1, 2, 4)] == ["-"] * 3


# ------------------------------------------------------------------------- another one's results


def stopped(folder: Path, *cell: str) -> Path:
    """Train a cell, and return the state it would have kept before its last epoch."""
    import pipeline.training.store as store

    kept = folder / "kept.safetensors"
    original = store.SeedStore.save

    def save(self: Any, progress: Any) -> None:
        original(self, progress)
        shutil.copy(self.folder / store.STATE, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.SeedStore, "save", save)
        patch.setenv("SPECTRAN_SAVE_EVERY_S", "0")
        assert run("train", *cell).exit_code == 0
    return kept


@pytest.mark.parametrize(
    ("other", "changes"),
    [("morec", {}), ("spectran", {"width": 6})],
    ids=["another method", "another width"],
)
def test_a_state_of_another_model_is_discarded(
    here: Callable[..., Path], other: str, changes: dict[str, int]
) -> None:
    folder, cell = here(), cell_of("spectran")
    trained(*cell)
    ranks = Path("artifacts/ranks/demo/hash/sasrec/spectran/0.parquet")
    wanted = ranks.read_bytes()
    (own,) = Path(".cache/train").iterdir()
    record = json.loads((own / "done.json").read_text())
    assert record["epochs"] == 1
    content = yaml.safe_load(Path("params.yaml").read_text())
    before = Path("params.yaml").read_bytes()
    content["datasets"]["demo"]["train"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    state = stopped(folder, *cell_of(other))
    Path("params.yaml").write_bytes(before)
    (own / "done.json").unlink()
    shutil.copy(state, own / "state.safetensors")
    done = run("train", *cell)
    assert done.exit_code == 0, done.output
    assert "train discard seed=0 reason=the kept state is of another model" in done.stdout
    assert ranks.read_bytes() == wanted


def test_ranks_and_models_of_another_cell_are_refused(here: Callable[..., Path]) -> None:
    here()
    for method in ("spectran", "morec"):
        trained(*cell_of(method))
    for kind, suffix in (("ranks", "parquet"), ("models", "safetensors"), ("curves", "parquet")):
        folder = Path("artifacts") / kind / "demo/hash/sasrec"
        shutil.copy(folder / f"morec/0.{suffix}", folder / f"spectran/0.{suffix}")
        shutil.copy(folder / f"morec/0.{suffix}", folder / f"morec/1.{suffix}")
    done = run("verify")
    for kind in ("ranks", "models", "curves"):
        for found, of in (("spectran/0", "morec/0"), ("morec/1", "morec/0")):
            assert re.search(
                rf"{kind}/demo/hash/sasrec/{found}\.\w+ is of demo/hash/sasrec/{of}: it was copied "
                rf"or renamed\. Run: spectran train demo hash sasrec {found[:-2]}",
                done.stdout,
            ), (kind, found)


def test_a_model_with_other_tensors_is_refused(here: Callable[..., Path]) -> None:
    """The header is right, the tensors are those of another version of the code."""
    folder = here()
    trained(*cell_of("id"))
    fields = {"dataset": "demo", "encoder": "none", "backbone": "sasrec", "method": "id"}
    arrays, header = artifacts.MODEL.load(Path("artifacts"), **fields, seed=0)
    weight = arrays.pop("adapters.item.weight")
    work = Experiment.prepare(load(folder / "params.yaml"), folder / "artifacts", 2, fields)
    for name, array in (("item.weight", weight), ("adapters.item.weight", weight[:, :2].copy())):
        artifacts.MODEL.save(
            Path("artifacts"), arrays | {name: array}, items=header["items"],
            params=header["params"], **fields, seed=0,
        )  # fmt: skip
        with pytest.raises(Exception, match=r"holds other tensors.*Run: spectran train demo none"):
            next(work.item_vectors(0))
