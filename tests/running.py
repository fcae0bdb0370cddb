"""Runs a plan in this process, without the sessions that users have."""

import torch
from torch.utils import _pytree as pytree

from spnb.balance import stage_blocks
from spnb.graph import capture, pack_outputs
from spnb.node import index_of
from spnb.plan import Plan
from spnb.region import Region
from spnb.transport.local import World
from spnb.weights import tensors_of
from spnb.worker import Worker


def planned(net, shape, tilings, parts=1, fused=0, balance=None, dtype=torch.float64):
    graph = capture(net, shape, dtype)
    cut_batch = parts > 1 or any(t.grid[0] > 1 for t in tilings)
    return Plan(graph, tilings, stage_blocks(graph, tilings, cut_batch, balance), parts, fused)


def run(plan, net, x):
    """Outputs of a plan, and what each rank told."""

    def read(region):
        return x[index_of([slice(*span) for span in region.spans])].contiguous()

    def work(transport):
        part = plan.part(transport.rank)
        return Worker(part, tensors_of(net, part.weights), transport).infer(read)

    outcomes = World(plan.num_ranks, deadline=30).run(work)
    whole = {
        v: torch.full(plan.graph.shapes[v], torch.nan, dtype=x.dtype) for v in plan.graph.outputs
    }
    for piece in (piece for outcome in outcomes for piece in outcome.pieces):
        target = whole[piece.value]
        box = piece.region.slices_in(Region.whole(plan.graph.extent(piece.value)))
        target[index_of(box)[: target.ndim]] = piece.tensor
    return pack_outputs(plan.graph, [whole[v] for v in plan.graph.outputs]), outcomes


def assert_equal(tiled, untiled, tolerance=1e-12):
    """Equal within a share of the output's scale; structure and shapes equal too."""
    (a, structure), (b, expected) = pytree.tree_flatten(tiled), pytree.tree_flatten(untiled)
    assert structure == expected
    for x, y in zip(a, b):
        assert x.shape == y.shape
        error, scale = (x - y).abs().max(), y.abs().max()
        assert error <= tolerance * scale + 1e-300, f"error {error:.2e}, scale {scale:.2e}"
