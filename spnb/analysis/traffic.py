"""Messages and bytes that ranks send to each other, and the work of all ranks: pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..ir.exchange import HOST, Exchange
from ..ir.region import length
from ..planner.needs import extent_in
from ..planner.plan import Plan


@dataclass(frozen=True)
class Totals:
    """Figures of one pass over the batch, for all ranks together.

    Attributes
    ----------
    exchanges
        Number of exchanges between ranks: halos, merges, rings, gathers and hand-overs.
    messages, bytes
        Number of messages in these exchanges, and their bytes.
    flops
        Floating-point operations of all ranks.
    untiled_flops
        Floating-point operations of the untiled network.
    """

    exchanges: int
    messages: int
    bytes: int
    flops: float
    untiled_flops: float

    @property
    def redundant(self) -> float:
        """Work that is done more than once, as a share of the untiled network's work."""
        return max(0.0, self.flops / self.untiled_flops - 1) if self.untiled_flops else 0.0


def totals(plan: Plan) -> Totals:
    """Return exchanges, messages, bytes and work of a plan.

    The figures come from the axes of the tiles, not from a list of ranks, so that a plan of
    thousands of ranks takes no longer.
    """
    exchanges = messages = size = 0
    flops = untiled_flops = 0.0
    for images in plan.micro_batch_sizes:
        for exchange in plan.exchanges[images]:
            if _with_host(exchange):
                continue
            sent_messages, sent_bytes = exchange.total
            exchanges += sent_messages > 0
            messages, size = messages + sent_messages, size + sent_bytes
        tiled, untiled = _flops(plan, images)
        flops, untiled_flops = flops + tiled, untiled_flops + untiled
    return Totals(exchanges, messages, size, flops, untiled_flops)


def _flops(plan: Plan, images: int) -> tuple[float, float]:
    """Return the operations of a micro-batch, of all ranks and of the untiled network."""
    tiled = untiled = 0.0
    for stage in plan.stages:
        needs = plan.stage_needs[stage.index, images]
        if stage.num_patches > 1:
            needs = plan.patch_needs[images]
        for node in stage.nodes:
            share = node.flops / math.prod(node.axes.extent)
            # Operators that the planner adds, such as merges of figures, are not in the network.
            if node.op.startswith(("aten.", "spnb.conv", "spnb.attention.")):
                untiled += share * math.prod(extent_in(plan.graph, node.name, images))
            if node.name in needs.computed:
                axes = (sum(map(length, spans)) for spans in needs.computed[node.name])
                tiled += share * math.prod(axes)
    return tiled, untiled


def traffic(plan: Plan, rank: int) -> tuple[int, int]:
    """Return the messages and bytes that a rank sends to other ranks in one pass over the batch."""
    messages = size = 0
    pipelines = plan.replicas.of(plan.replica_of(rank))
    for plan_rank, pipeline in zip(plan.plan_ranks_of(rank), pipelines, strict=True):
        team = plan.stage_of(plan_rank).team
        for number in pipeline.numbers:
            for exchange in plan.exchanges[plan.micro_batch_sizes[number]]:
                if exchange.source is team and exchange.target.ranks != (HOST,):
                    sent_messages, sent_bytes = exchange.sent(plan_rank)
                    messages, size = messages + sent_messages, size + sent_bytes
    return messages, size


def traffic_matrix(plan: Plan) -> np.ndarray:
    """Return the bytes that each rank sends to each other in one pass over the batch.

    Returns
    -------
    numpy.ndarray
        Integers ``(ranks, ranks)``: the row is the sender, the column the receiver.
    """
    matrix = np.zeros((plan.num_ranks, plan.num_ranks), dtype=np.int64)
    for number, images in enumerate(plan.micro_batch_sizes):
        world = plan.replicas.taking(number).ranks
        for exchange in plan.exchanges[images]:
            if _with_host(exchange):
                continue
            for rank in exchange.source.ranks:
                for t in exchange.sends(rank):
                    size = t.region.size * exchange.position_bytes
                    matrix[world[t.source], world[t.target]] += size
    return matrix


def _with_host(exchange: Exchange) -> bool:
    """Whether an exchange reads an image or writes an output, and sends nothing between ranks."""
    return HOST in (exchange.source.ranks[0], exchange.target.ranks[0])
