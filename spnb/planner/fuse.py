"""Joins a convolution with its norm, an addition and an activation: one pass over memory.

Outside its convolutions a network is bound by memory traffic.  A value that is neither written nor
read again saves time::

    conv ─ norm ─ (+ shortcut) ─ relu          one call that reads x and the shortcut
    norm ─ relu                                one call: a 1×1 convolution, channel by channel

A norm with fixed statistics is a factor and a term for each channel.  Both are computed into the
convolution's weight and bias when a rank reads its weights.
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
from ..rules.convolutions import Convolution

EXACT = (torch.float32, torch.float64)
"""Types in which a norm folded into a convolution is as exact as the norm itself."""


def fuse_calls(graph: Graph, blocks: Sequence[int]) -> Graph:
    """Return the same network in fewer calls.

    Parameters
    ----------
    graph
        The network.
    blocks
        Number of blocks in each stage: calls of different stages are not joined.

    Returns
    -------
    Graph
        The graph itself, if its type is not among `EXACT`.
    """
    if graph.dtype not in EXACT:
        return graph
    return _Fusion(graph, blocks).result()


class _Fusion:
    """The state of the pass over a graph.

    Attributes
    ----------
    graph
        The network as it was captured.
    constants
        Calls that compute the weights of joined calls.
    """

    def __init__(self, graph: Graph, blocks: Sequence[int]):
        self.graph = graph
        self.constants: list[Node] = []
        # By the name of a call: the call that replaces it; None if a later one computes it.
        self._joined: dict[str, Node | None] = {}
        self._stage = dict(_stages(graph, blocks))
        self._readers: dict[str, list[Node | None]] = {value: [None] for value in graph.outputs}
        for node in graph.nodes:
            for value in node.operands:
                self._readers.setdefault(value, []).append(node)
        for node in graph.nodes:
            if node.name not in self._joined:
                self._join(node)

    def result(self) -> Graph:
        """The graph with joined calls in place of those that they replace."""
        nodes: list[Node] = []
        blocks: list[Block] = []
        for block in self.graph.blocks:
            start = len(nodes)
            for node in self.graph.nodes_of(block):
                if replacement := self._joined.get(node.name, node):
                    nodes.append(replacement)
            blocks.append(Block(block.path, start, len(nodes)))
        constants = (*self.graph.constants, *self.constants)
        return replace(self.graph, nodes=tuple(nodes), blocks=tuple(blocks), constants=constants)

    def _join(self, first: Node) -> None:
        """Join to a call the chain of calls after it: norm, addition, activation."""
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
        """Arguments of the fused call that a convolution or a norm begins; None for other calls."""
        if node.dtype not in EXACT:
            return None
        nothing_joined: dict[str, Any] = {"other": None, "activation": None, "options": {}}
        if _is_convolution(node):
            return {**node.args, **nothing_joined}
        if _is_norm(node) and len(node.shape) in (4, 5):
            return {**self._convolution_of_norm(node), **nothing_joined}
        return None

    def _convolution_of_norm(self, norm: Node) -> dict[str, Any]:
        """Arguments of the 1×1 convolution, channel by channel, that equals a norm."""
        scale, shift = self._scale_and_shift(norm)
        count = len(norm.shape) - 2
        return {
            "input": norm.args["input"],
            "weight": self._view(norm, scale, len(norm.shape)),
            "bias": shift,
            "stride": [1] * count,
            "padding": [0] * count,
            "dilation": [1] * count,
            "groups": norm.shape[1],
        }

    def _only_reader(self, node: Node) -> Node | None:
        """The only call that reads a value, if it may be joined to the call that computes it."""
        readers = self._readers.get(node.name, [])
        if len(readers) != 1 or readers[0] is None or readers[0].name in self._joined:
            return None
        reader = readers[0]
        alike = reader.axes == node.axes and reader.dtype == node.dtype and not reader.parts
        return reader if alike and self._stage[reader.name] == self._stage[node.name] else None

    def _with_norm(self, args: dict[str, Any], norm: Node) -> dict[str, Any]:
        """Weight and bias of a convolution that includes the norm after it."""
        scale, bias = self._scale_and_shift(norm)
        weight, before = args["weight"], args["bias"]
        factor = self._view(norm, scale, len(weight.shape))
        weight = self._constant(norm, "mul.Tensor", self=weight, other=factor)
        if before is not None:
            scaled = self._constant(norm, "mul.Tensor", self=before, other=scale)
            bias = self._constant(norm, "add.Tensor", self=scaled, other=bias, alpha=1)
        return {"weight": weight, "bias": bias}

    def _scale_and_shift(self, norm: Node) -> tuple[Weight, Weight]:
        """The numbers in ``norm(x) = x * scale + shift``, one of each for a channel."""
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
        """A weight of one number per channel, reshaped: channels first, then dimensions of 1."""
        size = [weight.shape[0], *[1] * (rank - 1)]
        return self._constant(norm, "view.default", self=weight, size=size)

    def _constant(self, norm: Node, call: str, /, **args: Any) -> Weight:
        """Add a call whose operands are weights only, and return its result as a weight.

        The result has the shape ``size``, if that is an argument; else that of ``self``.
        """
        shape = tuple(args.get("size", args["self"].shape))
        name = f"{norm.name}.{len(self.constants)}"
        axes = Axes.uncut(shape, norm.axes.rank)
        self.constants.append(Node(name, f"aten.{call}", args, axes, norm.dtype, (), norm.path))
        return Weight(f"={name}", shape)


def _is_convolution(node: Node) -> bool:
    """Whether a call is a convolution of a batch of images or volumes, with fixed weights."""
    # PyTorch also takes one image without a batch dimension; that is not fused.
    if len(node.shape) != {"conv2d": 4, "conv3d": 5}.get(node.kind):
        return False
    fixed = isinstance(node.args["weight"], Weight) and not isinstance(node.args["bias"], Ref)
    return fixed and type(rule_of(node)) is Convolution


def _is_norm(node: Node) -> bool:
    """Whether a call is a batch norm with fixed statistics."""
    if node.kind != "batch_norm" or node.args["training"]:
        return False
    fixed = ("weight", "bias", "running_mean", "running_var")
    given = [node.args[name] for name in fixed]
    return len(node.operands) == 1 and all(isinstance(g, Weight) for g in given if g is not None)


def _added(node: Node, result: Node) -> Ref | None:
    """The other operand of a call that adds it to a result; None for other calls."""
    if node.op != "aten.add.Tensor" or node.args["alpha"] != 1 or len(node.operands) != 2:
        return None
    others = [Ref(value) for value in node.operands if value != result.name]
    if len(others) != 1 or any(axes != node.axes for axes in node.operand_axes):
        return None
    return others[0]


def _is_activation(node: Node, after_addition: bool) -> bool:
    """Whether a call is an activation that oneDNN can join."""
    known = AFTER_ADDITION if after_addition else ACTIVATIONS
    return node.op == f"aten.{node.kind}.default" and node.kind in known


def _stages(graph: Graph, blocks: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The name of each call, and its stage."""
    stages = (stage for stage, count in enumerate(blocks) for _ in range(count))
    for block, stage in zip(graph.blocks, stages, strict=True):
        for node in graph.nodes_of(block):
            yield node.name, stage
