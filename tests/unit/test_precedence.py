"""Whose values of `train` a cell uses, and what is said where a data set's are in vain."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cells import Cell, cells
from pipeline.config import Params
from pipeline.errors import ConfigError
from pipeline.params import load
from pipeline.precedence import outranked, warnings
from pipeline.reporting.protocol import protocol
from pipeline.tuning.space import lay
from tests import plain

ID = Cell("demo", "none", "sasrec", "id")
MOREC = Cell("demo", "hash", "sasrec", "morec")


def written(
    folder: Path, own: dict[str, Any], changes: dict[str, Any] | None = None, **blocks: Any
) -> Params:
    """Parameters whose data set `demo` trains with `own`; blocks: own values of methods."""
    content = plain.content()
    content["datasets"]["demo"]["train"] = own
    for name, values in blocks.items():
        section = "methods" if name in content["methods"] else "backbones"
        content[section][name]["train"] = values
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return load(folder / "params.yaml", changes)


def test_a_method_s_own_value_outranks_the_data_set_s(tmp_path: Path) -> None:
    params = written(tmp_path, {"dropout": 0.6, "width": 8}, id={"dropout": 0.3})
    assert outranked(params, ID) == {"train.dropout": ("methods.id.train", 0.3)}
    assert outranked(params, MOREC) == {}
    assert outranked(params, Cell("demo", "none", "none", "popularity")) == {}


def test_a_backbone_s_own_value_is_told_apart_from_the_method_s(tmp_path: Path) -> None:
    params = written(
        tmp_path, {"dropout": 0.6, "width": 8}, sasrec={"dropout": 0.2, "width": 4}, id={"width": 2}
    )
    assert outranked(params, ID) == {
        "train.dropout": ("backbones.sasrec.train", 0.2),
        "train.width": ("methods.id.train", 2),
    }


def test_a_value_that_is_the_same_in_both_places_is_used(tmp_path: Path) -> None:
    # YAML reads 1e-3 as text.
    own = {"learning_rate": "1e-3"}
    assert outranked(written(tmp_path, own, id={"learning_rate": 0.001}), ID) == {}


def test_a_loss_of_another_name_outranks_every_key_of_the_old_one(tmp_path: Path) -> None:
    loss = {"name": "softmax", "similarity": "cosine", "temperature": 0.07}
    params = written(tmp_path, {"loss": {"negatives": 5}}, id={"loss": loss})
    assert outranked(params, ID) == {"train.loss.negatives": ("methods.id.train", None)}


def test_one_warning_per_value_names_every_block(tmp_path: Path) -> None:
    params = written(tmp_path, {"dropout": 0.6}, id={"dropout": 0.3}, morec={"dropout": 0.2})
    assert list(warnings(params, [ID, MOREC, Cell("demo", "hash", "sasrec", "svd")])) == [
        "params.yaml: datasets.demo.train.dropout is outranked by methods.id.train (0.3), "
        "methods.morec.train (0.2). Change it there, or take it out there."
    ]


def test_the_command_line_s_value_for_a_data_set_wins_for_that_one(tmp_path: Path) -> None:
    changes = {"datasets.demo.train.dropout": 0.65}
    params = written(tmp_path, {}, changes, id={"dropout": 0.3}, sasrec={"dropout": 0.2})
    assert ID.train(params).dropout == 0.65 and outranked(params, ID) == {}
    assert params.train_for("toys", "sasrec", "id").dropout == 0.3
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # as seeds train side by side
        assert pool.submit(ID.train, params).result().dropout == 0.65


def test_the_command_line_s_nested_value_keeps_its_neighbours(tmp_path: Path) -> None:
    own = {"loss": {"negatives": 5}}
    changes = {"datasets.demo.train.loss.negatives": 7}
    params = written(tmp_path, own, changes, id={"loss": {"negatives": 3, "temperature": 0.5}})
    loss = ID.train(params).loss.model_dump()
    assert (loss["negatives"], loss["temperature"]) == (7, 0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("datasets.toys.preprocess.keep_last", 50),
        ("datasets.toys.preprocess.split.train", 0.7),
        ("methods.spectran.train.dropout", 0.65),
        ("methods.spectran_sigma.train.dropout", 0.65),
    ],
)
def test_a_change_reaches_no_block_that_shares_an_anchor(key: str, value: float) -> None:
    before, after = (load(Path("params.yaml"), c).model_dump() for c in ({}, {key: value}))
    *parents, last = key.split(".")
    node, old = after, before
    for parent in parents:
        node, old = node[parent], old[parent]
    assert node[last] == value != old[last]
    node[last] = old[last]
    assert after == before


def test_the_command_line_s_width_is_the_key_that_messages_name(tmp_path: Path) -> None:
    changes = {"datasets.demo.train.width": 6}
    params = written(tmp_path, {}, changes, id={"width": 4})
    assert params.width_key("demo", "sasrec", "id") == "datasets.demo.train.width"
    assert params.width_key("toys", "sasrec", "id") == "methods.id.train.width"


def test_a_search_still_changes_what_the_command_line_sets(tmp_path: Path) -> None:
    changes = {"datasets.demo.train.dropout": 0.65, "datasets.demo.train.width": 6}
    tried = lay(written(tmp_path, {}, changes), ID.backbone, "id", {"train.dropout": 0.1})
    assert (ID.train(tried).dropout, ID.train(tried).width) == (0.1, 6)


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        (["id", "svd"], "train.dropout = 0.6 (but for settings of their own), train.width = 8"),
        (["svd"], "train.dropout = 0.6, train.width = 8"),
        (["id"], "train.width = 8"),
    ],
)
def test_the_protocol_claims_no_value_that_no_cell_used(
    tmp_path: Path, methods: list[str], told: str
) -> None:
    params = written(tmp_path, {"dropout": 0.6, "width": 8}, id={"dropout": 0.3})
    shown = [cell for cell in cells(params.grid, "demo") if cell.method in methods]
    untrained = Cell("demo", "none", "none", "popularity")
    found = protocol(params, "demo", [untrained, *shown])["overrides"]
    assert found == f"{told} (a quick look, not a result)"


@pytest.mark.parametrize("block", ["id", "sasrec"])
def test_no_block_has_a_stopping_curve_of_its_own(tmp_path: Path, block: str) -> None:
    params = written(tmp_path, {"monitor_k": 5}, **{block: {"monitor_k": 10}})
    with pytest.raises(ConfigError, match=rf"{block}\.train\.monitor_k.* datasets\.demo\.train"):
        ID.train(params)
    assert MOREC.train(written(tmp_path, {}, {"train.monitor_k": 5})).monitor_k == 5


def test_the_protocol_says_that_stopping_ranks_seen_items_too(tmp_path: Path) -> None:
    said = [
        protocol(written(tmp_path, {}, {"evaluate.seen_items": how}), "demo", [ID])["epochs"]
        for how in ("candidates", "excluded")
    ]
    assert said[1] == f"{said[0]}, seen items among the candidates"
