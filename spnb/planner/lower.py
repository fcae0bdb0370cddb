"""Replaces calls that look at all of space by calls that each tile can do its part of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..ir.blocks import Block
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.tiling import Tiling
from ..rules import rule_of


def lowered(graph: Graph, tilings: Sequence[Tiling], blocks: Sequence[int]) -> Graph:
    """Return the same network with calls that each stage's tiles can compute.

    Parameters
    ----------
    graph
        The network.
    tilings
        Grid of each stage.
    blocks
        Number of blocks in each stage.
    """
    nodes: list[Node] = []
    found: list[Block] = []
    types: dict[str, torch.dtype] = {}
    stages = (tiling for tiling, count in zip(tilings, blocks, strict=True) for _ in range(count))
    for block, tiling in zip(graph.blocks, stages, strict=True):
        start = len(nodes)
        for node in graph.nodes_of(block):
            for call in rule_of(node).lower(tiling):
                if call.kind == "turned":  # a rule does not know the types of operands
                    call = replace(call, dtype=types.get(call.operands[0], graph.dtype))
                types[call.name] = call.dtype
                nodes.append(call)
        found.append(Block(block.path, start, len(nodes)))
    return replace(graph, nodes=tuple(nodes), blocks=tuple(found))
