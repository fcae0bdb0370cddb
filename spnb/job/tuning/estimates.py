"""What a split takes at least, by arithmetic over the network's calls: no plan is made for it.

Time is that of the calls alone: no message, no redundant work.  Memory is that of the values alive
at once, cut evenly, and of the weights.  So a split whose estimate is worse than a plan that was
made already needs no plan of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from ...analysis.training_memory import FRAGMENTED, REPEATED
from ...analysis.weight_memory import PROCESS
from ...ir.cost import Machine
from ...ir.graph import Graph
from ...ir.node import Node
from ..job_plan import JobPlan
from .splits import Split

MOMENTS = 3
"""Bytes beside each byte of a weight in training: gradients and the optimizer's moments."""


class Estimate(NamedTuple):
    """What a split takes at least.

    Attributes
    ----------
    seconds
        Of a batch.
    memory
        Bytes of the rank that needs most.
    balance
        Blocks in each stage, with which the time is the shortest.
    """

    seconds: float
    memory: float
    balance: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates of splits of one network.

    Attributes
    ----------
    whole
        The plan of the whole network on one rank.
    machine
        The cost model.
    tileable
        Number of the first blocks that can run in a tiled stage.
    """

    whole: JobPlan
    machine: Machine
    tileable: int

    def of(self, split: Split) -> Estimate | None:
        """The estimate of a split; None if the network has too few blocks for it."""
        images = 1 / split.replicas / split.parts
        shares = [images / split.tiles] * split.tiled
        shares += [images / split.slices] * (split.stages - split.tiled)
        cuts = self._cuts(tuple(shares), split.tiled, split.parts)
        if not cuts:
            return None
        costs = [
            float(self._seconds(share)[b] - self._seconds(share)[a])
            for share, (a, b) in zip(shares, cuts, strict=True)
        ]
        passes = sum(costs) + (split.parts - 1) * max(costs)
        factor = 1.0
        if self.whole.training:
            factor = self.machine.recorded * (1 + split.recompute) + self.machine.backward
        if self.machine.cores:
            ranks = [split.tiles] * split.tiled + [split.slices] * (split.stages - split.tiled)
            work = sum(cost * n for cost, n in zip(costs, ranks, strict=True)) * split.parts
            passes = max(passes, split.replicas * work / self.machine.cores)
        held = max(
            self._memory(a, b, share / (split.patches if number == 0 else 1), split)
            for number, (share, (a, b)) in enumerate(zip(shares, cuts, strict=True))
        )
        return Estimate(factor * passes, held, tuple(b - a for a, b in cuts))

    @property
    def graph(self) -> Graph:
        """The network as one rank runs it."""
        return self.whole.graph

    @cached_property
    def _blocks(self) -> list[tuple[Node, ...]]:
        return [self.graph.nodes_of(block) for block in self.graph.blocks]

    @lru_cache(maxsize=4096)  # noqa: B019 - a search has one of these objects
    def _seconds(self, share: float) -> np.ndarray:
        """By number of blocks: seconds of the first of them, on a share of the image."""
        each = (sum(self.machine.seconds(n, share) for n in nodes) for nodes in self._blocks)
        return np.array([*itertools.accumulate(each, initial=0.0)])

    @lru_cache(maxsize=1 << 14)  # noqa: B019 - a search has one of these objects
    def _cuts(
        self, shares: tuple[float, ...], tiled: int, parts: int
    ) -> tuple[tuple[int, int], ...]:
        """The first block of each stage and its end, in the shortest time of all ways to cut.

        One micro-batch takes the sum of all stages; each further one as long as the slowest.
        """
        every = [self._seconds(share) for share in shares]
        found = {_best(every, tiled, self.tileable, by_sum) for by_sum in (True, False)}
        cuts = [tuple(itertools.pairwise(stops)) for stops in found if stops]

        def seconds(cut: tuple[tuple[int, int], ...]) -> float:
            costs = [float(c[b] - c[a]) for c, (a, b) in zip(every, cut, strict=True)]
            return sum(costs) + (parts - 1) * max(costs)

        return min(cuts, key=seconds, default=())

    def _memory(self, start: int, stop: int, share: float, split: Split) -> float:
        """Bytes of a rank with a share of the image of some blocks."""
        weights = float(self._weights[stop] - self._weights[start])
        if not self.whole.training:
            return PROCESS + weights + share * float(self._alive[start:stop].max())
        saved = float(self._saved[stop] - self._saved[start])
        if split.recompute:  # about as many beginnings of segments as segments hold values
            saved = max(float(self._alive[start:stop].max()), 2 * saved / (stop - start) ** 0.5)
        further = min(split.parts, split.stages) - 1 if start == 0 else 0  # fewer on later stages
        values = (FRAGMENTED + REPEATED * further) * share * saved
        return PROCESS + (1 + MOMENTS) * weights + values

    @cached_property
    def _weights(self) -> np.ndarray:
        """By number of blocks: bytes of the weights of the first of them."""
        itemsize = self.graph.dtype.itemsize
        each = (
            sum(int(np.prod(w.shape)) for node in nodes for w in node.weights) * itemsize
            for nodes in self._blocks
        )
        return np.array([*itertools.accumulate(each, initial=0)])

    @cached_property
    def _saved(self) -> np.ndarray:
        """By number of blocks: bytes of the results of the first of them."""
        each = (sum(self._bytes(node.name) for node in nodes) for nodes in self._blocks)
        return np.array([*itertools.accumulate(each, initial=0)])

    @cached_property
    def _alive(self) -> np.ndarray:
        """For each block, the most bytes of values that are alive at once."""
        last = {value: k for k, node in enumerate(self.graph.nodes) for value in node.operands}
        alive = dict.fromkeys(self.graph.inputs, 0) | {
            value: self._bytes(value) for value in self.graph.inputs
        }
        held, number = sum(alive.values()), 0
        peaks = []
        for nodes in self._blocks:
            peak = 0
            for node in nodes:
                other = node.operands[-1] if node.args.get("other") is not None else ""
                if other in alive and last[other] <= number:
                    held -= alive.pop(other)  # the sum is written over it
                alive[node.name] = self._bytes(node.name)
                held += alive[node.name]
                peak = max(peak, held)
                for value in {node.name, *node.operands}:
                    if last.get(value, number) <= number and value in alive:
                        held -= alive.pop(value)
                number += 1
            peaks.append(peak)
        return np.array(peaks)

    def _bytes(self, value: str) -> int:
        size = 1
        for n in self.graph.shape(value):
            size *= n
        return size * self.graph.itemsize(value)


def _best(every: Sequence[np.ndarray], tiled: int, limit: int, by_sum: bool) -> tuple[int, ...]:
    """The ends of the stages with the smallest sum of their costs, or the smallest largest cost.

    Parameters
    ----------
    every
        For each stage, by number of blocks, the cost of the first of them.
    tiled
        Number of tiled stages, which have none but the first ``limit`` blocks.
    by_sum
        Whether the sum is made small; of equal sums, the most even one is taken.
    """
    count = len(every[0])
    places = np.arange(count)
    later = places[:, None] >= places  # a stage has a block at least
    best, chosen = np.where(places == 0, 0.0, np.inf), []
    for stage, costs in enumerate(every):
        cost = costs - costs[:, None]  # by start and stop
        if by_sum:
            total = best[:, None] + cost + 1e-4 * cost**2 / costs[-1]
        else:
            total = np.maximum(best[:, None], cost)
        total[later] = np.inf
        if stage < tiled:
            total[:, limit + 1 :] = np.inf
        chosen.append(total.argmin(axis=0))
        best = total.min(axis=0)
    if not np.isfinite(best[-1]):
        return ()
    stops = [count - 1]
    for starts in reversed(chosen):
        stops.append(int(starts[stops[-1]]))
    return tuple(reversed(stops))
