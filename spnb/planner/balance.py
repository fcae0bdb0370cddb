"""Cuts a network into stages between blocks, so that ranks have about the same work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..errors import PlanError
from ..ir.cost import CORE
from ..ir.graph import Graph
from ..ir.option_words import option
from ..ir.tiling import Tiling
from .obstacles import Obstacle, obstacle
from .pieces.in_pieces import in_pieces


def stage_blocks(
    graph: Graph,
    tilings: Sequence[Tiling],
    cut_batch: bool,
    given: Sequence[int] | None,
    allow_gather: bool = False,
    patches: int = 1,
) -> list[int]:
    """Return the number of blocks in each stage.

    Parameters
    ----------
    graph
        The captured network.
    tilings
        Grid of each stage: of tiles, or of their patches.
    cut_batch
        Whether batches are cut into micro-batches or slices.
    given
        The user's own numbers; ``None`` for an even balance.  Among the splits that can run, the
        even one has the least work on its busiest rank.
    allow_gather
        Whether a tile may gather a whole value that an operator reads.
    patches
        Number of tiles of the first stage's grid that one rank computes.

    Raises
    ------
    PlanError
        If the numbers do not fit the network, or a layer cannot run in its stage.
    """
    stages, blocks = len(tilings), len(graph.blocks)
    if not blocks:
        raise PlanError("the network has no operator that reads its input: there is nothing to run")
    if stages > blocks:
        raise PlanError(
            f"{stages} stages, but the network has {blocks} blocks to cut between:"
            f" use {option('split_size', blocks)} or less"
        )
    balancer = _Balancer(graph, tilings, cut_batch, allow_gather)
    if given is None:
        return balancer.even(patches)
    balancer.check(given)
    return list(given)


def tileable_blocks(
    graph: Graph, tiling: Tiling, cut_batch: bool, allow_gather: bool = False
) -> int:
    """Return the number of the first blocks that can run in a stage with a grid.

    Parameters
    ----------
    graph, cut_batch, allow_gather
        As of `stage_blocks`.
    tiling
        The grid.
    """
    blocks = range(len(graph.blocks))
    found = _Balancer(graph, [tiling], cut_batch, allow_gather)._first_obstacle(0, blocks)
    return found.block if found else len(blocks)


class _Cuts(NamedTuple):
    """A way to cut the first blocks into stages; the one that sorts first is the best."""

    largest_cost: float
    counts: list[int]


class _Found(NamedTuple):
    """The first block of the network that cannot run in a stage."""

    block: int
    obstacle: Obstacle


@dataclass(frozen=True)
class _Balancer:
    """Cuts a network into stages with given grids."""

    graph: Graph
    tilings: Sequence[Tiling]
    cut_batch: bool
    allow_gather: bool

    @cached_property
    def _graph_on(self) -> dict[Tiling, Graph]:
        """By grid, the network as a stage with it runs it."""
        every = [len(self.graph.blocks)]
        return {tiling: in_pieces(self.graph, [tiling], every) for tiling in set(self.tilings)}

    def check(self, given: Sequence[int]) -> None:
        """Refuse numbers of blocks that do not fit the network, or a layer that cannot run."""
        stages, blocks = len(self.tilings), len(self.graph.blocks)
        if len(given) != stages or sum(given) != blocks or min(given) < 1:
            raise PlanError(
                f"the balance {','.join(map(str, given))} has {len(given)} entries with the sum"
                f" {sum(given)}, but there are {stages} stages and {blocks} blocks: give {stages}"
                f" positive numbers that add up to {blocks}"
            )
        start = 0
        for stage, count in enumerate(given):
            if found := self._first_obstacle(stage, range(start, start + count)):
                raise self._refusal(stage, found)
            start += count

    def even(self, patches: int) -> list[int]:
        """Return the numbers of blocks that give the busiest rank the least work."""
        stages, blocks = len(self.tilings), len(self.graph.blocks)
        costs = [self._running_costs(tiling) for tiling in self.tilings]
        costs[0] = [cost * patches for cost in costs[0]]
        found = [self._first_obstacle(stage, range(blocks)) for stage in range(stages)]
        best = {0: _Cuts(0.0, [])}  # by number of blocks: the best cuts into the stages so far
        for stage, (tiling, first) in enumerate(zip(self.tilings, found, strict=True)):
            if first and not tiling.spatial:
                raise self._refusal(stage, first)
            limit = first.block if first else blocks
            last = min(limit, blocks - (stages - stage - 1))
            best = self._with_stage(best, costs[stage], last)
            fits = blocks in best if stage == stages - 1 else bool(best)
            if first and not fits:
                raise self._refusal(stage, first)
        return best[blocks].counts

    @staticmethod
    def _with_stage(best: dict[int, _Cuts], costs: Sequence[float], last: int) -> dict[int, _Cuts]:
        """The best cuts with one more stage, for each number of blocks up to ``last``.

        Parameters
        ----------
        best
            By number of blocks, the best cuts into the stages before.
        costs
            By number of blocks, the cost of the first of them on a rank of the stage.
        last
            The largest number of blocks.
        """
        extended: dict[int, _Cuts] = {}
        for start, (largest, counts) in best.items():
            for stop in range(start + 1, last + 1):
                cost = costs[stop] - costs[start]
                candidate = _Cuts(max(largest, cost), [*counts, stop - start])
                if stop not in extended or candidate < extended[stop]:
                    extended[stop] = candidate
        return extended

    def _running_costs(self, tiling: Tiling) -> list[float]:
        """By number of blocks, the seconds of the first of them on the rank with the most work."""
        sums, graph = [0.0], self._graph_on[tiling]
        for block in graph.blocks:
            seconds = (
                CORE.seconds(node) / max(1, math.prod(map(min, tiling.grid, node.axes.extent)))
                for node in graph.nodes_of(block)
            )
            sums.append(sums[-1] + sum(seconds))
        return sums

    def _first_obstacle(self, stage: int, blocks: range) -> _Found | None:
        """The first of some blocks that cannot run in a stage, if there is one."""
        tiling = self.tilings[stage]
        graph = self._graph_on[tiling]
        for block in blocks:
            for node in graph.nodes_of(graph.blocks[block]):
                if found := obstacle(graph, node, tiling, self.cut_batch, self.allow_gather):
                    return _Found(block, found)
        return None

    def _refusal(self, stage: int, found: _Found) -> PlanError:
        node, reason, advice = found.obstacle.node, found.obstacle.reason, found.obstacle.advice
        if "before this layer" in advice:
            advice += self._hint(found.block)
        return PlanError(f"stage {stage}, {node.label}: {reason}: {advice}")

    def _hint(self, block: int) -> str:
        """Advice for the error message: where tiled stages could end if a block cannot be tiled."""
        tiled, blocks = sum(tiling.spatial for tiling in self.tilings), len(self.graph.blocks)
        if block == 0:
            return (
                f": it is in the first of {blocks} blocks, so no tiled stage fits; a network of"
                f" finer modules, or {option('spatial_size', 0)}, would do"
            )
        if block < tiled:
            return f": it is in block {block + 1}, too early for {tiled} tiled stages"
        if tiled == len(self.tilings):
            return f": add an untiled stage ({option('split_size', tiled + 1)})"
        at_most = f": at most {block} of the {blocks} blocks can be tiled"
        if tiled == 1 and len(self.tilings) == 2:
            return f"{at_most}: balance {block},{blocks - block}"
        return f"{at_most}: see balance"
