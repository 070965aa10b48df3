"""Blocks that use another block's file, and blocks with their own values of `train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import naming
from pipeline.cells import cells
from pipeline.config import Params
from pipeline.errors import ConfigError
from pipeline.methods import spectran
from pipeline.params import load
from pipeline.reporting.protocol import own_settings, protocol
from tests import plain

WRITTEN = plain.content()["methods"]
SMALL = {
    "of": "spectran",
    "query_width": 8,
    "train": {"dropout": 0.2, "loss": {"temperature": 0.1}},
}
METHODS = {
    "id": WRITTEN["id"],
    "spectran": WRITTEN["spectran"],
    "spectran_small": WRITTEN["spectran"] | SMALL,
}


def with_methods(tmp_path: Path, changes: dict[str, object] | None = None) -> Params:
    import yaml

    content = plain.content()
    content["methods"] = METHODS
    content["grid"]["text"]["method"] = ["spectran"]
    content["grid"]["ablation"] = {
        "encoder": ["minilm"], "backbone": ["sasrec"], "method": ["spectran_small"],
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    return load(tmp_path / "params.yaml", changes)


def test_a_variant_is_read_by_the_file_it_names() -> None:
    found = naming.settings("methods", "spectran_small", METHODS)
    assert isinstance(found, spectran.Config) and found.query_width == 8
    assert found.block == "methods.spectran_small"
    assert naming.file_of("methods", "spectran_small", METHODS) == "spectran"
    assert naming.file_of("methods", "id", METHODS) == "id"


def test_settings_made_in_code_are_those_of_their_file() -> None:
    values = naming.settings("methods", "spectran_small", METHODS).model_dump()
    assert spectran.Config(**values).block == "methods.spectran"


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("methods", "spectran_smal", "spectran_small"),  # a block
        ("methods", "llm_es", "llm_esr"),  # a file
        ("backbones", "bert4rec_prefixs", "bert4rec_prefixes"),
        ("backbones", "hst", "hstu"),
    ],
)
def test_a_misspelt_name_is_compared_with_blocks_and_files(
    kind: str, name: str, meant: str
) -> None:
    blocks = METHODS if kind == "methods" else plain.content()["backbones"]
    with pytest.raises(ConfigError) as refused:
        naming.settings(kind, name, blocks)
    said = str(refused.value)
    assert f"{kind}.{name}: no such block, and no pipeline/{kind}/{name}.py. " in said
    assert f"Did you mean {meant}?" in said
    known = said.partition("Known: ")[2].rstrip(".").split(", ")
    assert known == sorted({*blocks, *naming.names(kind)})


def test_changes_are_those_against_the_block_of_the_file() -> None:
    assert naming.changes("methods", "spectran", METHODS) == {}
    assert naming.changes("methods", "spectran_small", METHODS) == {
        "query_width": 8, "train.dropout": 0.2, "train.loss.temperature": 0.1,
    }  # fmt: skip


def test_a_method_replaces_values_of_train_and_the_command_line_wins(tmp_path: Path) -> None:
    params = with_methods(tmp_path)
    found = params.train_for("toys", "sasrec", "spectran_small")
    assert (found.dropout, found.loss.temperature, found.width) == (0.2, 0.1, 128)
    assert params.train_for("toys", "sasrec", "spectran").dropout == 0.1
    assert params.train_for("demo", "sasrec", "spectran_small").width == 32, "the data set's own"
    forced = with_methods(tmp_path, {"train.dropout": 0.5})
    assert forced.train_for("toys", "sasrec", "spectran_small").dropout == 0.5


def test_the_table_of_settings_tells_what_a_variant_changes(tmp_path: Path) -> None:
    params = with_methods(tmp_path)
    shown = cells(params.grid, "demo")
    changes = "query_width = 8, train.dropout = 0.2, train.loss.temperature = 0.1"
    assert own_settings(params, shown) == [
        {"name": "spectran_small", "of": "spectran", "settings": changes}
    ]
    assert "settings of their own" in protocol(params, "demo", shown)
    assert "settings of their own" not in protocol(params, "demo", ())


def test_a_variant_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no pipeline/methods/spectra\.py.*mean spectran\?"):
        naming.settings("methods", "x", {"x": {"of": "spectra"}})
