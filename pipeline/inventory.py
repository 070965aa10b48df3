"""What lies below an artifact root: every file, told by its path which artifact and cell it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.artifacts import Artifact
from pipeline.errors import ArtifactError
from pipeline.files import TEMPORARY
from pipeline.params import read_yaml

REPORT = "report"
"""Folder of the report: for people, read by no stage."""

PICTURE = "spectrum.svg"
"""Drawn beside the spectrum, for people; dvc.lock knows its hash."""


@dataclass(frozen=True)
class Found:
    """One file and what its path says."""

    path: Path
    artifact: Artifact | None
    """None for a file that no stage writes."""
    cell: dict[str, str]


def files(root: Path) -> Iterator[Found]:
    """Yield every file in sorted order, but for temporary ones and those for people."""
    patterns = [(artifact, _pattern(artifact.template)) for artifact in artifacts.ALL]
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if TEMPORARY in inside.parts or inside.parts[0] == REPORT:
            continue
        if path.name == PICTURE or not path.is_file():
            continue
        for artifact, pattern in patterns:
            if match := pattern.fullmatch(inside.as_posix()):
                yield Found(path, artifact, match.groupdict())
                break
        else:
            yield Found(path, None, {})


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(
        f"(?P<{part}>[a-z0-9_]+)" if place % 2 else re.escape(part)
        for place, part in enumerate(parts)
    )
    return re.compile(text)


# ---------------------------------------------------------------- dvc.lock


def locked(base: Path) -> dict[Path, str]:
    """Return path -> MD5 of every output that dvc.lock names; empty when there is no lock file.

    A folder's MD5 ends in `.dir`. An output that DVC does not cache has none. Raises ArtifactError
    when the file is not what DVC writes.
    """
    lock = base / "dvc.lock"
    if not lock.exists():
        return {}
    outputs: dict[Path, str] = {}
    try:
        for stage in read_yaml(lock).get("stages", {}).values():
            for output in stage.get("outs", ()):
                if "md5" in output:
                    outputs[base / output["path"]] = str(output["md5"])
    except (AttributeError, KeyError, TypeError):
        raise ArtifactError(
            f"{lock} is not as DVC writes it. Run: git checkout dvc.lock   (or: dvc repro)"
        ) from None
    return outputs


def md5(path: Path) -> str:
    """Return the MD5 that DVC gives a file, or a folder (of its sorted list of files)."""
    if path.is_file():
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "md5").hexdigest()
    inside = sorted(p for p in path.rglob("*") if p.is_file())
    entries: list[dict[str, Any]] = [
        {"md5": md5(p), "relpath": p.relative_to(path).as_posix()} for p in inside
    ]
    entries.sort(key=lambda entry: entry["relpath"])
    content = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
