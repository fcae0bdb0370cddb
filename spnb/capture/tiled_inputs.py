"""Makes tiles of the inputs the beginning of a network, where each rank is given its own tile.

Ordinarily a rank reads the region of the image that its first operator needs, halo included.  In a
program of the user's own it is given its tile alone.  So a call is put before the network that
passes each input on unchanged; the tiled stage computes it, each rank over its own tile.  The halos
of the image are then exchanged as those of any other value, and their gradients are sent back::

    read from a file    image ──►  tile and halo  ──►  conv
    given as tiles      tile  ──►  alias  ──►  halo  ──►  conv
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..ir.graph import Graph
from ..ir.node import Node, Ref, map_leaves


def with_tiled_inputs(graph: Graph) -> Graph:
    """Return a network that begins with a call for each input, which passes it on unchanged.

    Parameters
    ----------
    graph
        The network.

    Examples
    --------
    >>> import torch
    >>> from spnb.capture.export import capture
    >>> graph = capture(torch.nn.Conv2d(1, 1, 3), (1, 1, 8, 8), torch.float32)
    >>> [node.kind for node in with_tiled_inputs(graph).nodes]
    ['alias', 'conv2d']
    """
    names = {name: f"{name}.tile" for name in graph.inputs}
    tiles = tuple(_tile(graph, name, tile) for name, tile in names.items())
    blocks = [
        replace(block, start=block.start + len(tiles), stop=block.stop + len(tiles))
        for block in graph.blocks
    ]
    return replace(
        graph,
        nodes=(*tiles, *(_reading(node, names) for node in graph.nodes)),
        returned=tuple(_renamed(leaf, names) for leaf in graph.returned),
        blocks=(replace(blocks[0], start=0), *blocks[1:]),
        given_tiles=frozenset(names.values()),
    )


def _tile(graph: Graph, name: str, tile: str) -> Node:
    axes = graph.inputs[name]
    args = {"self": Ref(name)}
    return Node(tile, "aten.alias.default", args, axes, graph.dtype_of(name), (axes,), "input")


def _reading(node: Node, names: Mapping[str, str]) -> Node:
    """A call that reads the tiles in place of the inputs."""
    if not names.keys() & set(node.operands):
        return node
    args = {
        name: map_leaves(lambda leaf: _renamed(leaf, names), arg) for name, arg in node.args.items()
    }
    return replace(node, args=args)


def _renamed(leaf: Any, names: Mapping[str, str]) -> Any:
    return Ref(names.get(leaf.value, leaf.value)) if isinstance(leaf, Ref) else leaf
