"""The most bytes that a rank holds in training: its program is followed, and nothing is run.

What autograd saves of a call is found by calling it once on tensors without memory.  A value is in
memory once, however many calls save it: see `spnb.training.saved_pieces`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from ..ir.node import Node, leaves
from ..ir.program import Compute, Free, Receive
from ..ir.region import Region
from ..ir.schedule import SCHEDULES, most_held
from ..planner.plan import Plan
from ..rules import Rule, rule_of

FRAGMENTED = 1.9
"""Bytes that an engine has from the system for each byte of values that it holds (measured).

glibc's allocator keeps the memory of a freed tile, in which the next tile with its halo has no
room.  On seven plans of ResNet-20 and U-Net, of 192 to 512 pixels, it was 1.7 to 2.1.
"""


@dataclass(frozen=True)
class Saved:
    """What autograd saves of a call.

    Attributes
    ----------
    values
        The values that it saves, of operands and result.
    others
        Bytes of other tensors.
    shown
        The operand of which the result is a view; empty if it is none.
    """

    values: frozenset[str]
    others: int
    shown: str = ""


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
        self._others = 0
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
        values = {**self._covered, **self._alive}
        held = sum(self._bytes(*each) for each in values.items()) + self._others
        self.peak = max(self.peak, held + more)
        return held

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
            self._held()

    def _compute(self, step: Compute) -> None:
        node = self.nodes[step.node]
        if step.region.empty:
            return
        rule = rule_of(node)
        padded = rule.with_padding(step.clipped[0], step.region) if step.clipped else None
        if padded is not None:
            value = node.operands[0]
            covered = self._alive.get(value, step.clipped[0])
            whole = covered.hull(padded)
            self._held(self._bytes(value, whole))
            self._cover(value, whole)
        saved = self._of_call[node.name] = saved_by(self.plan, node, rule, step, padded)
        if saved.shown:
            self._shown[node.name] = self._memory_of(saved.shown)
        else:
            self._alive[node.name] = step.region
        self._others += saved.others
        for value in map(self._memory_of, saved.values):
            self._readers[value] += 1
            self._covered[value] = self._alive.get(value, self._covered.get(value, step.region))

    def _memory_of(self, value: str) -> str:
        """The value in whose memory a value lies: a view lies in that of another."""
        return self._shown.get(value, value)

    def _cover(self, value: str, region: Region) -> None:
        self._alive[value] = region
        self._shown.pop(value, None)  # a view that is assembled anew has memory of its own
        if value in self._covered and self._covered[value] & region == self._covered[value]:
            self._covered[value] = region

    # --- backward ---------------------------------------------------------------------------

    def _backward(self) -> None:
        """Gradients are held until the call that made their value has been differentiated."""
        self._alive.clear()
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


def saved_by(plan: Plan, node: Node, rule: Rule, step: Compute, padded: Region | None) -> Saved:
    """Return what autograd saves of a call.

    An operator that needs the values of its operands cannot be tried without them; it is taken to
    save all of its operands and its result.

    Parameters
    ----------
    plan
        The plan.
    node, rule
        The call.
    step
        The region that it computes.
    padded
        The region of the first operand with its padding, if it has any.
    """
    regions = [padded or step.clipped[0], *step.clipped[1:]] if step.clipped else []
    try:
        return _tried(plan, node, rule, step, regions, padded is not None)
    except Exception:  # whatever an operator raises without values
        return Saved(frozenset([node.name, *node.operands]), 0)


def _tried(
    plan: Plan, node: Node, rule: Rule, step: Compute, regions: list[Region], padded: bool
) -> Saved:
    with torch.enable_grad():
        operands = [
            _empty(axes.local_shape(region), plan.graph.dtype_of(value))
            for value, region, axes in zip(node.operands, regions, node.operand_axes, strict=True)
        ]
        weights = {w.name: _empty(w.shape, plan.graph.dtype) for w in node.weights}
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            saved[_number_of(tensor)] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            if padded:
                result = rule.apply_padded(operands, step.clipped[0], step.region, weights)
            else:
                result = rule.apply(operands, step.needs, step.region, weights)
    for weight in weights.values():
        saved.pop(_number_of(weight), None)
    names = {_number_of(t): name for name, t in zip(node.operands, operands, strict=True)}
    of_result = {_number_of(t) for t in leaves(result) if isinstance(t, torch.Tensor)}
    shown = "".join(names[number] for number in of_result if number in names)
    names |= {number: node.name for number in of_result if not shown}
    values = frozenset(names[number] for number in saved if number in names)
    return Saved(values, sum(size for number, size in saved.items() if number not in names), shown)


def _empty(shape: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(
        tuple(shape), dtype=dtype, device="meta", requires_grad=dtype.is_floating_point
    )


def _number_of(tensor: torch.Tensor) -> int:
    """A number that tensors in the same memory have in common."""
    return tensor.untyped_storage()._cdata
