"""Widths that do not fit the text or the model: a right answer, or which key to change.

No case leaves a traceback or a number that is not finite (tables of ranks and curves are checked
for that when they are read).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stages.bad_training.toys import (
    BACKBONES,
    FILES,
    METHODS,
    SPECTRAL,
    cell_of,
    edit,
    run,
    said,
    trained,
)


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
