"""Writing found settings into a method's block of params.yaml without touching any other byte.

ruamel.yaml tells where every value lies; values are replaced and keys added in the text, so
comments, anchors, merges and the layout of everything else stay. A key that a block takes from
another one by a merge is written into the block itself.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from pipeline.errors import ConfigError
from pipeline.params import scalar
from pipeline.tuning.space import Configuration, laid

ALIAS = re.compile(r"\s*:\s*(\*[^\s,\]}]+)")
"""What follows a key whose value is an alias."""


def write(text: str, method: str, configuration: Configuration) -> tuple[str, list[str]]:
    """Return params.yaml with a configuration in the method's block.

    Also returned: the other methods that change with it, because they merge the block.
    Raises ConfigError when the block is written in a way that cannot be edited.
    """
    before = yaml.safe_load(text)
    changed = text
    try:
        for key, value in configuration.items():
            if _held(yaml.safe_load(changed)["methods"][method], key) != (value,):
                changed = _set(changed, [method, *key.split(".")], value)
        after = yaml.safe_load(changed)
    except (yaml.YAMLError, YAMLError):
        after = {}
    methods = {**before["methods"], method: laid(before["methods"][method], configuration)}
    merging = _differing(after.get("methods", {}), methods)
    if (
        method in merging
        or list(after.get("methods", {})) != list(methods)
        or _differing(after, before) - {"methods"}
    ):
        raise ConfigError(
            f"params.yaml: methods.{method}: the block is written in a way that cannot be edited "
            f"safely. Write the values by hand."
        )
    return changed, [name for name in methods if name in merging]


def block(raw: Mapping[str, Any], method: str, configuration: Configuration) -> str:
    """Return the method's block with a configuration, as YAML."""
    content = {method: laid(raw, configuration)}
    return str(yaml.safe_dump(content, sort_keys=False, default_flow_style=False)).rstrip()


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Return the keys under which two mappings do not hold the same."""
    return {
        key
        for key in {*one, *other}
        if key not in one or key not in other or one[key] != other[key]
    }


def _held(block: Any, key: str) -> tuple[Any, ...]:
    """Return the value at a dotted key in a tuple; an empty one when it is not there."""
    for part in key.split("."):
        if not isinstance(block, Mapping) or part not in block:
            return ()
        block = block[part]
    return (block,)


def _set(text: str, path: list[str], value: Any) -> str:
    """Return the text with the value at a path below `methods`."""
    root: Node = YAML(pure=True).compose(io.StringIO(text))
    pair = _pair(root, "methods")
    return _edit(text, pair[1], yaml.safe_load(text)["methods"], path, value) if pair else text


def _edit(text: str, node: Node, held: Any, path: list[str], value: Any) -> str:
    """Return the text with the value at a path below a node; held: the node's values, with merges.

    Text that cannot be edited is returned as it is.
    """
    if not isinstance(node, MappingNode) or not isinstance(held, Mapping):
        return text
    key, *rest = path
    whole = laid(held.get(key, {}), {".".join(rest): value}) if rest else value
    pair = _pair(node, key)
    if pair is None:
        return _add(text, node, _entry(key, whole))
    name, found = pair
    if _is_alias(name, found):
        alias = ALIAS.match(text, name.end_mark.index)
        if alias is None:
            return text
        own = f"{{<<: {alias[1]}, {_entry(rest[0], whole[rest[0]])}}}" if rest else _inline(value)
        return text[: alias.start(1)] + own + text[alias.end(1) :]
    if rest:
        return _edit(text, found, held[key], rest, value)
    return text[: found.start_mark.index] + _inline(value) + text[found.end_mark.index :]


def _pair(node: Node, key: str) -> tuple[Node, Node] | None:
    if not isinstance(node, MappingNode):
        return None
    pairs = (pair for pair in node.value if isinstance(pair[0], ScalarNode))
    return next((pair for pair in pairs if pair[0].value == key), None)


def _is_alias(key: Node, value: Node) -> bool:
    """Whether a value is an alias: its node is then the anchor's, which stands further up."""
    return bool(value.start_mark.index < key.start_mark.index)


def _add(text: str, node: MappingNode, entry: str) -> str:
    """Return the text with an entry at the end of a mapping."""
    if not node.value:  # {}
        inside = node.end_mark.index - 1
        return text[:inside] + entry + text[inside:]
    name, value = node.value[-1]
    if node.flow_style:
        alias = ALIAS.match(text, name.end_mark.index) if _is_alias(name, value) else None
        end = alias.end() if alias else value.end_mark.index
        return f"{text[:end]}, {entry}{text[end:]}"
    end = _end(text, node)
    line = text.find("\n", end)
    line = len(text) if line < 0 else line
    newline = "\r\n" if text[:line].endswith("\r") else "\n"
    line -= newline == "\r\n"
    indent = " " * node.value[0][0].start_mark.column
    return f"{text[:line]}{newline}{indent}{entry}{text[line:]}"


def _end(text: str, node: Node) -> int:
    """Return where the last value inside a node ends, comments and blank lines left out."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    if isinstance(node, MappingNode):
        name, value = node.value[-1]
        if _is_alias(name, value):
            alias = ALIAS.match(text, name.end_mark.index)
            return alias.end() if alias else int(name.end_mark.index)
        return _end(text, value)
    return _end(text, node.value[-1])


def _entry(key: str, content: Any) -> str:
    """Return `key: value` on one line, quoted as a flow mapping needs it."""
    return scalar({key: content})[1:-1]


def _inline(value: Any) -> str:
    """Return a value on one line, quoted as a flow mapping needs it."""
    return scalar([value])[1:-1]
