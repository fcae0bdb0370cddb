"""The pass that holds concatenations in pieces, in the stages that are tiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...ir.blocks import Block
from ...ir.graph import Graph
from ...ir.node import Joined, Node, Ref
from ...ir.tiling import Tiling
from .alike import in_each_piece, piece_by_piece
from .attention import attention
from .joined import CONCATENATIONS, PADDINGS, joined, made, padded, picked
from .merged import batch_norm, reduced, softmax, summed_product
from .piece_calls import Leaf, PieceCalls
from .pieces import Pieces

OF_ONE_VALUE: dict[str, Callable[[PieceCalls, Node, Pieces], Pieces | Leaf | None]] = {
    **dict.fromkeys(("slice", "narrow", "select"), picked),
    **dict.fromkeys(("softmax", "log_softmax"), softmax),
    "batch_norm": batch_norm,
}
"""By operator, what gives the result of a call of one value in pieces; else it is `reduced`."""


def in_pieces(graph: Graph, tilings: Sequence[Tiling], blocks: Sequence[int]) -> Graph:
    """Return the same network with concatenations of differently cut tensors held in pieces.

    Parameters
    ----------
    graph
        The network as it was captured.
    tilings
        Grid of each stage over ``(batch, *spatial)``.
    blocks
        Number of blocks in each stage.

    Returns
    -------
    Graph
        The graph itself, if no call reads pieces.
    """
    stages = (tiling for tiling, count in zip(tilings, blocks, strict=True) for _ in range(count))
    every = PieceByPieceGraph(graph)
    for block, tiling in zip(graph.blocks, stages, strict=True):
        every.add_block(block, tiling)
    return every.result()


class PieceByPieceGraph:
    """The state of the pass over a graph.

    Parameters
    ----------
    graph
        The network as it was captured.
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self._calls = PieceCalls(graph)
        self._pieces: dict[str, Pieces] = {}
        self._blocks: list[Block] = []
        self._outputs: dict[str, Joined] = {}  # by value, how the outputs that stay in pieces do
        self._used = False

    def add_block(self, block: Block, tiling: Tiling) -> None:
        """Add the calls of a block that runs on a grid."""
        start = len(self._calls.nodes)
        for node in self._graph.nodes_of(block):
            self._read(node, tiling)
        if block is self._graph.blocks[-1]:
            for value in self._graph.outputs:
                self._return(value)
        self._blocks.append(Block(block.path, start, len(self._calls.nodes)))

    def result(self) -> Graph:
        """The graph, once all blocks are added."""
        if not self._used:
            return self._graph
        calls = self._calls
        return replace(
            self._graph,
            nodes=tuple(calls.nodes),
            blocks=tuple(self._blocks),
            constants=tuple(calls.constants),
            returned=tuple(
                self._outputs.get(leaf.value, leaf) if isinstance(leaf, Ref) else leaf
                for leaf in self._graph.returned
            ),
        )

    def _read(self, node: Node, tiling: Tiling) -> None:
        """Add a call: for each piece if it can be, else once."""
        held = {value: self._pieces[value] for value in node.operands if value in self._pieces}
        found: Pieces | Leaf | None = None
        if tiling.spatial and node.kind in CONCATENATIONS:
            found = joined(self._calls, node, held, tiling)
        if tiling.spatial and node.kind in PADDINGS:
            found = padded(self._calls, node, held, tiling)
        if tiling.spatial and held and found is None:
            found = self._by_pieces(node, held)
        self._used |= bool(held) and found is not None
        if isinstance(found, Pieces):
            self._pieces[node.name] = found
        elif found is None:
            for value in held:
                self._make(value)
            self._calls.add_again(node)

    def _by_pieces(self, node: Node, held: dict[str, Pieces]) -> Pieces | Leaf | None:
        """The result of a call of values in pieces; None if it needs them in one."""
        calls, result = self._calls, None
        if len(node.operands) == 1:
            result = OF_ONE_VALUE.get(node.kind, reduced)(calls, node, held[node.operands[0]])
        return (
            result
            or summed_product(calls, node, held)
            or attention(calls, node, held)
            or self._alike(node, held)
        )

    def _alike(self, node: Node, held: dict[str, Pieces]) -> Pieces | None:
        """The result of a call that treats the positions of some operands alike.

        If it does not do so for all of them, those of one are taken, and the others are made whole.
        """
        choices = [held, *({value: pieces} for value, pieces in held.items() if len(held) > 1)]
        for chosen in choices:
            if how := piece_by_piece(node, chosen):
                for value in held.keys() - chosen.keys():
                    self._make(value)
                return in_each_piece(self._calls, node, chosen, how)
        return None

    def _return(self, value: str) -> None:
        """Leave an output in pieces, which are joined where it is collected, or make it.

        A loss, and a training loop of the user's own, take outputs in one piece.
        """
        pieces, graph = self._pieces.get(value), self._graph
        if pieces is None or value in self._calls.axes:
            return
        collected = not (graph.training or graph.given_tiles or graph.loss_calls)
        if collected and pieces.alone and graph.inputs.keys().isdisjoint(pieces.names):
            self._outputs[value] = Joined(pieces.names, pieces.number)
            self._used = True
        else:
            self._make(value)

    def _make(self, value: str) -> None:
        """Make a value in one piece, if it is in pieces and is not made yet."""
        if value in self._pieces and value not in self._calls.axes:
            made(self._calls, self._graph.by_name[value], self._pieces[value])
