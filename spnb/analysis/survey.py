"""Figures of a plan: messages, bytes, work, memory. Pure arithmetic; nothing is run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..ir.exchange import HOST
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Receive, Send, held_by_host
from ..ir.region import Region, Tiling, length
from ..ir.schedule import SCHEDULES, most_held
from ..kernels.half_conv import HALVES
from ..planner.needs import extent_in
from ..planner.plan import Plan
from ..rules import rule_of
from ..runtime.buffer_plan import Buffers, plan_buffers


@dataclass(frozen=True)
class Totals:
    """Figures of one pass over the batch, all ranks together.

    Attributes
    ----------
    exchanges
        Times that ranks wait for each other: halos, merges, gathers and hand-overs.
    messages, bytes
        What travels between ranks for them.
    flops
        Operations of all ranks.
    untiled_flops
        Operations of the untiled network.
    """

    exchanges: int
    messages: int
    bytes: int
    flops: float
    untiled_flops: float

    @property
    def redundant(self) -> float:
        """Work that is done more than once, as a share of the untiled network's."""
        return max(0.0, self.flops / self.untiled_flops - 1) if self.untiled_flops else 0.0


def totals(plan: Plan) -> Totals:
    """Exchanges, messages, bytes and work of a plan; from its axes, so of any number of ranks."""
    exchanges = messages = size = 0
    flops = untiled = 0.0
    for images in plan.micro_batch_sizes:
        for exchange in plan.exchanges[images]:
            if HOST in (exchange.source.ranks[0], exchange.target.ranks[0]):
                continue
            more, sent = exchange.total
            exchanges += more > 0
            messages, size = messages + more, size + sent
        for stage in plan.stages:
            layout = plan.stage_needs[stage.index, images]
            if stage.num_patches > 1:
                layout = plan.patch_needs[images]
            computed = layout.computed
            for node in stage.nodes:
                extent = extent_in(plan.graph, node.name, images)
                share = node.flops / math.prod(node.axes.extent)
                if node.op.startswith(("aten.", "spnb.conv")):  # not figures of tiles: no weight
                    untiled += share * math.prod(extent)
                if node.name in computed:
                    axes = (sum(map(length, spans)) for spans in computed[node.name])
                    flops += share * math.prod(axes)
    return Totals(exchanges, messages, size, flops, untiled)


PROCESS = 24 << 20
"""Bytes that an engine takes for any plan: its program, oneDNN's kernels, messages (measured)."""


TRAINER = 76 << 20
"""Bytes that PyTorch's optimizers load into an engine, when the first is made (measured)."""


def memory(plan: Plan) -> list[tuple[int, int]]:
    """Bytes of weights, and most bytes of values at once, of a rank of each stage.

    Of the ranks of a stage, the one that holds most; what operators and the process itself need
    beside them is not counted.
    """
    return [
        (
            held_weight_bytes(plan, stage.team.ranks[0]),
            max(held_value_bytes(plan, rank) for rank in sample_ranks(plan, stage.index)),
        )
        for stage in plan.stages
    ]


def untiled(plan: Plan) -> Plan:
    """The same network and micro-batches as one stage on one rank."""
    whole = Tiling.even((1,) * (len(plan.extent) + 1))
    graph = plan.captured
    return Plan(
        graph,
        [whole],
        [len(graph.blocks)],
        len(plan.micro_batch_sizes),
        network_module=plan.network_module,
    )


def traffic(plan: Plan, rank: int) -> tuple[int, int]:
    """Messages and bytes that a rank sends to other ranks in one pass over the batch."""
    messages = size = 0
    pipelines = plan.replicas.of(plan.replica_of(rank))
    for image, pipeline in zip(plan.plan_ranks_of(rank), pipelines, strict=True):
        team = plan.stage_of(image).team
        for number in pipeline.numbers:
            for exchange in plan.exchanges[plan.micro_batch_sizes[number]]:
                if exchange.source is team and exchange.target.ranks != (HOST,):
                    more, bytes_sent = exchange.sent(image)
                    messages, size = messages + more, size + bytes_sent
    return messages, size


def traffic_matrix(plan: Plan) -> np.ndarray:
    """Bytes that each rank (row) sends to each other (column) in one pass over the batch."""
    matrix = np.zeros((plan.num_ranks, plan.num_ranks), dtype=np.int64)
    for number, images in enumerate(plan.micro_batch_sizes):
        world = plan.replicas.taking(number).ranks
        for exchange in plan.exchanges[images]:
            if HOST in (exchange.source.ranks[0], exchange.target.ranks[0]):
                continue
            for rank in exchange.source.ranks:
                for t in exchange.sends(rank):
                    size = t.region.size * exchange.position_bytes
                    matrix[world[t.source], world[t.target]] += size
    return matrix


def held_weight_bytes(plan: Plan, rank: int) -> int:
    """Bytes of the weights that a rank has, those for its mirror image too."""
    return sum(weight_bytes(plan, stage) for stage in plan.stages_on(rank))


def weight_bytes(plan: Plan, stage: int) -> int:
    """Bytes of the parameters and buffers of a stage."""
    weights = {w.name: w for node in plan.stages[stage].nodes for w in node.weights}
    return sum(math.prod(w.shape) for w in weights.values()) * plan.graph.dtype.itemsize


def held_value_bytes(plan: Plan, rank: int) -> int:
    """Most bytes of values that a rank holds at once, those for its mirror image too."""
    if plan.graph.training:
        return _training_bytes(plan, rank)
    return sum(activation_bytes(plan, image) for image in plan.plan_ranks_of(rank))


def activation_bytes(plan: Plan, rank: int) -> int:
    """Most bytes of values that a rank holds at once, from their lifetimes in its program.

    Results of convolutions have their places for good (see `spnb.runtime.buffer_plan`), outputs
    have memory of their own, and all else comes and goes on the heap, which keeps its size.  What
    an operator needs besides its operands and its result (workspace) is not counted.
    """
    nodes = plan.stage_of(rank).nodes
    rules = [rule_of(node) for node in nodes]
    held: dict[str, int] = {}
    computed: dict[str, Region] = {}
    apart: dict[str, Region] = {}  # values whose halo lies beside them: see spnb.runtime.halo_tile
    outputs: dict[str, int] = {}
    peak = 0
    buffers = Buffers()

    def note(value: str, size: int) -> None:
        nonlocal peak
        if value in kept:
            outputs[value] = size * len(plan.micro_batch_sizes)
        elif value not in buffers.places or value in apart:
            peak = max(peak, sum(held.values()) + size)
            held[value] = size

    programs = plan.programs(rank, max(plan.micro_batch_sizes))
    places = [plan_buffers(program, nodes, rules) for program in programs]
    arena = max(each.size for each in places)
    kept = {value for program in programs for value in held_by_host(program, nodes)}
    for buffers, step in (
        (each, step)
        for each, program in zip(places, programs, strict=True)
        for step in program.steps
    ):
        if isinstance(step, Compute):
            node = nodes[step.node]
            for number, value in enumerate(node.operands):
                if value in apart and not _reads_apart(node, number, computed[value], step):
                    note(value, value_bytes(plan, value, apart[value]))
                    del apart[value]
            if step.overwrites:
                held.pop(node.operands[-1], None)
                outputs.pop(node.operands[-1], None)
            note(node.name, value_bytes(plan, node.name, step.region))
            computed[node.name] = step.region
        elif isinstance(step, Send):
            if any(t.target == HOST for t in step.transfers):
                size = value_bytes(plan, step.value, computed[step.value])
                outputs[step.value] = size * len(plan.micro_batch_sizes)
                held.pop(f"tile {step.value}", None)
        elif isinstance(step, Keep):
            held[f"tile {step.value}"] = value_bytes(plan, step.value, step.whole)
            computed[step.value] = step.whole
            held.pop(step.value, None)
        elif isinstance(step, Receive):
            place = buffers.places.get(step.value)
            if place and step.region in place.region:
                continue  # it arrives in its place
            arriving = sum(value_bytes(plan, step.value, t.region) for t in step.transfers)
            # An image is held three times for a moment: mapped, read, and laid out.
            if any(t.source == HOST for t in step.transfers):
                peak = max(peak, sum(held.values()) + 3 * arriving)
            held[step.value] = held.get(step.value, 0) + arriving
            if step.value in computed:
                apart[step.value] = step.region
        elif isinstance(step, Free):
            for value in step.values:
                held.pop(value, None)
                apart.pop(value, None)
        peak = max(peak, sum(held.values()))
    return arena + peak + sum(outputs.values())


def _training_bytes(plan: Plan, rank: int) -> int:
    """Most bytes that a rank holds in training, of values, and of what goes with each parameter.

    What went forward is held until it comes back: results, what was received, put together, and
    what was padded for a window.  Gradients are held of one micro-batch at a time, of about two
    values at once.  A parameter has its gradient, that of the micro-batch, and two moments of the
    optimizer.
    """
    values = max(_held_in_training(plan, image) for image in plan.plan_ranks_of(rank))
    # In half precision there are fp32 parameters too, and gradients and moments are fp32.
    return values + (9 if plan.graph.dtype in HALVES else 4) * held_weight_bytes(plan, rank)


def _held_in_training(plan: Plan, rank: int) -> int:
    """Bytes of values that a rank holds in one pipeline; of two it holds one's at a time."""
    stage = plan.stage_of(rank)
    (program,) = plan.programs(rank, max(plan.micro_batch_sizes))
    made = arrived = largest = 0
    for step in program.steps:
        if isinstance(step, Compute):
            node = stage.nodes[step.node]
            size = value_bytes(plan, node.name, step.region)
            made, largest = made + size, max(largest, size)
            if step.clipped and (padded := rule_of(node).scratch(step.clipped[0], step.region)):
                axes, region = padded
                made += axes.local_bytes(region, node.dtype.itemsize)
        elif isinstance(step, Receive):
            made += value_bytes(plan, step.value, step.region)
            arrived += sum(value_bytes(plan, step.value, t.region) for t in step.transfers)
    passes = SCHEDULES[plan.schedule](plan.replicas.micro_batches, len(plan.stages), stage.index)
    held = most_held(passes)
    values = arrived * held + made if plan.recompute else made * held
    return values + 2 * largest


def _reads_apart(node: Node, number: int, own: Region, step: Compute) -> bool:
    """Whether a call reads an operand with no need to put tile and halo together."""
    early = number == 0 and step.padding is None
    alone = early and rule_of(node).core_and_boundary(own, step.region)
    return bool(alone) or step.clipped[number] in own


def value_bytes(plan: Plan, value: str, region: Region) -> int:
    """Bytes of a region of a value, channels included."""
    return region.size * plan.graph.channels(value) * plan.graph.itemsize(value)


def sample_ranks(plan: Plan, stage: int) -> list[int]:
    """Ranks that stand for a stage: first, middle and last along each axis."""
    team = plan.stages[stage].team
    corners: list[tuple[int, ...]] = [()]
    for n in team.tiling.grid:
        corners = [(*c, k) for c in corners for k in sorted({0, n // 2, n - 1})]
    return [team.rank_at(corner) for corner in corners]
