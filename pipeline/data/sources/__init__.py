"""Raw formats: one file each, found by name.

A module has `ROLES`, the files it wants, and `read(files, source) -> RawTables`, where `files` maps
each role to a local path.
"""

from __future__ import annotations

from types import ModuleType

from pipeline import naming
from pipeline.config import Source, Synthetic
from pipeline.errors import ConfigError, near_miss

KIND = "data/sources"


def reader(dataset: str, source: Source) -> ModuleType:
    """Return the module that reads a data set's raw files.

    Raises ConfigError for an unknown format, and for files that are not those it reads.
    """
    where, known = f"params.yaml: datasets.{dataset}.source", naming.names(KIND)
    if source.format not in known:
        raise ConfigError(
            f"{where}.format: {source.format} is unknown.{near_miss(source.format, known)}"
        )
    found = naming.module(KIND, source.format)
    if not isinstance(source.origin, Synthetic) and set(source.origin.files) != set(found.ROLES):
        raise ConfigError(
            f"{where}.origin.files: found {', '.join(source.origin.files)}, but the format "
            f"{source.format} reads {', '.join(found.ROLES)}. Name these, each once."
        )
    return found
