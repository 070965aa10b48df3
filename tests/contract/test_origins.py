"""The page quotes every `Differs` of what it shows, and no new file can be forgotten."""

from __future__ import annotations

import ast
import html
import inspect
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from pipeline import naming
from pipeline.cells import all_cells
from pipeline.config import Loss, Params
from pipeline.objectives.ranking import ranking_loss
from pipeline.params import load, read_yaml
from pipeline.reporting.methods import Origin, origins
from pipeline.reporting.page import render
from tests import plain

LIBRARY = Path("pipeline")
NOT_SHOWN = {LIBRARY / "tuning" / "propose.py"}
"""Searches choose settings; the report shows none of what they tried."""
SAMPLED = {
    "negatives": 8, "negatives_from": "trained", "similarity": "dot", "temperature": 1.0
}  # fmt: skip
LOSSES = {
    "infonce": SAMPLED,
    "softmax": {"similarity": "dot", "temperature": 1.0},
    "sampled_softmax": SAMPLED | {"sampling_power": 0.0},
    "bce": SAMPLED,
    "gbce": SAMPLED | {"calibration": 0.5},
}


def paragraph(docstring: str | None) -> str:
    """Return all words from `Differs:` to the next blank line."""
    lines = inspect.cleandoc(docstring or "").split("\n")
    start = next((n for n, line in enumerate(lines) if line.startswith("Differs:")), len(lines))
    kept = []
    for line in lines[start:]:
        if not line.strip():
            break
        kept.append(line)
    return " ".join(" ".join(kept).split()).removeprefix("Differs:").strip()


def stated() -> dict[tuple[Path, str], str]:
    """Return every `Differs` of the library: (file, what in it says so) -> words."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = paragraph(ast.get_docstring(node))
                if text:
                    found[path, getattr(node, "name", path.stem)] = text
    return found


STATED = stated()
SHOWN = {key: text for key, text in STATED.items() if key[0] not in NOT_SHOWN}


def params_of(content: dict[str, Any], folder: Path) -> Params:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load(path)


@pytest.fixture
def everything(tmp_path: Path) -> Params:
    """A grid of all blocks, all losses and one encoder per engine."""
    content = plain.content()
    trained = [name for name in content["backbones"] if name != "none"]
    for name, how in LOSSES.items():
        loss = {"name": name, **how}
        content["backbones"][f"with_{name}"] = content["backbones"]["sasrec"] | {
            "of": "sasrec", "train": {"loss": loss}
        }  # fmt: skip
        trained.append(f"with_{name}")
    engines = {block["engine"]: name for name, block in content["encoders"].items()}
    grid = content["grid"]
    grid["encoder"] = list(engines.values())
    grid["text"] = {
        "encoder": ["minilm"], "backbone": ["sasrec"], "method": list(content["methods"])
    }  # fmt: skip
    grid["plain"] = {"backbone": trained, "method": ["id"]}
    grid["baseline"] = {"backbone": ["none"], "method": []}
    grid["baseline_text"] = {"encoder": [], "backbone": ["none"], "method": []}
    return params_of(content, tmp_path)


def rows(params: Params) -> dict[str, Origin]:
    return {row.name: row for group in origins(params).values() for row in group}


def shown_text(params: Params) -> str:
    """Return the words of the page, without markup."""
    page = render([], origins(params))
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())


def test_every_difference_of_the_shipped_grid_is_on_the_page() -> None:
    params = load(Path("params.yaml"))
    docstrings = []
    for cell in all_cells(params.grid):
        for kind, name in (("methods", cell.method), ("backbones", cell.backbone)):
            file = naming.file_of(kind, name, getattr(params, kind))
            docstrings.append(naming.module(kind, file).__doc__)
        if cell.trained:
            docstrings.append(ranking_loss(cell.train(params).loss, np.ones(9, int)).__doc__)
    found = {text for text in map(paragraph, docstrings) if text}
    page = shown_text(params)
    assert len(found) > len(params.grid.text.method)
    assert not [text for text in found if text not in page]


def test_every_difference_of_the_library_is_on_the_page(everything: Params) -> None:
    assert {how.__name__ for how in get_args(get_args(Loss)[0])} == {
        type(cell.train(everything).loss).__name__ for cell in all_cells(everything.grid)
    }
    page = shown_text(everything)
    assert not [key for key, text in SHOWN.items() if text not in page]
    # Several files say "none known": each has a row of its own.
    assert not Counter(SHOWN.values()) - Counter(row.differs for row in rows(everything).values())


@pytest.mark.parametrize("kind", ["methods", "backbones"])
def test_every_file_says_its_differences(kind: str) -> None:
    said = {path.stem for path, _ in STATED if path.parent == LIBRARY / kind}
    assert said == set(naming.names(kind)) - {"none"}


def test_parts_stand_with_the_file_that_is_composed_of_them(everything: Params) -> None:
    assert {name for name in rows(everything) if name.startswith("part of")} == {
        "part of llm_esr: CrossAttention",
        "part of llm_esr: SoftContrast",
        "part of rlmrec: contrast",
        "part of bert4rec: Masking",
    }


def test_a_variant_names_its_file_and_repeats_nothing(everything: Params) -> None:
    found = rows(everything)
    row = found["spectran_sigma"]
    assert (row.source, row.differs) == (
        "as spectran", "as spectran; changes position = sigma"
    )  # fmt: skip
    assert found["bert4rec_last"].differs == "as bert4rec; changes last_only = 1.0"
    page = shown_text(everything)
    assert page.count(found["spectran"].differs) == page.count(found["bert4rec"].differs) == 1


def test_the_file_of_a_lonely_variant_is_described(tmp_path: Path) -> None:
    content = plain.content()
    content["grid"]["text"]["method"] = ["spectran_sigma"]
    params = params_of(content, tmp_path)
    names = list(rows(params))
    assert names.index("spectran_sigma") == names.index("spectran") + 1
    assert STATED[LIBRARY / "methods" / "spectran.py", "spectran"] in shown_text(params)


def test_what_a_docstring_says_is_escaped(tmp_path: Path) -> None:
    row = Origin("<b>", "<i>", "<script>", "<img>")
    page = render([], {"<u>": [row]})
    assert not re.search("<(b|i|u|script|img)>", page[page.index('<section id="methods"') :])


def test_what_is_quoted_re_runs_the_report() -> None:
    deps = [Path(dep) for dep in read_yaml(Path("dvc.yaml"))["stages"]["report"]["deps"]]
    quoted = {path for path, _ in SHOWN}
    assert not [p for p in quoted if not any(p == dep or dep in p.parents for dep in deps)]
