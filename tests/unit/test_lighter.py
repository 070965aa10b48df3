"""A recorded step after rewriting: fewer operations, the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pipeline import config
from pipeline.training import recorded
from pipeline.training.lighter import lighten
from pipeline.training.stacked import fit_together
from tests import composed
from tests.unit.test_stacked import with_times

aten = torch.ops.aten


def calls(graph: GraphModule) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("name", "backbone", "loss"),
    [
        ("spectran", "sasrec", "infonce"),
        ("llm_esr", "bert4rec", "softmax"),
        ("unisrec", "hstu_times", "gbce"),
    ],
)
def test_a_lighter_step_gives_the_same_bits(
    name: str,
    backbone: str,
    loss: str,
    params: config.Params,
    inputs: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_times(inputs)
    steps = []
    take = recorded.Recorded.__call__

    def compared(self: recorded.Recorded, *given: Any) -> Any:
        found = take(self, *given)
        if not steps:
            with monkeypatch.context() as patch:
                patch.setattr(recorded, "lighten", lambda graph: None)
                steps.append(self._record(*given))
        gradients, losses = found
        wanted, (_, wanted_losses) = steps[0](*given)
        assert torch.equal(losses, wanted_losses)
        assert gradients.keys() == wanted.keys()
        assert all(torch.equal(gradient, wanted[n]) for n, gradient in gradients.items())
        counts.append([len(calls(s.__self__)) for s in (self.operations, steps[0])])
        return found

    counts: list[list[int]] = []
    monkeypatch.setattr(recorded.Recorded, "__call__", compared)
    train = params.train.model_copy(update={"max_epochs": 2, "loss": composed.loss(loss)})
    methods = {s: composed.method(params, inputs, s, name, backbone, train=train) for s in (0, 1)}
    list(fit_together(methods, inputs.sequences, train))
    assert len(counts) == 6, "two epochs of three steps"
    assert all(light < 0.8 * plain for light, plain in counts)


def rewritten(function: Callable[..., Any], *given: Tensor) -> GraphModule:
    graph = make_fx(function)(*given)
    wanted = function(*(tensor.clone() for tensor in given))
    lighten(graph)
    read = [tensor.clone() for tensor in given]
    assert torch.equal(graph(*read), wanted)
    assert all(torch.equal(*pair) for pair in zip(read, given, strict=True)), "inputs stay"
    return graph


X = torch.arange(12.0).view(3, 4)


def test_views_of_views_are_one() -> None:
    graph = rewritten(lambda x: x.view(12).view(2, 6).view(4, 3) + 1, X)
    assert calls(graph) == [Tensor.view, torch.add]
    graph = rewritten(lambda x: x.view(12).view(2, 6).view(3, 4) + 1, X)
    assert calls(graph) == [torch.add]


def test_what_undoes_itself_is_left_out() -> None:
    graph = rewritten(lambda x: x.transpose(0, 1).transpose(1, 0).permute(0, 1) + 1, X)
    assert calls(graph) == [torch.add]
    graph = rewritten(lambda x: aten.mul.Scalar(x, 1) + 1, X)
    assert calls(graph) == [torch.add]


def test_a_product_that_changes_the_type_stays() -> None:
    graph = rewritten(lambda x: aten.mul.Scalar(x > 3, 1) + 1, X)
    assert torch.mul in calls(graph)


WRITES: list[Callable[[Tensor], Tensor]] = [
    lambda y: y.add_(1),
    lambda y: y.view(12).add_(1).view(3, 4),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_copy_that_is_written_to_stays(write: Callable[[Tensor], Tensor]) -> None:
    """By itself, or through a view of it: left out, the step would write to its inputs."""
    graph = rewritten(lambda x: write(aten.mul.Scalar(x, 1)), X)
    assert torch.mul in calls(graph)


def kept(x: Tensor) -> Tensor:
    y = x + 1
    copy = aten.mul.Scalar(y.view(12), 1)
    y.add_(1)
    return copy


def test_a_copy_of_what_is_written_to_later_stays() -> None:
    assert torch.mul in calls(rewritten(kept, X))


def part(x: Tensor) -> Tensor:
    y = x + 1
    first, _ = y.split_with_sizes([1, 3], 1)
    copy = aten.mul.Scalar(first, 1)
    y.add_(1)
    return copy


def again(x: Tensor) -> Tensor:
    y = x + 1
    seen = y.view(12)
    y.add_(1)
    copy = aten.mul.Scalar(y, 1)
    seen.add_(1)
    return copy


@pytest.mark.parametrize("copied", [part, again])
def test_memory_is_followed_through_parts_and_writes(copied: Callable[[Tensor], Tensor]) -> None:
    assert torch.mul in calls(rewritten(copied, X))


def test_a_copy_that_lies_otherwise_stays() -> None:
    graph = rewritten(lambda x: aten.mul.Scalar(x[:, :2], 1).view(6), X)
    assert torch.mul in calls(graph)


def test_dimensions_counted_from_the_end_are_no_identity() -> None:
    rewritten(lambda x: x.permute(-1, 0) + 1, X)


def test_a_constant_of_the_module_that_is_written_to_is_read_every_time() -> None:
    count = torch.zeros(3, 4)

    def counting(x: Tensor) -> Tensor:
        doubled = count * 2
        count.add_(1)
        return x + doubled

    graph = make_fx(counting)(X)
    lighten(graph)
    first = graph(X).clone()
    assert torch.equal(graph(X), first + 2)


def test_random_numbers_are_drawn_every_time() -> None:
    graph = make_fx(lambda x: x + torch.rand(3, 4))(X)
    lighten(graph)
    assert not torch.equal(graph(X), graph(X))


def test_large_constants_are_not_kept() -> None:
    graph = make_fx(lambda x: x + torch.ones(1 << 17))(torch.zeros(1))
    lighten(graph)
    assert sum(kept.numel() for kept in graph.buffers()) == 0


def written(x: Tensor) -> Tensor:
    y = x + 1
    y.view(12).add_(1)
    return y


def test_writing_by_a_view_that_nobody_reads_stays() -> None:
    assert len(calls(rewritten(written, X))) == 3


def test_constants_are_computed_once() -> None:
    graph = rewritten(lambda x: x + torch.arange(4).view(1, 4) * 2, X)
    assert calls(graph) == [torch.add]


def test_a_constant_that_is_written_to_is_made_every_time() -> None:
    graph = rewritten(lambda x: torch.zeros(3, 4).add_(x), X)
    first = graph(X).clone()
    assert torch.equal(graph(X), first)
