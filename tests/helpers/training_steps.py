"""Steps of a tiled plan beside those of the untiled network: losses, gradients, weights."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from running import planned_for_training as planned
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from spnb.ir.program import Segments
from spnb.ir.region import Region
from spnb.ir.tiling import Tiling
from spnb.ir.weights import tensors_of
from spnb.training.losses import LOSSES
from spnb.training.step import TrainingWorker
from spnb.transport.local import World


def in_segments(rank_plan, seed):
    """The share of a rank that computes segments again, which are drawn at random."""
    draw, segments = random.Random(seed), {}
    for images, (program,) in rank_plan.programs.items():
        count = len(program.steps)
        stop = draw.choice([count, draw.randint(0, count)])
        starts = sorted({0, *draw.sample(range(stop), draw.randint(0, min(4, stop)))})
        segments[images] = Segments(tuple(starts) if stop else (), stop)
    mirror = rank_plan.mirror and in_segments(rank_plan.mirror, seed)
    return replace(rank_plan, segments=segments, mirror=mirror)


def train(plan, net, x, target, loss="mse", steps=3, rate=0.1, schedule="1f1b", recompute=False):
    """Losses, and the parameters and buffers after so many steps of SGD."""
    graph = plan.graph
    (output,) = graph.outputs
    axes = graph.axes[output]

    def read(value, region):
        return graph.axes[value].piece(x, Region.whole(graph.extent(value)), region).contiguous()

    def wanted(value, region):
        if target.is_floating_point():
            return axes.piece(target, Region.whole(axes.extent), region)
        return target[region.slices_in(Region.whole(axes.extent))[: target.ndim]]

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        if recompute:
            rank_plan = in_segments(rank_plan, transport.rank)
        names = {
            name for image in rank_plan.with_mirror for name in graph.made_of(image.weights)[0]
        }
        weights = tensors_of(net, names, graph)
        trained = {n for n, p in net.named_parameters() if p.requires_grad}
        worker = TrainingWorker(rank_plan, weights, trained, transport, LOSSES[loss], schedule)
        named = list(worker.parameters.values())
        optimizer = named and torch.optim.SGD(named, rate, momentum=0.9)
        told = []
        for _ in range(steps):
            told.append(worker.step(read, wanted))
            if optimizer:
                optimizer.step()
        return told, worker

    found = World(plan.num_ranks, deadline=60).run(work)
    losses = [sum(step.loss for step in each) for each in zip(*(told for told, _ in found))]
    return losses, [worker for _, worker in found], [told[0] for told, _ in found]


def check(net, x, target, tilings, parts=1, fused=0, loss="mse", balance=None, **options):
    of_plan = ("replicas", "times", "overlapped", "patches", "patches_exchange", "schedule")
    copies = {name: options.pop(name) for name in of_plan if name in options}
    if "schedule" in copies:
        options["schedule"] = copies["schedule"]
    plan = planned(net, tuple(x.shape), tilings, parts, fused, balance, x.dtype, **copies)
    steps = options.get("steps", 3)
    reference = copy.deepcopy(net).train()
    optimizer = torch.optim.SGD(reference.parameters(), options.get("rate", 0.1), momentum=0.9)
    function = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy, "l1": F.l1_loss}[loss]
    untiled = []
    for _ in range(steps):
        optimizer.zero_grad()
        total, first = 0.0, 0
        for images in plan.micro_batch_sizes:
            piece = slice(first, first + images)
            each = function(pytree.tree_leaves(reference(x[piece]))[0], target[piece])
            (each * images / len(x)).backward()
            total, first = total + float(each.detach()) * images / len(x), first + images
        untiled.append(total)
        optimizer.step()
    tolerance = options.pop("tolerance", 1e-9)
    losses, learners, told = train(plan, net, x, target, loss, **options)
    assert losses == pytest.approx(untiled, rel=tolerance)
    gradients = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    scale = (
        max(float(gradient.abs().max()) for gradient in gradients.values()) if gradients else 1.0
    )
    wanted = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    for rank, worker in enumerate(learners):
        known = worker.weights
        for name, gradient in gradients.items():
            if name in worker.parameters:
                error = float((worker.parameters[name].grad - gradient).abs().max())
                assert error <= tolerance / 10 * scale, f"rank {rank}, {name}: {error:.1e}"
        for name, tensor in known.items():
            if name.startswith("="):
                continue
            error = float((tensor.detach() - wanted[name].detach()).abs().max())
            largest = float(wanted[name].detach().abs().max())
            assert error <= tolerance * max(largest, 1e-3), f"rank {rank}, {name}: {error:.1e}"
    known = {name for worker in learners for name in worker.weights}
    assert known >= set(dict(net.named_parameters()))
    return plan, told


def grid(*tiles):
    return Tiling.even((1, *tiles))


SQUARE, WHOLE = grid(2, 2), grid(1, 1)
