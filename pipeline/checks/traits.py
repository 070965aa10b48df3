"""What a method says of itself in its own file: inputs, training."""

from __future__ import annotations

from types import ModuleType

from pipeline import naming
from pipeline.config import Params
from pipeline.errors import ConfigError

TEXT = ("semantic", "spectrum")
"""Inputs that are made from item text, once per encoder."""


def method_file(params: Params, name: str) -> ModuleType | None:
    """Return the file that reads a method's block, if it exists."""
    try:
        return naming.module("methods", naming.file_of("methods", name, params.methods))
    except ConfigError:
        return None


def method_needs(params: Params, name: str) -> set[str] | None:
    """Return the inputs a method declares (`spectrum:unit` counts as spectrum), if it exists."""
    found = method_file(params, name)
    if found is None:
        return None
    return {need.partition(":")[0] for need in getattr(found, "NEEDS", ())}


def reads_text(params: Params, name: str) -> bool | None:
    """Whether a method reads what is made from item text; None when it does not exist."""
    needs = method_needs(params, name)
    return None if needs is None else any(need in TEXT for need in needs)


def is_untrained(params: Params, name: str) -> bool | None:
    """Whether a method's `build` says that it returns something without training."""
    found = method_file(params, name)
    return None if found is None else naming.is_untrained(found)
