"""A loss of the user's own, captured as the last operators of the network.

Tiles compute a loss as they compute the network: each tile its own positions, and sums over all of
them are merged.  So any loss that PyTorch's operators express is exact on tiles, whatever it
divides by: class weights, ignored positions, the overlap of a Dice loss.  Targets are inputs::

    image ── network ── output ──┐
                                 loss ── one number, and the metrics
    targets ─────────────────────┘
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from ..ir.axes import Axes, dim
from ..ir.graph import Graph
from ..ir.module_state import hash_of
from ..ir.node import Node, Ref, Weight, map_leaves
from ..kernels.half_conv import HALVES
from .export import capture_calls

LossFunction = Callable[[Any, Any], torch.Tensor]
"""Takes what a network returns, and its target."""


@dataclass(frozen=True)
class TargetShape:
    """Shape and type of a target of a whole batch."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def axes(self, rank: int) -> Axes:
        """Where the axes of the image lie in the target.

        A target of ``(batch, channels, *spatial)`` lies on the image, and so does one without
        channels, such as a class for each pixel.  Of others, the first dimension is the batch.

        >>> TargetShape((2, 8, 9), torch.int64).axes(rank=3)
        Axes(batch 2 | axis1 8 | axis2 9)
        """
        positions = len(self.shape) == rank and (rank > 2 or not self.dtype.is_floating_point)
        if not positions:
            return Axes.image(self.shape, rank)
        return Axes(tuple(dim(n, axis) for axis, n in enumerate(self.shape)), rank)


@dataclass(frozen=True)
class OwnLoss:
    """A loss and metrics as functions of a network's outputs and of targets.

    Attributes
    ----------
    function
        The loss: a number, or one for each image or position, of which the mean is taken.
    targets
        The targets.
    several
        Whether the functions take the targets as a tuple, though it may have one item.
    metrics
        By name, further functions; no gradient goes through them.
    with_outputs
        Whether the graph with the loss also returns what the network returns, after the metrics.
    """

    function: LossFunction
    targets: tuple[TargetShape, ...]
    several: bool = False
    metrics: Mapping[str, LossFunction] = field(default_factory=dict)
    with_outputs: bool = False

    @property
    def name(self) -> str:
        """The function's name, or its class."""
        return getattr(self.function, "__name__", None) or type(self.function).__name__

    def with_images(self, count: int) -> OwnLoss:
        """The same loss of another number of images."""
        targets = [TargetShape((count, *each.shape[1:]), each.dtype) for each in self.targets]
        return replace(self, targets=tuple(targets))


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    """A value in fp32 if it is in half precision, in which a loss would be coarse."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def _ready(function: LossFunction, exact: torch.dtype) -> LossFunction:
    """A loss in a floating type; a module's weights, such as those of classes, are cast."""
    if not isinstance(function, nn.Module):
        return function
    if trained := [name for name, each in function.named_parameters() if each.requires_grad]:
        raise CaptureError(
            f"the loss {type(function).__name__} has parameters to train ({trained[0]}): make it a"
            " part of the network, which returns it, or freeze them"
        )
    return copy.deepcopy(function).to(exact).forward


def _number(value: Any, function: LossFunction) -> torch.Tensor:
    """The loss as one number: the mean of losses of images or positions."""
    if not isinstance(value, torch.Tensor):
        raise CaptureError(
            f"the loss {getattr(function, '__name__', function)} returns a"
            f" {type(value).__name__.removeprefix('Sym').lower()}, not a tensor"
        )
    value = value if value.is_floating_point() else value.float()
    return value.mean() if value.ndim else value


class _LossModule(nn.Module):
    """Computes a loss and its metrics from the outputs of a network, leaf by leaf, and targets."""

    def __init__(self, graph: Graph, loss: OwnLoss):
        super().__init__()
        self.graph, self.loss = graph, loss
        exact = torch.float32 if graph.dtype in HALVES else graph.dtype
        functions = (loss.function, *loss.metrics.values())
        self.functions = [_ready(each, exact) for each in functions]

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        count = len(self.graph.outputs)
        values = zip(self.graph.outputs, map(_precise, given[:count]), strict=True)
        output, targets = self.graph.pack(dict(values), {}), given[count:]
        target = targets if self.loss.several else targets[0]
        numbers = tuple(_number(each(output, target), each) for each in self.functions)
        return (*numbers, *given[:count]) if self.loss.with_outputs else numbers


def with_loss(graph: Graph, loss: OwnLoss) -> Graph:
    """Return a network's graph with a loss after it.

    Parameters
    ----------
    graph
        The network.
    loss
        The loss.

    Returns
    -------
    Graph
        It takes the targets as further inputs, and returns the loss and the metrics; then the
        network's outputs, if the loss asks for them.

    Raises
    ------
    CaptureError
        If the loss cannot be captured.
    """
    if not all(isinstance(leaf, Ref) for leaf in graph.returned):
        raise CaptureError("the network returns what is no tensor that it computes: a loss cannot")
    rank = next(iter(graph.inputs.values())).rank
    outputs = [(graph.axes[value], graph.dtype_of(value)) for value in graph.outputs]
    targets = [(each.axes(rank), each.dtype) for each in loss.targets]
    found, again = (
        capture_calls(_LossModule(graph, loss), [*outputs, *targets], graph.dtype) for _ in range(2)
    )
    _refuse_change(found, again, loss)
    given = dict(zip(found.inputs, graph.outputs, strict=False))
    kept = list(found.inputs)[len(outputs) :]
    return _joined(graph, found, given, dict(zip(kept, loss.targets, strict=True)))


def _refuse_change(found: Graph, again: Graph, loss: OwnLoss) -> None:
    """Refuse a loss that computes something else when it is called again; it is captured once."""
    first, second = (
        (
            [repr(node.args) for node in each.nodes],
            list(each.literals),
            hash_of(each.literals.values()),
        )
        for each in (found, again)
    )
    if first != second:
        raise CaptureError(
            f"the loss {loss.name} or a metric computes something else when it is called again, as"
            " with a counter or a schedule: ranks compute what the first call did, so give train"
            " a function that is always the same, and call it again for another one"
        )


def _joined(
    graph: Graph, loss: Graph, given: Mapping[str, str], targets: Mapping[str, TargetShape]
) -> Graph:
    """The calls of a network and of a loss as one graph; the names of the loss's are changed."""

    def renamed(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return Ref(given.get(leaf.value, f"loss.{leaf.value}"))
        return Weight(_own(leaf.name), leaf.shape, leaf.alike) if isinstance(leaf, Weight) else leaf

    def of_loss(node: Node) -> Node:
        args = {name: map_leaves(renamed, arg) for name, arg in node.args.items()}
        return replace(node, name=f"loss.{node.name}", args=args, path=node.path or "loss")

    nodes = tuple(map(of_loss, loss.nodes))
    *blocks, last = graph.blocks
    return replace(
        graph,
        inputs={**graph.inputs, **{f"loss.{name}": loss.inputs[name] for name in targets}},
        nodes=(*graph.nodes, *nodes),
        returned=tuple(map(renamed, loss.returned)),
        structure=loss.structure,
        blocks=(*blocks, replace(last, stop=last.stop + len(nodes))),
        constants=(*graph.constants, *map(of_loss, loss.constants)),
        literals={**graph.literals, **{_own(n): tensor for n, tensor in loss.literals.items()}},
        target_types={f"loss.{name}": each.dtype for name, each in targets.items()},
        loss_calls=frozenset(node.name for node in nodes),
    )


def _own(name: str) -> str:
    """The name of a constant of a loss in the graph of a network with it."""
    return f"=loss.{name.removeprefix('=')}"


def of_micro_batches(graph: Graph, smaller: Sequence[Graph]) -> Graph:
    """Return the graph with the numbers that its loss computes with in a micro-batch.

    A loss may divide by the number of images; a micro-batch has fewer than the batch.

    Parameters
    ----------
    graph
        The network with the loss, captured for a batch.
    smaller
        The same, captured for each size that micro-batches have.

    Raises
    ------
    CaptureError
        If the numbers of two sizes differ; naming the call, with both.
    """
    first, *others = ([n for n in g.nodes if n.name in g.loss_calls] for g in smaller)
    for nodes in others:
        for one, other in zip(first, nodes, strict=True):
            for name, value in _numbers(one).items():
                if value != (found := other.args.get(name)):
                    raise CaptureError(
                        f"{one.label} of the loss computes with the number of images: {name} is"
                        f" {value} for one micro-batch, and {found} for another with fewer images:"
                        " use a mean, or a batch_size that is a multiple of parts"
                    )
    numbers = {node.name: _numbers(node) for node in first}
    changed = [
        replace(node, args={**node.args, **numbers.get(node.name, {})}) for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(changed))


def _numbers(node: Node) -> dict[str, int | float]:
    """The arguments of a call that are numbers."""
    return {n: value for n, value in node.args.items() if isinstance(value, (int, float))}
