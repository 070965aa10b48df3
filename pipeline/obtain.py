"""From a source in params.yaml to raw files on this machine, and the manifest that names them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import Download, Local, Source, Synthetic, Web, expand
from pipeline.data import demo
from pipeline.errors import ConfigError, DataError
from pipeline.rawfiles import entry, folder, origins

Advance = Callable[[int], None]
Say = Callable[[str], None]


def terms(source: Source) -> str | None:
    """Return the words shown before anything is fetched; None for the user's own files."""
    origin = source.origin
    if isinstance(origin, Web):
        return origin.terms
    if isinstance(origin, Synthetic):
        return "synthetic data, generated here; it describes no real product or person"
    return None


def known_bytes(source: Source) -> int | None:
    """Return the bytes to fetch, as far as the publisher states them."""
    if not isinstance(source.origin, Web):
        return None
    sizes = {file.url: file.size_bytes for file in source.origin.files.values()}
    stated = [size for size in sizes.values() if size is not None]
    return sum(stated) if len(stated) == len(sizes) else None


def obtain(
    dataset: str,
    source: Source,
    settings: Download,
    cache: Path,
    base: Path,
    force: bool,
    advance: Advance,
    say: Say,
) -> dict[str, Any]:
    """Bring every raw file here and return the manifest (see `pipeline.rawfiles`).

    force: fetch again what the cache already holds.
    """
    origin = source.origin
    if isinstance(origin, Local):
        found = _own(dataset, origin, base)
        names = {role: path.name for role, path in found.items()}
    elif isinstance(origin, Synthetic):
        found = _generate(origin, folder(cache, dataset), advance)
        names = dict(demo.FILES)
    else:
        raise ConfigError("not yet")
    wanted = origins(source)
    files = {role: entry(found[role], names[role], wanted[role], cache) for role in sorted(wanted)}
    return {"dataset": dataset, "terms": terms(source), "files": files}


def _own(dataset: str, origin: Local, base: Path) -> dict[str, Path]:
    found = {}
    for role, written in origin.files.items():
        where = f"params.yaml: datasets.{dataset}.source.origin.files.{role}: {written}"
        path = expand(written, base)
        if not path.is_file():
            kind = "a folder, not a file" if path.is_dir() else "no such file"
            raise DataError(f"{where}: {kind}. Write the path of the file, or bring it there.")
        if not os.access(path, os.R_OK):
            raise DataError(f"{where}: may not be read. Give yourself the right to read it.")
        if not path.stat().st_size:
            raise DataError(f"{where}: the file is empty.")
        found[role] = path
    return found


def _generate(origin: Synthetic, target: Path, advance: Advance) -> dict[str, Path]:
    """Write the demo data beside their final place and rename them there, whole."""
    scratch = target / f".tmp-{os.getpid()}"
    try:
        paths = demo.write(origin, scratch, advance)
        for path in paths.values():
            path.replace(target / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {role: target / name for role, name in demo.FILES.items()}
