"""Text that says little: views that are not made, equal titles, constant and empty vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import artifacts, naming
from pipeline.params import load
from tests.stages.bad_training.toys import (
    FILES,
    METHODS,
    SPECTRAL,
    WRITTEN,
    cell_of,
    edit,
    file_of,
    run,
    said,
    text,
    trained,
)


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
    assert (
        f"spectrum.views: lists {lists}, but {view} is read by demo/hash/sasrec/{method}. Use "
        f"other methods, or add {view} there and run: spectran spectrum demo hash"
    ) in message
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


def test_vectors_of_nothing_but_zeros_are_not_blamed_on_the_learning_rate(
    here: Callable[..., Path],
) -> None:
    here(title=lambda n: "!?", spectrum=False)
    assert "are zero" in said(run("spectrum", "demo", "hash"))
    for method in ("morec", "unisrec", "rlmrec"):
        message = said(run("train", *cell_of(method)))
        assert "all embeddings of the 12 items are zero" in message
        assert "learning_rate" not in message
