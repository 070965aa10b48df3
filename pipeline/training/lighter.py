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
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten

VIEWS = (aten.view.default, aten._unsafe_view.default)
ALIASES = (
    *VIEWS,
    aten.alias.default,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.t.default,
    aten.transpose.int,
    aten.unbind.int,
    aten.unsqueeze.default,
    operator.getitem,
)
"""What returns the memory of its first argument."""

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
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        node = _joined(node)
        same = _idle(node)
        if same is None and _constant(node):
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


def _idle(node: Node) -> Node | None:
    """Return which earlier node has this one's numbers in this one's shape, if it is known."""
    if node.target in (*VIEWS, aten.expand.default):
        return _first(node) if _value(node).shape == _value(_first(node)).shape else None
    if node.target is aten.permute.default:
        order = node.args[1]
        return _first(node) if order == sorted(order) else None  # type: ignore[arg-type]
    if node.target is aten.transpose.int:
        before = _first(node)
        undone = before.target is aten.transpose.int and {*before.args[1:]} == {*node.args[1:]}
        return _first(before) if undone else None
    if node.target is aten.mul.Scalar and node.args[1] == 1:
        before = _first(node)
        same = _value(node).dtype == _value(before).dtype
        return before if same and not (_overwritten(node) or _overwritten(before)) else None
    return None


def _constant(node: Node) -> bool:
    """Whether a node's tensor follows from the graph alone."""
    return (
        all(source.op == "get_attr" for source in node.all_input_nodes)
        and isinstance(node.meta.get("val"), Tensor)
        and not _writes(node)
        and not any(map(_overwritten, [node, *node.all_input_nodes]))
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


def _writes(node: Node) -> bool:
    """Whether an operator changes its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _overwritten(node: Node) -> bool:
    """Whether anything changes this node's memory, by any view of it."""
    while node.target in ALIASES:
        node = _first(node)
    return _written(node)


def _written(node: Node) -> bool:
    return any(_writes(user) or (user.target in ALIASES and _written(user)) for user in node.users)


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
