"""Imports point one way: stages -> pipeline, and inside it from methods down to data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
PIPELINE = sorted((TREE / "pipeline").rglob("*.py"))
STAGES = sorted((TREE / "stages").glob("*.py"))

LIGHT = {"typer", "stages", "__future__"}
"""What a stage module may import when it is loaded, beside the standard library."""

LAYERS = (
    {"errors", "layers", "randomness"},
    {"files", "layouts", "strict"},
    {"codecs", "config", "naming"},
    {"artifacts", "params", "tensorfile"},
    {"cells", "inventory", "values"},
    {"data", "precedence", "sampling", "spectral"},
    {"adding", "download", "encoders", "model"},
    {"adapters", "agreement", "backbones", "fusion", "objectives"},
    {"evaluation", "methods"},
    {"reporting", "training"},
    {"experiment"},
    {"tuning"},
    {"checks"},
)
"""A module imports from its own layer and the ones before it."""


def imports(path: Path, *, top: bool) -> Iterator[str]:
    """Yield imported module names but those for types; top: only those of a loading module."""
    loaded = list(_loaded(ast.parse(path.read_text()).body))
    for node in loaded if top else (inner for outer in loaded for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."
            if node.module == "pipeline":
                yield from (f"pipeline.{alias.name}" for alias in node.names)


def _loaded(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node


def name(path: Path) -> str:
    return str(path.relative_to(TREE))


@pytest.mark.parametrize("path", PIPELINE, ids=name)
def test_the_library_knows_no_stage(path: Path) -> None:
    assert not [m for m in imports(path, top=False) if m.split(".")[0] == "stages"]


@pytest.mark.parametrize("path", STAGES, ids=name)
def test_a_stage_loads_nothing_heavy(path: Path) -> None:
    import sys

    allowed = LIGHT | sys.stdlib_module_names
    assert not [m for m in imports(path, top=True) if m.split(".")[0] not in allowed]


@pytest.mark.parametrize("path", PIPELINE, ids=name)
def test_inner_layers_know_no_outer_one(path: Path) -> None:
    depth = {module: place for place, layer in enumerate(LAYERS) for module in layer}
    own = path.relative_to(TREE / "pipeline").parts[0].removesuffix(".py")
    if path.name == "__init__.py" and path.parent.name == "pipeline":
        return
    assert own in depth, f"{own} has no place in LAYERS"
    for module in imports(path, top=False):
        parts = module.split(".")
        if parts[0] == "pipeline" and len(parts) > 1:
            assert depth[parts[1]] <= depth[own], f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", PIPELINE + STAGES, ids=name)
def test_no_code_is_loaded_from_data(path: Path) -> None:
    assert not {"pickle", "dill", "joblib", "shelve"} & set(imports(path, top=False))
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not {"eval", "exec"} & calls
