"""A run of consecutive blocks of a network, and the ranks that compute it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.exchange import Team
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.region import Span
from ..ir.tiling import Tiling


@dataclass(frozen=True)
class Stage:
    """A run of consecutive blocks on a team of ranks.

    Attributes
    ----------
    index
        Number of the stage, from 0 on.
    blocks
        ``(start, stop)`` of its blocks in the graph.
    nodes
        Its operator calls.
    team
        Its ranks in their grid over ``(batch, *spatial)``.
    patches
        Grid over the same axes that cuts each tile into patches; a rank computes one at a time.
    """

    index: int
    blocks: Span
    nodes: tuple[Node, ...]
    team: Team
    patches: tuple[int, ...]

    @property
    def tiled(self) -> bool:
        """Whether the image is cut in this stage, into tiles or patches."""
        return self.cuts.spatial

    @property
    def num_patches(self) -> int:
        """Number of patches of each tile."""
        return math.prod(self.patches)

    @property
    def cuts(self) -> Tiling:
        """The tiling that cuts the image into tiles, or into the patches of all tiles."""
        return self.team.tiling.refined(self.patches)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the parameters and buffers that the stage reads."""
        return tuple(dict.fromkeys(w.name for node in self.nodes for w in node.weights))

    @property
    def custom(self) -> list[Node]:
        """Calls of operators that neither PyTorch nor spnb has."""
        known = ("aten", "_operator", "spnb")
        return [node for node in self.nodes if node.op.split(".")[0] not in known]

    def paths(self, graph: Graph) -> dict[str, str]:
        """The path of the module that computes each value of the stage, by the value's name.

        Values that the stage only reads are included; inputs of the network have no module.
        """
        values = {value for node in self.nodes for value in (node.name, *node.operands)}
        made = graph.by_name
        return {value: made[value].path for value in values if value in made}


def stages_of(
    graph: Graph, tilings: Sequence[Tiling], blocks: Sequence[int], patches: Sequence[int]
) -> list[Stage]:
    """Return the stages of a network: consecutive blocks, on consecutive ranks.

    Parameters
    ----------
    graph
        The network.
    tilings
        How each stage cuts the image; a stage has a rank for each tile.
    blocks
        Number of blocks in each stage.
    patches
        Grid over the spatial axes that cuts each tile of stage 0; other stages have no patches.
    """
    stages, rank, block = [], 0, 0
    for index, (tiling, count) in enumerate(zip(tilings, blocks, strict=True)):
        first, last = graph.blocks[block], graph.blocks[block + count - 1]
        team = Team(range(rank, rank + tiling.num_tiles), tiling)
        nodes = graph.nodes[first.start : last.stop]
        grid = (1, *patches) if index == 0 else (1,) * len(tiling.grid)
        stages.append(Stage(index, (block, block + count), nodes, team, grid))
        rank, block = rank + tiling.num_tiles, block + count
    return stages
