"""Runs a plan in this process, without the sessions that users have."""

from weakref import WeakKeyDictionary

import torch
from torch.utils import _pytree as pytree

from spnb.capture.export import capture
from spnb.ir.axes import Axes
from spnb.ir.region import Region
from spnb.ir.tiling import in_patches
from spnb.ir.weights import tensors_of
from spnb.planner.balance import stage_blocks
from spnb.planner.plan import Plan
from spnb.rules import registered, rule_of
from spnb.runtime.worker import Worker
from spnb.transport.local import World

_CAPTURED = WeakKeyDictionary()


def captured(net, shape, dtype, training=False):
    """The graph of a network: captured once, as the plans of one job share it."""
    known = _CAPTURED.setdefault(net, {})
    asked = (str(shape), dtype, training, registered())
    if asked not in known:
        known[asked] = capture(net, shape, dtype, training)
    return known[asked]


def planned(
    net,
    shape,
    tilings,
    parts=1,
    fused=0,
    balance=None,
    dtype=torch.float64,
    allow_gather=False,
    patches=(),
    training=False,
    **copies,
):
    graph = captured(net, shape, dtype, training)
    cut_batch = parts > 1 or bool(copies) or any(t.grid[0] > 1 for t in tilings)
    cuts = in_patches(tilings, patches) if patches else tilings
    blocks = stage_blocks(graph, cuts, cut_batch, balance, allow_gather)
    plan = Plan(graph, tilings, blocks, parts=parts, fused=fused, patches=patches, **copies)
    for node in plan.graph.nodes:  # a call that takes the place of another is cut as that was
        assert rule_of(node).axes == node.axes, node
    return plan


def planned_for_training(*given, **options):
    """As `planned`, of the network in its training mode."""
    return planned(*given, training=True, **options)


def run(plan, net, *inputs):
    """Outputs of a plan, and what each rank told."""
    graph = plan.graph
    given = dict(zip(graph.inputs, inputs, strict=True))

    def read(name, region):
        held = Region.whole(graph.extent(name))
        return graph.axes[name].piece(given[name], held, region).contiguous()

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        names = {name for image in rank_plan.with_mirror for name in image.weights}
        return Worker(rank_plan, tensors_of(net, names, graph), transport).infer(read)

    outcomes = World(plan.num_ranks, deadline=30).run(work)
    whole = {v: torch.zeros(graph.shape(v), dtype=graph.dtype_of(v)) for v in graph.outputs}
    reached = {v: torch.zeros(graph.shape(v), dtype=torch.int) for v in graph.outputs}
    for piece in (piece for outcome in outcomes for piece in outcome.pieces):
        axes, held = graph.axes[piece.value], Region.whole(graph.extent(piece.value))
        axes.put(whole[piece.value], held, piece.region, piece.tensor)
        more = torch.ones(piece.tensor.shape, dtype=torch.int)
        axes.put(reached[piece.value], held, piece.region, more)
    assert all(bool((count == 1).all()) for count in reached.values())
    names = [leaf.name for leaf in graph.returned if hasattr(leaf, "name")]
    return graph.pack(whole, tensors_of(net, names, graph)), outcomes


def assert_equal(tiled, untiled, tolerance=1e-12):
    """Equal within a share of the output's scale; structure and shapes equal too."""
    (a, structure), (b, expected) = pytree.tree_flatten(tiled), pytree.tree_flatten(untiled)
    assert structure == expected
    for x, y in zip(a, b):
        if not isinstance(y, torch.Tensor):
            assert x == y
            continue
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        if x.is_complex():
            x, y = torch.view_as_real(x), torch.view_as_real(y)
        error = (
            (x.double() - y.double()).abs().masked_fill((x == y) | (x.isnan() & y.isnan()), 0).max()
        )
        scale = y.double().abs().nan_to_num(0, 0).max()
        assert error <= tolerance * scale + 1e-300, f"error {error:.2e}, scale {scale:.2e}"


def piece_of(x, box):
    """The part of an image ``(batch, channels, *spatial)`` that covers spans."""
    held = Region.whole((x.shape[0], *x.shape[2:]))
    return Axes.image((2,) * x.ndim).piece(x, held, Region(tuple(box)))
