"""Writing a data set's block into params.yaml without touching any other byte of it.

ruamel.yaml tells where the sections lie; the block is spliced into the text, so comments, anchors
and the layout of everything else stay.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from pipeline.config import Local, Preprocess, Source
from pipeline.errors import ConfigError
from pipeline.params import scalar


def shared_preprocess(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return (anchor, values) of the first anchored `preprocess` block, if there is one."""
    tree = _tree(text)
    for block in tree["datasets"].values():
        preprocess = block.get("preprocess")
        if isinstance(preprocess, CommentedMap) and preprocess.anchor.value:
            plain = yaml.safe_load(text)["datasets"]
            name = next(k for k, v in tree["datasets"].items() if v is block)
            return str(preprocess.anchor.value), dict(plain[name]["preprocess"])
    return None


def block(
    name: str,
    source: Source,
    preprocess: Preprocess,
    shared: tuple[str, dict[str, Any]] | None,
) -> str:
    """Return the YAML of a data set, unindented; shared preprocess values stand as an alias."""
    assert isinstance(source.origin, Local) and source.columns is not None
    files, columns = source.origin.files, source.columns.model_dump()
    wanted = preprocess.model_dump()
    lines = [
        f"{name}:",
        "  source:",
        "    format: table",
        "    origin:",
        "      kind: local",
        "      files:",
        *(f"        {role}: {scalar(path)}" for role, path in files.items()),
        "    columns:",
        *(f"      {role}: {scalar(column)}" for role, column in columns.items()),
        f"    time_unit: {scalar(source.time_unit)}",
        f"    max_rejected_share: {scalar(source.max_rejected_share)}",
    ]
    different = {k: v for k, v in wanted.items() if shared is None or shared[1].get(k) != v}
    if shared is not None and not different:
        lines.append(f"  preprocess: *{shared[0]}")
    else:
        lines.append("  preprocess:")
        if shared is not None:
            lines.append(f"    <<: *{shared[0]}")
        lines += [f"    {key}: {scalar(value)}" for key, value in different.items()]
    return "\n".join([*lines, "  train: {}"]) + "\n"


def insert(text: str, name: str, added: str, only: bool) -> str:
    """Return params.yaml with the block at the end of `datasets` and its name in grid.dataset."""
    tree = _tree(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += newline
    start = tree.lc.key("datasets")[0]
    following = [tree.lc.key(key)[0] for key in tree if tree.lc.key(key)[0] > start]
    end = min(following, default=len(lines))
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    datasets = tree["datasets"]
    if not isinstance(datasets, CommentedMap) or not datasets or datasets.fa.flow_style():
        raise ConfigError(
            "params.yaml: datasets: expected an indented block. Add the block by hand."
        )
    column = datasets.lc.key(next(iter(datasets)))[1]
    indented = [" " * column + line + newline for line in added.splitlines()]
    lines.insert(end, newline + "".join(indented))
    place, column = tree["grid"].lc.value("dataset")
    names = [name] if only else [*tree["grid"]["dataset"], name]
    if start < place:
        raise ConfigError("params.yaml: grid must stand before datasets. Add the block by hand.")
    _set_list(lines, place, column, tree["grid"]["dataset"], names, newline)
    return "".join(lines)


def _set_list(
    lines: list[str], place: int, column: int, old: Any, names: list[str], newline: str
) -> None:
    if old.fa.flow_style():
        head, rest = lines[place][:column], lines[place][column:]
        if "]" not in rest:
            raise ConfigError(
                "params.yaml: grid.dataset: expected one line [a, b] or a block list. "
                "Add the name by hand."
            )
        lines[place] = f"{head}[{', '.join(names)}]{rest[rest.index(']') + 1 :]}"
        return
    after = old.lc.item(len(old) - 1)[0] + 1
    indent = lines[place][: lines[place].index("-")]
    added = names[len(old) :] if names[: len(old)] == list(old) else names
    start = after if added != names else place
    lines[start:after] = [f"{indent}- {name}{newline}" for name in added]


def _tree(text: str) -> Any:
    return YAML().load(io.StringIO(text))


def relative(path: Path, base: Path) -> str:
    """Return a path as params.yaml writes it: below the folder of params.yaml, else absolute."""
    whole, folder = path.resolve(), base.resolve()
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)
