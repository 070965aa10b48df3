"""Errors a user can cause. The command line prints them without a traceback and exits 2.

A message says where, what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpectranError(Exception):
    """A mistake the user can mend; anything else that escapes is a bug."""


class ConfigError(SpectranError):
    """params.yaml or a command-line argument is wrong."""


class DataError(SpectranError):
    """The user's data are not what the parameters promise."""


class DivergedError(DataError):
    """A loss or a score is not finite: these settings cannot be trained."""


class ArtifactError(SpectranError):
    """A file exchanged between stages is missing, altered, or made from other inputs."""


class ResourceError(SpectranError):
    """The machine lacks what the work needs: disk, memory, a device."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return the hint "Did you mean x? Known: a, b." for a name that is not in `known`."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{hint} Known: {', '.join(names) if names else 'none'}."
