"""A run of consecutive blocks of a network, and the ranks that compute it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.exchange import Team
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.region import Span, Tiling


@dataclass(frozen=True)
class Stage:
    """A run of consecutive blocks on a team of ranks.

    Attributes
    ----------
    index
        Number of the stage.
    blocks
        First and last (excluded) block of the graph.
    nodes
        Its operator calls.
    team
        Its ranks in their grid over ``(batch, *spatial)``.
    patches
        Grid over the same axes that cuts each tile into what its rank computes at one time.
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
        """Patches of each tile."""
        return math.prod(self.patches)

    @property
    def cuts(self) -> Tiling:
        """What is computed at one time: the tiles, or their patches."""
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
        """The module that each value came from which the stage computes or reads."""
        values = {value for node in self.nodes for value in (node.name, *node.operands)}
        made = graph.by_name
        return {value: made[value].path for value in values if value in made}


def stages_of(
    graph: Graph, tilings: Sequence[Tiling], blocks: Sequence[int], patches: Sequence[int]
) -> list[Stage]:
    """The stages of a network: consecutive blocks, on consecutive ranks."""
    stages, rank, block = [], 0, 0
    for index, (tiling, count) in enumerate(zip(tilings, blocks, strict=True)):
        first, last = graph.blocks[block], graph.blocks[block + count - 1]
        team = Team(range(rank, rank + tiling.num_tiles), tiling)
        nodes = graph.nodes[first.start : last.stop]
        grid = (1, *patches) if index == 0 else (1,) * len(tiling.grid)
        stages.append(Stage(index, (block, block + count), nodes, team, grid))
        rank, block = rank + tiling.num_tiles, block + count
    return stages
