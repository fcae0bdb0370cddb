"""Joins calls that one pass over memory can do: a convolution, its norm, an addition, a ReLU.

Outside its convolutions a network is bound by memory traffic, so what is not written and read again
is time won::

    conv ─ norm ─ (+ shortcut) ─ relu          one call that reads x and the shortcut
    norm ─ relu                                one call: a convolution of one position, channel by
                                               channel

A norm with fixed statistics is a factor and a term for each channel; they go into the
convolution's weights when these are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..ir.axes import Axes
from ..ir.blocks import Block
from ..ir.graph import Graph
from ..ir.node import Node, Ref, Weight
from ..kernels.onednn import ACTIVATIONS, AFTER_ADDITION
from ..rules import rule_of
from ..rules.windows import Convolution

EXACT = (torch.float32, torch.float64)
"""Types in which a folded norm is as exact as one by itself."""


def joined(graph: Graph, blocks: Sequence[int]) -> Graph:
    """The same network in fewer calls.

    Parameters
    ----------
    blocks
        Number of blocks in each stage: nothing is joined across stages.
    """
    if graph.dtype not in EXACT:
        return graph
    pass_ = _Fusion(graph, blocks)
    found = [Block(b.path, *pass_.kept(b)) for b in graph.blocks]
    return replace(
        graph,
        nodes=tuple(pass_.nodes),
        blocks=tuple(found),
        constants=(*graph.constants, *pass_.constants),
    )


class _Fusion:
    """State of the pass: what has been joined to what, and the constants that this takes."""

    def __init__(self, graph: Graph, blocks: Sequence[int]):
        self.graph = graph
        self.constants: list[Node] = []
        self.nodes: list[Node] = []
        self._joined: dict[str, Node | None] = {}  # None: part of another
        self._stage = dict(_stages(graph, blocks))
        self._readers: dict[str, list[Node | None]] = {value: [None] for value in graph.outputs}
        for node in graph.nodes:
            for value in node.operands:
                self._readers.setdefault(value, []).append(node)
        for node in graph.nodes:
            if node.name not in self._joined:
                self._join(node)

    def kept(self, block: Block) -> tuple[int, int]:
        """Copy a block's calls, as joined: where they lie now."""
        start = len(self.nodes)
        for node in self.graph.nodes_of(block):
            if joined := self._joined.get(node.name, node):
                self.nodes.append(joined)
        return start, len(self.nodes)

    def _join(self, first: Node) -> None:
        """Begin with a call, and join to it what can be done with its result in hand."""
        args = self._begin(first)
        if args is None:
            return
        chain, axes = [first], first.operand_axes[:1]
        while (reader := self._only_reader(chain[-1])) and args["activation"] is None:
            if args["other"] is None and _is_norm(reader):
                args |= self._with_norm(args, reader)
            elif args["other"] is None and (other := _added(reader, chain[-1])):
                args["other"], axes = other, (axes[0], reader.axes)
            elif _is_activation(reader, args["other"] is not None):
                options = {k: v for k, v in reader.args.items() if k != "self"}
                args |= {"activation": reader.kind, "options": options}
            else:
                break
            chain.append(reader)
        if not first.kind.startswith("conv") and len(chain) == 1:
            return
        self._joined |= dict.fromkeys((node.name for node in chain[:-1]), None)
        self._joined[chain[-1].name] = replace(
            chain[-1],
            op=f"spnb.conv{len(first.shape) - 2}d.fused",
            args=args,
            operand_axes=axes,
            path=first.path,
        )

    def _begin(self, node: Node) -> dict[str, Any] | None:
        """Arguments of a fused call that does what a call does, if there is one."""
        more: dict[str, Any] = {"other": None, "activation": None, "options": {}}
        image = len(node.shape) == {"conv2d": 4, "conv3d": 5}.get(node.kind)  # not a single one
        if image and isinstance(node.args["weight"], Weight):
            if type(rule_of(node)) is Convolution and not isinstance(node.args["bias"], Ref):
                return {**node.args, **more}
        elif _is_norm(node) and len(node.shape) in (4, 5):
            scale, shift = self._scale_and_shift(node)
            channels, count = node.shape[1], len(node.shape) - 2
            weight = self._view(node, scale, len(node.shape))
            windows = {"stride": [1] * count, "padding": [0] * count, "dilation": [1] * count}
            named = {"input": node.args["input"], "weight": weight, "bias": shift}
            return {**named, **windows, "groups": channels, **more}
        return None

    def _only_reader(self, node: Node) -> Node | None:
        """The one call that reads a value, if it may be joined to the one that computes it."""
        readers = self._readers.get(node.name, [])
        if len(readers) != 1 or readers[0] is None or readers[0].name in self._joined:
            return None
        reader = readers[0]
        alike = reader.axes == node.axes and reader.dtype == node.dtype and not reader.parts
        return reader if alike and self._stage[reader.name] == self._stage[node.name] else None

    def _with_norm(self, args: dict[str, Any], norm: Node) -> dict[str, Any]:
        """Weight and bias of a convolution that does what a norm after it does."""
        scale, bias = self._scale_and_shift(norm)
        weight, before = args["weight"], args["bias"]
        factor = self._view(norm, scale, len(weight.shape))
        weight = self._constant(norm, "mul.Tensor", self=weight, other=factor)
        if before is not None:
            scaled = self._constant(norm, "mul.Tensor", self=before, other=scale)
            bias = self._constant(norm, "add.Tensor", self=scaled, other=bias, alpha=1)
        return {"weight": weight, "bias": bias}

    def _scale_and_shift(self, norm: Node) -> tuple[Weight, Weight]:
        """``norm(x)`` is ``x * scale + shift`` in each channel (torch.nn.BatchNorm2d)."""
        args = norm.args
        spread = self._constant(
            norm, "add.Scalar", self=args["running_var"], other=args["eps"], alpha=1
        )
        scale = self._constant(norm, "rsqrt.default", self=spread)
        if args["weight"] is not None:
            scale = self._constant(norm, "mul.Tensor", self=scale, other=args["weight"])
        shift = self._constant(norm, "mul.Tensor", self=args["running_mean"], other=scale)
        shift = self._constant(norm, "neg.default", self=shift)
        if args["bias"] is not None:
            shift = self._constant(norm, "add.Tensor", self=shift, other=args["bias"], alpha=1)
        return scale, shift

    def _view(self, norm: Node, weight: Weight, rank: int) -> Weight:
        """One number a channel, as a weight whose first dimension they are."""
        size = [weight.shape[0], *[1] * (rank - 1)]
        return self._constant(norm, "view.default", self=weight, size=size)

    def _constant(self, norm: Node, call: str, /, **args: Any) -> Weight:
        """A further call of weights alone; it has the shape of its first operand, or its size."""
        shape = tuple(args.get("size", args["self"].shape))
        name = f"{norm.name}.{len(self.constants)}"
        axes = Axes.uncut(shape, norm.axes.rank)
        self.constants.append(Node(name, f"aten.{call}", args, axes, norm.dtype, (), norm.path))
        return Weight(f"={name}", shape)


def _is_norm(node: Node) -> bool:
    """Whether a call is a batch norm with fixed statistics."""
    if node.kind != "batch_norm" or node.args["training"]:
        return False
    fixed = ("weight", "bias", "running_mean", "running_var")
    given = [node.args[name] for name in fixed]
    return len(node.operands) == 1 and all(isinstance(g, Weight) for g in given if g is not None)


def _added(node: Node, result: Node) -> Ref | None:
    """What a call adds to a result, if that is all it does."""
    if node.op != "aten.add.Tensor" or node.args["alpha"] != 1 or len(node.operands) != 2:
        return None
    others = [Ref(value) for value in node.operands if value != result.name]
    if len(others) != 1 or any(axes != node.axes for axes in node.operand_axes):
        return None
    return others[0]


def _is_activation(node: Node, after_addition: bool) -> bool:
    known = AFTER_ADDITION if after_addition else ACTIVATIONS
    return node.op == f"aten.{node.kind}.default" and node.kind in known


def _stages(graph: Graph, blocks: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Each call's stage."""
    stages = (stage for stage, count in enumerate(blocks) for _ in range(count))
    for block, stage in zip(graph.blocks, stages, strict=True):
        for node in graph.nodes_of(block):
            yield node.name, stage
