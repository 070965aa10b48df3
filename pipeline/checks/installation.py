"""The installed packages: other code under the same names would be run instead."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pipeline


def packaging() -> Iterator[str]:
    """Yield other distributions that bring the same top-level names: the code could be mixed up."""
    owners = metadata.packages_distributions()
    for package in ("pipeline", "stages"):
        found = set(owners.get(package, ()))
        if others := sorted(found - {"spectran"}):
            yield (
                f"the package `{package}` is also installed by {', '.join(others)}, and Python may "
                f"take the wrong one. Use an environment of its own: make demo, or "
                f"pip uninstall {' '.join(others)}"
            )
        if "spectran" not in found:
            yield f"`{package}` is not installed by spectran. Run: pip install -e ."


def other_checkout(base: Path) -> Iterator[str]:
    """Yield a warning when the code that runs is not that of this checkout."""
    here, running = (base / "pipeline").resolve(), Path(pipeline.__file__ or ".").resolve().parent
    if here.is_dir() and here != running:
        yield (
            f"the code that runs is {running.parent}, not that of {here.parent}. "
            f"Run there: pip install -e ."
        )
