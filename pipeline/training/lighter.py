"""Fewer and cheaper operations in a recorded step; every number stays what it was.

Small models on a GPU wait for the host, which spends a microsecond or two on every operation, views
included. What `vmap` and the recording of gradients leave behind is therefore taken out: views of
views, transpositions undone at once, products with one, and what depends on no input, which is
computed once. The others are called by torch's own functions, which read their arguments in half
the time that operators called by their schema take.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten

VIEWS = (aten.view.default, aten._unsafe_view.default)
SMALL = 1 << 16
"""Numbers of a constant that is kept; larger ones are made in every step, as a seed alone does."""

DIRECT: dict[Any, Any] = {
    aten._unsafe_view.default: Tensor.view,
    aten.add.Scalar: torch.add,
    aten.add.Tensor: torch.add,
    aten.bmm.default: torch.bmm,
    aten.div.Tensor: torch.div,
    aten.exp.default: torch.exp,
    aten.masked_fill.Scalar: Tensor.masked_fill,
    aten.mul.Scalar: torch.mul,
    aten.mul.Tensor: torch.mul,
    aten.permute.default: Tensor.permute,
    aten.relu.default: torch.relu,
    aten.stack.default: torch.stack,
    aten.sub.Tensor: torch.sub,
    aten.sum.dim_IntList: torch.sum,
    aten.transpose.int: Tensor.transpose,
    aten.unbind.int: torch.unbind,
    aten.unsqueeze.default: Tensor.unsqueeze,
    aten.view.default: Tensor.view,
    aten.where.self: torch.where,
}
"""Operators with many calls in a step, and what does the same with the same arguments."""


def lighten(recorded: GraphModule) -> None:
    """Rewrite a graph of ATen operators, as `make_fx` records it, in place."""
    graph = recorded.graph
    written = {_memory(source) for node in graph.nodes for source in _written(node)}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        node = _joined(node)
        same = _idle(node, written)
        if same is None and _constant(node, written):
            same = _stored(recorded, node)
        if same is not None:
            _replace(node, same)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        node.target = DIRECT.get(node.target, node.target)
    recorded.recompile()


def _joined(node: Node) -> Node:
    """Let a view of a view look at what the other looks at."""
    if node.target not in VIEWS or _first(node).target not in VIEWS:
        return node
    with node.graph.inserting_before(node):
        joined = node.graph.call_function(
            aten.view.default, (_first(node).args[0], list(_value(node).shape))
        )
    joined.meta = node.meta
    _replace(node, joined)
    return joined


def _idle(node: Node, written: set[Any]) -> Node | None:
    """Return which earlier node has this one's numbers in this one's shape, if it is known.

    written: memory that some operator changes.
    """
    if node.target in (*VIEWS, aten.expand.default):
        return _first(node) if _value(node).shape == _value(_first(node)).shape else None
    if node.target is aten.permute.default:
        return _first(node) if node.args[1] == list(range(_value(node).dim())) else None
    if node.target is aten.transpose.int:
        before = _first(node)
        undone = before.target is aten.transpose.int and {*before.args[1:]} == {*node.args[1:]}
        return _first(before) if undone else None
    if node.target is aten.mul.Scalar and node.args[1] == 1:
        # Where one of the two is written to, it is a copy.
        found, given = _value(node), _value(_first(node))
        same = (found.dtype, found.stride()) == (given.dtype, given.stride())
        return _first(node) if same and _untouched(node, written) else None
    return None


def _constant(node: Node, written: set[Any]) -> bool:
    """Whether a node's tensor follows from the graph alone, and is small."""
    value = node.meta.get("val")
    return (
        all(source.op == "get_attr" for source in node.all_input_nodes)
        and isinstance(value, Tensor)
        and value.numel() <= SMALL
        and isinstance(node.target, OpOverload)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and _untouched(node, written)
    )


def _stored(recorded: GraphModule, node: Node) -> Node:
    """Compute a constant now, and return the node that reads it."""
    args, kwargs = map_arg(
        (node.args, node.kwargs), lambda source: getattr(recorded, str(source.target))
    )
    name = f"_constant_{node.name}"
    assert callable(node.target)
    recorded.register_buffer(name, node.target(*args, **kwargs))
    with node.graph.inserting_before(node):
        stored = node.graph.get_attr(name)
    stored.meta = node.meta
    return stored


def _first(node: Node) -> Node:
    found = node.args[0]
    assert isinstance(found, Node)
    return found


def _value(node: Node) -> Tensor:
    """Return a stand-in of what the node gave when it was recorded."""
    found = node.meta["val"]
    assert isinstance(found, Tensor)
    return found


def _written(node: Node) -> list[Node]:
    """Return what an operator changes."""
    if not isinstance(node.target, OpOverload):
        return []
    pairs = zip(node.target._schema.arguments, node.args, strict=False)
    return [
        source
        for spec, source in pairs
        if isinstance(source, Node) and spec.alias_info is not None and spec.alias_info.is_write
    ]


def _untouched(node: Node, written: set[Any]) -> bool:
    """Whether nothing changes what a node gives or reads."""
    return written.isdisjoint(map(_memory, (node, *node.all_input_nodes)))


def _memory(node: Node) -> Any:
    """Return what stands for a node's memory: the first that has it, or the name of a constant."""
    while _looks(node):
        node = _first(node)
    return node.target if node.op == "get_attr" else node


def _looks(node: Node) -> bool:
    """Whether a node is a view of its first argument, or that argument itself."""
    if isinstance(node.target, OpOverload):
        shared = node.target._schema.arguments[:1]
        return node.target in VIEWS or any(spec.alias_info is not None for spec in shared)
    return node.target is operator.getitem


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
