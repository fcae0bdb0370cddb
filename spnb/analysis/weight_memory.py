"""The bytes that a rank has whatever the size of the image: its process and its weights."""

from __future__ import annotations

import math

from ..kernels.half_conv import HALVES
from ..planner.plan import Plan
from ..rules.cut_constants import CONSTANT

PROCESS = 24 << 20
"""Bytes of an engine for any plan: its program, oneDNN's kernels, messages (measured)."""

ENGINE = 210 << 20
"""Bytes of an engine and its nanny before they have a plan, which no others share (measured)."""


def held_weight_bytes(plan: Plan, rank: int) -> int:
    """Return the bytes of the weights that a rank has, those of its mirrored stage included."""
    return sum(weight_bytes(plan, stage) for stage in plan.stages_on(rank))


def weight_bytes(plan: Plan, stage: int) -> int:
    """Return the bytes of the parameters and buffers of a stage that each rank has whole."""
    nodes = (node for node in plan.stages[stage].nodes if node.op != CONSTANT)
    weights = {w.name: w for node in nodes for w in node.weights}
    return sum(math.prod(w.shape) for w in weights.values()) * plan.graph.dtype.itemsize


def bytes_beside_weights(plan: Plan, rank: int) -> int:
    """Return the bytes of gradients and optimizer states that a rank has in training.

    A parameter has the sum of its gradients, and two moments of the optimizer.
    """
    # In half precision there are fp32 parameters too, and sums and moments are fp32.
    return (8 if plan.graph.dtype in HALVES else 3) * held_weight_bytes(plan, rank)
