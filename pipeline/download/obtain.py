"""From a source in params.yaml to raw files on this machine, and the manifest that names them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.config import Download, Local, Source, Synthetic, Web
from pipeline.data import demo
from pipeline.download.fetch import Fetcher, Wanted, alone
from pipeline.download.rawfiles import entry, folder, origins
from pipeline.download.transfer import offered_bytes
from pipeline.download.unpack import is_archive, unpack
from pipeline.errors import ConfigError, DataError
from pipeline.params import expand

Advance = Callable[[int], None]

UNFINISHED = ".unfinished"
"""Folder of files that are not whole yet; whoever holds the data set's lock may clear it."""


def read_from(source: Source) -> str | None:
    """Return where the locations of files on the web were read; None for other files."""
    return source.origin.read_from if isinstance(source.origin, Web) else None


def terms(source: Source) -> str | None:
    """Return the words shown before anything is fetched; None for the user's own files."""
    origin = source.origin
    if isinstance(origin, Web):
        return origin.terms
    if isinstance(origin, Synthetic):
        return "synthetic data, generated here; it describes no real product or person"
    return None


def bytes_to_fetch(
    dataset: str, source: Source, settings: Download, base: Path, ask: bool
) -> int | None:
    """Return the bytes of all files, as the publisher or, with `ask`, the servers state them.

    None when one of them is unknown, and for data that are not fetched.
    """
    if not isinstance(source.origin, Web):
        return None
    total = 0
    for wanted in _wanted(dataset, source.origin, settings, base):
        size = wanted.size_bytes
        if size is None and ask:
            size = offered_bytes(wanted.url, settings.timeout_s)
        if size is None:
            return None
        total += size
    return total


def obtain(
    dataset: str,
    source: Source,
    settings: Download,
    cache: Path,
    base: Path,
    force: bool,
    advance: Advance,
) -> dict[str, Any]:
    """Bring every raw file here and return the manifest (see `pipeline.download.rawfiles`).

    force: fetch again what the cache already holds.
    """
    origin = source.origin
    home = folder(cache, dataset)
    if isinstance(origin, Local):
        found = _own(dataset, origin, base)
    else:
        home.mkdir(parents=True, exist_ok=True)
        with alone(home):
            if isinstance(origin, Synthetic):
                found = _generate(origin, home, advance)
            else:
                wanted = _wanted(dataset, origin, settings, base)
                found = _fetch(wanted, origin, Fetcher(home, settings, advance), force)
    files = {}
    for role, words in sorted(origins(source).items()):
        path = found[role]
        # The user's own folders are no business of the manifest.
        own = isinstance(origin, Local)
        name = path.name if own else path.relative_to(home).as_posix()
        files[role] = entry(path, name, words, cache)
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
            raise DataError(f"{where}: the file is empty. Bring the data there.")
        found[role] = path
    return found


def _wanted(dataset: str, origin: Web, settings: Download, base: Path) -> list[Wanted]:
    """Return each file once, however many roles it serves, from the mirror if one is set."""
    found: dict[str, Wanted] = {}
    for role, file in origin.files.items():
        where = f"params.yaml: datasets.{dataset}.source.origin.files.{role}"
        name = file_name(file.url)
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise ConfigError(f"{where}.url: {file.url}: does not end in a plain file name.")
        if is_archive(name) != (file.member is not None):
            rule = "names the file inside an archive, and is null for any other file"
            raise ConfigError(f"{where}.member: {rule}; {name} is given {file.member}.")
        same = Wanted(file.url, name, file.sha256, file.size_bytes)
        if found.setdefault(name, same) != same:
            raise ConfigError(f"{where}: {name} is named twice, with other locations or checksums.")
    mirror = settings.mirror
    if mirror is None:
        return list(found.values())
    place = mirror.rstrip("/") if "://" in mirror else str(expand(mirror, base))
    return [replace(w, url=f"{place}/{dataset}/{w.name}", publisher=w.url) for w in found.values()]


def file_name(url: str) -> str:
    """Return the last part of an address's path."""
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


def _fetch(wanted: list[Wanted], origin: Web, fetcher: Fetcher, force: bool) -> dict[str, Path]:
    paths = {w.name: fetcher.fetch(w, force) for w in wanted}
    found: dict[str, Path] = {}
    for name, path in paths.items():
        roles = {r: f for r, f in origin.files.items() if file_name(f.url) == name}
        members = [f.member for f in roles.values() if f.member is not None]
        if not members:
            found |= dict.fromkeys(roles, path)
            continue
        target = path.with_name(name.removesuffix(".gz").removesuffix(".tar").split(".")[0])
        inside = unpack(path, members, target, fetcher.settings.max_unpacked_bytes)
        found |= {role: inside[f.member] for role, f in roles.items() if f.member is not None}
    return found


def _generate(origin: Synthetic, target: Path, advance: Advance) -> dict[str, Path]:
    """Write the demo data beside their final place and rename them there, whole."""
    scratch = target / UNFINISHED
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for path in demo.write(origin, scratch, advance).values():
            path.replace(target / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {role: target / name for role, name in demo.FILES.items()}
