"""Catalogues and histories at the border, and results that belong to another cell."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline import artifacts
from pipeline.experiment.prepared import Experiment
from pipeline.model import Method
from pipeline.params import load
from pipeline.sampling.batches import held_out
from pipeline.values import Catalog, Sequences
from tests.stages.bad_training.toys import (
    BACKBONES,
    EVENTS,
    FILES,
    ITEMS,
    METHODS,
    USERS,
    cell_of,
    run,
    said,
    trained,
)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_catalogue_of_one_item(here: Callable[..., Path], backbone: str) -> None:
    here(items=1, spectrum=False)
    message = said(run("spectrum", "demo", "hash"))
    assert "spectrum: the catalogue has one item" in message and "lower preprocess.core" in message
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
    for method in FILES:
        trained(*cell_of(method))
    for backbone in BACKBONES[1:]:
        trained(*cell_of("spectran", backbone))


@pytest.mark.parametrize(
    ("cold", "median", "users"),
    [
        (6, 50, {"warm": 0, "median": 0, "cold": 10, "unseen": 0}),
        (1, 3, {"warm": 5, "median": 5, "cold": 0, "unseen": 0}),
    ],
    ids=["all cold", "none cold"],
)
def test_strata_without_users_are_dashes(
    here: Callable[..., Path], cold: int, median: int, users: dict[str, int]
) -> None:
    """Test targets have two to four training events."""
    here()
    content = yaml.safe_load(Path("params.yaml").read_text())
    for group in content["grid"].values():
        if isinstance(group, dict):
            group |= {"method": [], **({"encoder": []} if "encoder" in group else {})}
    content["grid"] |= {"encoder": ["hash"], "plain": {"backbone": ["sasrec"], "method": ["id"]}}
    content["grid"]["baseline"] = {"backbone": ["none"], "method": ["popularity"]}
    content["evaluate"]["strata"] = {"cold_at_most": cold, "median_at_most": median}
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    stats = {"users": USERS, "items": ITEMS}
    artifacts.save_json(artifacts.DATA_STATS, Path("artifacts"), stats, dataset="demo")
    data = Sequences.load(Path("artifacts"), "demo", Catalog.load(Path("artifacts"), "demo"))
    counts = data.train_counts()[held_out(data, "test").targets]
    assert (counts.min(), counts.max()) == (2, 4)
    for method in ("id", "popularity"):
        trained(*cell_of(method))
    for words in (("evaluate", "demo"), ("collapse", "demo"), ("report",)):
        done = run(*words)
        assert done.exit_code == 0, done.output
    metrics = artifacts.METRICS.load(Path("artifacts"), dataset="demo")[0].to_pylist()
    found = {row["slice"]: row["users"] for row in metrics if row["split"] == "test"}
    assert found == {"all": USERS} | users
    assert {row["mean"] for row in metrics if not row["users"]} == {None}
    page = Path("artifacts/report/index.html").read_text()
    assert "Every test target has training events" in page
    lines = page[page.index("<h3>By how often") :].split("</table>")[0].split("<tr>")[2:]
    shown = [[cell.strip() for cell in re.findall("<td.*?>(.*?)</td>", row)] for row in lines]
    text = Path("artifacts/report/results.md").read_text()
    lines = text[text.index("by how often") :].split("Bold:")[0].strip().splitlines()[4:]
    shown += [[cell.strip() for cell in row.split("|")[2:-1]] for row in lines]
    assert len(shown) == 4
    for row in shown:
        assert [cell == "-" for cell in row] == [False, *(not count for count in users.values())]


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
    [("morec", {}), ("spectran_no_scale", {}), ("spectran", {"width": 6})],
    ids=["another method", "another method of the same sizes", "another width"],
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
