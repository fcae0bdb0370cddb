"""The most bytes that a rank holds in training: its program is followed, and nothing is run.

A value is in memory once, however many calls save it: see `spnb.training.saved_pieces`.
"""

from __future__ import annotations

import math
from collections import Counter

from ..ir.program import Compute, Free, Receive
from ..ir.region import Region
from ..ir.schedule import SCHEDULES, most_held
from ..planner.plan import Plan
from ..rules import rule_of
from .saved_by_autograd import Saved, saved_by

FRAGMENTED = 1.9
"""Bytes that an engine has from the system for each byte of values that it holds (measured).

glibc's allocator keeps the memory of a freed tile, in which the next tile with its halo has no
room.  On seven plans of ResNet-20 and U-Net, of 192 to 512 pixels, it was 1.7 to 2.1.
"""


class TrainingMemory:
    """The bytes that a rank of a plan holds in the passes of one micro-batch.

    Parameters
    ----------
    plan
        A plan for training.
    rank
        A rank of the plan.

    Attributes
    ----------
    saved
        Bytes that are held between the forward and the backward pass.
    peak
        The most bytes in either pass.
    arrived
        Bytes of what was read and received.
    """

    def __init__(self, plan: Plan, rank: int):
        self.plan, self.nodes = plan, plan.stage_of(rank).nodes
        (self.program,) = plan.programs(rank, max(plan.micro_batch_sizes))
        self.axes, self.peak, self.arrived = plan.graph.axes, 0, 0
        self._alive: dict[str, Region] = {}  # the regions that the memory of values covers
        self._readers: Counter[str] = Counter()  # calls that saved a value
        self._covered: dict[str, Region] = {}  # of values that are saved
        self._sizes: dict[str, int] = {}  # bytes of each value that is alive or saved
        self._of_values = self._others = 0
        self._shown: dict[str, str] = {}
        self._of_call: dict[str, Saved] = {}
        self._forward()
        self.saved = self._held()
        self._backward()

    def _bytes(self, value: str, region: Region) -> int:
        parts = self.plan.graph.by_name[value].parts if value in self.plan.graph.by_name else ()
        if parts:
            return sum(math.prod(part) for part in parts) * self.plan.graph.itemsize(value)
        return self.axes[value].local_bytes(region, self.plan.graph.itemsize(value))

    def _held(self, more: int = 0) -> int:
        """Bytes of values that are alive or saved; compared with the most so far."""
        held = self._of_values + self._others
        self.peak = max(self.peak, held + more)
        return held

    def _measure(self, value: str) -> None:
        """Count the bytes of a value anew, after it became alive or saved, or was freed."""
        region = self._alive.get(value, self._covered.get(value))
        size = 0 if region is None else self._bytes(value, region)
        self._of_values += size - self._sizes.get(value, 0)
        self._sizes[value] = size

    # --- forward ----------------------------------------------------------------------------

    def _forward(self) -> None:
        for step in self.program.steps:
            if isinstance(step, Compute):
                self._compute(step)
            elif isinstance(step, Receive):
                arriving = sum(self._bytes(step.value, t.region) for t in step.transfers)
                self.arrived += arriving
                self._held(arriving + self._bytes(step.value, step.region))
                self._cover(step.value, step.region)
            elif isinstance(step, Free):
                for value in step.values:
                    self._alive.pop(value, None)
                    self._measure(value)
            self._held()

    def _compute(self, step: Compute) -> None:
        node = self.nodes[step.node]
        if step.region.empty:
            return
        rule = rule_of(node)
        padded = rule.padded(step.clipped[0], step.region) if step.clipped else None
        if padded is not None:
            value = node.operands[0]
            covered = self._alive.get(value, step.clipped[0])
            whole = covered | padded.region
            self._held(self._bytes(value, whole))
            self._cover(value, whole)
        saved = self._of_call[node.name] = saved_by(self.plan, node, rule, step)
        if saved.shown:
            self._shown[node.name] = self._memory_of(saved.shown)
        else:
            self._alive[node.name] = step.region
            self._measure(node.name)
        self._others += saved.others
        for value in map(self._memory_of, saved.values):
            self._readers[value] += 1
            self._covered[value] = self._alive.get(value, self._covered.get(value, step.region))
            self._measure(value)

    def _memory_of(self, value: str) -> str:
        """The value in whose memory a value lies: a view lies in that of another."""
        return self._shown.get(value, value)

    def _cover(self, value: str, region: Region) -> None:
        self._alive[value] = region
        self._shown.pop(value, None)  # a view that is assembled anew has memory of its own
        if value in self._covered and self._covered[value] in region:
            self._covered[value] = region
        self._measure(value)

    # --- backward ---------------------------------------------------------------------------

    def _backward(self) -> None:
        """Gradients are held until the call that made their value has been differentiated."""
        for value in list(self._alive):
            del self._alive[value]
            self._measure(value)
        graph, gradients = self.plan.graph, dict[str, int]()
        regions = {s.value: s.region for s in self.program.steps if isinstance(s, Receive)}
        for step in reversed(self.program.steps):
            if not isinstance(step, Compute) or step.region.empty:
                continue
            node = self.nodes[step.node]
            own = gradients.pop(node.name, self._bytes(node.name, step.region))
            found = {
                value: self._bytes(value, regions.get(value, region))
                for value, region in zip(node.operands, step.clipped, strict=True)
                if graph.dtype_of(value).is_floating_point
            }
            self._held(own + sum(gradients.values()) + sum(found.values()))
            for value, size in found.items():
                gradients[value] = max(size, gradients.get(value, 0))
            self._release(self._of_call[node.name])

    def _release(self, saved: Saved) -> None:
        """Free what autograd saved of a call that has been differentiated."""
        self._others -= saved.others
        for value in map(self._memory_of, saved.values):
            self._readers[value] -= 1
            if self._readers[value] <= 0:
                self._covered.pop(value, None)
                self._measure(value)


def training_value_bytes(plan: Plan, rank: int) -> int:
    """Return the most bytes that a rank of the plan needs for values in training.

    Parameters
    ----------
    plan
        A plan for training.
    rank
        A rank of the plan.
    """
    found = TrainingMemory(plan, rank)
    stage = plan.stage_of(rank)
    passes = SCHEDULES[plan.schedule](plan.replicas.micro_batches, len(plan.stages), stage.index)
    others = most_held(passes) - 1
    held = found.peak + others * (found.arrived if plan.recompute else found.saved)
    return int(FRAGMENTED * held)
