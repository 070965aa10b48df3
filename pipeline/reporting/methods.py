"""What stands in the docstring of a method's module: summary, `Source` and `Differs`."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "methods"


@dataclass(frozen=True)
class MethodText:
    """The words of one method."""

    name: str
    summary: str
    source: str
    differs: str


def describe(
    name: str, file: str | None = None, changes: str = "", folder: Path = FOLDER
) -> MethodText:
    """Read the docstring of a method without importing it; empty texts where it says nothing.

    file: the method whose file a variant uses; changes: what the variant changes, in words.
    A block starts with `Source:` or `Differs:` and ends at a blank line or the next block.
    """
    path = folder / f"{file or name}.py"
    if not path.is_file():
        return MethodText(name, "", "", "")
    if file not in (None, name):
        return MethodText(name, f"As {file}, with {changes}.", "", "")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return MethodText(
        name,
        " ".join(text.split("\n\n")[0].split()),
        _block(text, "Source"),
        _block(text, "Differs"),
    )


def _block(text: str, title: str) -> str:
    found = re.search(
        rf"^{title}:(.*?)(?=\n\s*\n|\n[A-Z][a-z]+:|\Z)", text, re.DOTALL | re.MULTILINE
    )
    return " ".join(found[1].split()) if found else ""
