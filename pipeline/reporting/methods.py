"""The section Methods: what docstrings say of everything that the shown cells are made of.

A docstring tells where its thing comes from under `Source`, and every known difference from that
under `Differs`. Files are read and never imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import naming
from pipeline.cells import all_cells
from pipeline.config import Loss, Params
from pipeline.reporting.protocol import words

PIPELINE = Path(__file__).parent.parent

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Origin:
    """One row: a file, a part that it is composed of, a variant of it, or a loss."""

    name: str
    summary: str
    source: str
    differs: str


def origins(params: Params) -> dict[str, list[Origin]]:
    """Return the rows of all that the grid names, by the title of their group; none is empty."""
    shown = all_cells(params.grid)
    trained = [cell for cell in shown if cell.trained]
    losses = {how.name: how for how in (cell.train(params).loss for cell in trained)}
    found = {
        "Methods": list(_blocks("methods", (c.method for c in shown), params.methods)),
        "Backbones": list(_blocks("backbones", (c.backbone for c in trained), params.backbones)),
        "Losses": [_loss(how) for how in losses.values()],
        "Text encoders and their spectra": list(_text(params)),
    }
    return {title: rows for title, rows in found.items() if rows}


def _blocks(
    kind: str, names: Iterable[str], blocks: Mapping[str, dict[str, Any]]
) -> Iterator[Origin]:
    """Yield every file that blocks are read by, each before its parts and its variants."""
    files: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        files.setdefault(naming.file_of(kind, name, blocks), []).append(name)
    for file, own in files.items():
        path = PIPELINE / kind / f"{file}.py"
        yield described(file, path)
        yield from parts(file, path)
        for name in own:
            if name != file:
                changes = words(naming.changes(kind, name, blocks)) or "nothing"
                yield Origin(name, "", f"as {file}", f"as {file}; changes {changes}")


def _loss(how: Loss) -> Origin:
    """Return what a loss says: its class is named as that of its settings, less `Loss`."""
    classes: dict[str, Documented] = {}
    for path in sorted((PIPELINE / "objectives").glob("*.py")):
        classes |= _defined(path)
    return _origin(how.name, classes[type(how).__name__.removesuffix("Loss")])


def _text(params: Params) -> Iterator[Origin]:
    """Yield the engine of every encoder, and the decomposition that all of them pass."""
    engines: dict[str, list[str]] = {}
    for name in params.grid.encoder:
        engines.setdefault(params.encoder(name).engine, []).append(name)
    for engine, own in engines.items():
        found = described(engine, PIPELINE / "encoders" / f"{engine}.py")
        yield replace(found, summary=f"{found.summary} Encoders: {', '.join(own)}.")
    if engines:
        yield described("spectrum", PIPELINE / "spectral" / "decompose.py")


def described(name: str, path: Path) -> Origin:
    """Return what a file says of itself; empty texts where it says nothing or is not there."""
    return _origin(name, _parsed(path))


def parts(file: str, path: Path) -> Iterator[Origin]:
    """Yield what a file is composed of and what tells its own differences.

    Parts are the classes and functions that the file imports from the library, and those of the
    same module that they name in turn: a fusion is found, and the attention within it.
    """
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            module = PIPELINE.parent / f"{str(node.module).replace('.', '/')}.py"
            defined = _defined(module)
            for name in _reached([alias.name for alias in node.names], defined):
                found = _origin(f"part of {file}: {name}", defined[name])
                if found.differs:
                    yield found


def _reached(names: Iterable[str], defined: Mapping[str, Documented]) -> list[str]:
    found = [name for name in names if name in defined]
    for name in found:  # grows while it is read
        inside = {node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)}
        found += [other for other in defined if other in inside and other not in found]
    return found


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")


def _defined(path: Path) -> dict[str, Documented]:
    body = _parsed(path).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def _origin(name: str, node: Documented) -> Origin:
    text = ast.get_docstring(node) or ""
    summary = " ".join(text.split("\n\n")[0].split())
    return Origin(name, summary, _block(text, "Source"), _block(text, "Differs"))


def _block(text: str, title: str) -> str:
    """Return the words from `title:` to a blank line or the other title."""
    end = r"\n\s*\n|\n(?:Source|Differs):|\Z"
    found = re.search(rf"^{title}:(.*?)(?={end})", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""
