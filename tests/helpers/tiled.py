"""Checks a network against itself untiled: every rule on many regions, and whole plans."""

import itertools
import random

import torch
from networks import randomize
from running import assert_equal, captured, planned, run
from torch import nn

from spnb.ir.region import Region
from spnb.ir.tiling import Tiling
from spnb.ir.weights import tensors_of
from spnb.planner.needs import needed
from spnb.rules import rule_of

GRIDS = {1: [(2,), (3,)], 2: [(2, 2), (1, 3), (3, 2)], 3: [(2, 1, 2), (1, 3, 1), (2, 2, 2)]}
ALL = 1 << 30


class Call(nn.Module):
    """A function, with modules to call, as a network."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(modules)

    def forward(self, x, *more):
        return self.function(self.layers, x, *more) if self.layers else self.function(x, *more)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def check_regions(net, *shapes, most=25):
    """Each call computes any region, from exactly what it says it needs, as it does the whole."""
    net = randomize(net).double().eval()
    graph = captured(net, list(shapes), torch.float64)
    weights = tensors_of(net, [w.name for node in graph.nodes for w in node.weights], graph)
    held = {name: noise(*axes.shape, seed=k) for k, (name, axes) in enumerate(graph.inputs.items())}
    chance = random.Random(0)
    for node in graph.nodes:
        rule, extent = rule_of(node), node.axes.extent
        whole = Region.whole(extent)
        held[node.name] = compute(rule, whole, held, weights)
        cuts = [sorted({0, 1, n // 2, n - 1, n} - {-1}) for n in extent]
        boxes = list(itertools.product(*(list(itertools.combinations(c, 2)) for c in cuts)))
        for box in chance.sample(boxes, min(most, len(boxes))):
            region = Region(box)
            found = compute(rule, region, held, weights)
            assert_equal(found, cut(held[node.name], node.axes, whole, region))
    with torch.no_grad():
        inputs = [held[name] for name in graph.inputs]
        assert_equal(graph.pack(held, tensors_of(net, known(graph), graph)), net(*inputs))
    return graph


def compute(rule, region, held, weights):
    """A region of a call, from exactly what it says it needs."""
    node, spans = rule.node, list(enumerate(region.spans))
    needs, pieces = [], []
    for k, (value, axes) in enumerate(zip(node.operands, node.operand_axes)):
        needs.append(Region(tuple(needed(rule, k, axis, span) for axis, span in spans)))
        whole = Region.whole(axes.extent)
        pieces.append(cut(held[value], axes, whole, needs[-1] & whole))
    return rule.apply(pieces, needs, region, weights)


def cut(value, axes, held, region):
    if isinstance(value, tuple):
        return tuple(cut(part, axes, held, region) for part in value)
    return axes.piece(value, held, region)


def known(graph):
    return [leaf.name for leaf in graph.returned if hasattr(leaf, "name")]


def check_tiled(net, *shapes, grids=None, fused=(0, ALL), parts=1, allow_gather=False):
    """The whole network in one tiled stage, on several grids."""
    net = randomize(net).double().eval()
    inputs = [noise(*shape, seed=k) for k, shape in enumerate(shapes)]
    with torch.no_grad():
        untiled = net(*[x.clone() for x in inputs])
    plans = []
    for grid in grids or GRIDS[len(shapes[0]) - 2]:
        for blocks in fused:
            tilings = [Tiling.even((1, *grid))]
            plan = planned(net, list(shapes), tilings, parts, blocks, allow_gather=allow_gather)
            tiled, _ = run(plan, net, *inputs)
            assert_equal(tiled, untiled)
            plans.append(plan)
    return plans


def check(net, *shapes, **options):
    check_regions(net, *shapes)
    return check_tiled(net, *shapes, **options)
