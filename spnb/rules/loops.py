"""Loops with a body of several operators: ``torch.while_loop``, ``scan`` and similar ones.

The number of times that a body runs depends on values, or each step reads the result of the one
before; so a loop needs its whole operands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from ..ir.axes import Axes
from ..ir.node import Node, Ref, map_leaves
from ..ir.region import Region
from .base import Tensors, Weights
from .calls import invoke
from .fallback import Unknown
from .registry import rule


@dataclass(frozen=True)
class Subgraph:
    """The calls inside another call, as a function of tensors.

    Attributes
    ----------
    inputs
        Names of its inputs, in order.
    nodes
        The calls.
    outputs
        Its results: values as `Ref`, everything else unchanged.
    """

    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: Sequence[Any]

    def __call__(self, *given: Any) -> list[Any]:
        values = dict(zip(self.inputs, given, strict=True))

        def value(leaf: Any) -> Any:
            return values[leaf.value] if isinstance(leaf, Ref) else leaf

        for node in self.nodes:
            args = {name: map_leaves(value, arg) for name, arg in node.args.items()}
            values[node.name] = invoke(node.op, args)
        return [value(leaf) for leaf in self.outputs]


def _while_loop(
    condition: Subgraph, body: Subgraph, carried: Sequence[Any], additional: Sequence[Any]
) -> list[Any]:
    found = list(carried)
    while bool(condition(*found, *additional)[0]):
        found = body(*found, *additional)
    return found


def _map(body: Subgraph, over: Sequence[torch.Tensor], additional: Sequence[Any]) -> list[Any]:
    steps = [body(*step, *additional) for step in zip(*(x.unbind(0) for x in over), strict=True)]
    return [torch.stack(results) for results in zip(*steps, strict=True)]


def _scan(
    body: Subgraph, start: Sequence[Any], over: Sequence[torch.Tensor], additional: Sequence[Any]
) -> list[Any]:
    carried, results = list(start), []
    for step in zip(*(x.unbind(0) for x in over), strict=True):
        found = body(*carried, *step, *additional)
        carried = found[: len(carried)]
        results.append(found[len(carried) :])
    return [*carried, *(torch.stack(each) for each in zip(*results, strict=True))]


def _associative_scan(
    body: Subgraph, over: Sequence[torch.Tensor], additional: Sequence[Any]
) -> list[Any]:
    results: list[Any] = []
    for step in zip(*(x.unbind(0) for x in over), strict=True):
        results.append(body(*results[-1], *step, *additional) if results else list(step))
    return [torch.stack(each) for each in zip(*results, strict=True)]


class Loop(NamedTuple):
    """A loop of PyTorch.

    Attributes
    ----------
    arguments
        Names of its arguments, in order.
    run
        Computes it, given its arguments by name.
    """

    arguments: tuple[str, ...]
    run: Callable[..., list[Any]]


LOOPS = {
    "while_loop": Loop(("condition", "body", "carried", "additional"), _while_loop),
    "map_impl": Loop(("body", "over", "additional"), _map),
    "scan": Loop(("body", "start", "over", "additional"), _scan),
    "associative_scan": Loop(("body", "over", "additional"), _associative_scan),
}
"""By PyTorch's names."""


@dataclass(frozen=True)
class WholeLoop(Unknown):
    """A loop on whole operands; its results may differ in shape, so none of them is cut."""

    @cached_property
    def axes(self) -> Axes:
        return Axes.uncut(self.node.shape, self.node.axes.rank)

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        arguments: Mapping[str, Any] = self.node.bind(tensors, weights)
        return tuple(LOOPS[self.node.kind].run(**arguments))


@rule(*(f"higher_order.{kind}" for kind in LOOPS))
def loop(node: Node) -> WholeLoop:
    """The rule of a loop."""
    return WholeLoop(node)
