"""Gradients: those of every parameter, and of the input, equal the untiled ones."""

import threading

import pytest
import torch
from autograd_memory import held_bytes
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import Residual, chains, conv
from random_plans import RANDOM_NETWORKS, few_and_many
from running import planned_for_training as planned
from tiled import noise
from torch import nn
from torch.utils import _pytree as pytree
from training_steps import grid

from spnb.analysis.segments import segments_of
from spnb.analysis.training_memory import TrainingMemory
from spnb.errors import CaptureError, PlanError
from spnb.ir.program import Segments
from spnb.ir.region import Region
from spnb.ir.tiling import Tiling
from spnb.ir.weights import tensors_of
from spnb.kernels.autograd_node import differentiating
from spnb.rules import rule_of
from spnb.runtime.halo_tile import Assembly
from spnb.training.tapes import call_graph
from spnb.training.tapes.tape import Tape
from spnb.training.tapes.taped_program import TapedProgram
from spnb.training.tapes.value_store import DiskStore, InMemory
from spnb.transport.local import LocalTransport, World


def tiled_gradients(plan, net, x, targets):
    """The gradient of each parameter, summed over ranks, of the mean squared errors."""
    graph = plan.graph
    (name,) = graph.inputs
    held = Region.whole(graph.extent(name))

    def read(value, region):
        return graph.axes[value].piece(x, held, region).contiguous()

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        weights = tensors_of(net, rank_plan.weights, graph)
        real = dict(net.named_parameters())
        weights = {n: w.clone().requires_grad_(n in real) for n, w in weights.items()}
        rules = [rule_of(node) for node in rank_plan.nodes]
        found = {}

        def learn(weight, gradient):
            found[weight] = found.get(weight, 0) + gradient

        tapes = []
        for number, images in enumerate(rank_plan.micro_batch_sizes):
            (program,) = rank_plan.programs[images]
            tape = Tape(
                TapedProgram(rank_plan, rules, program),
                weights,
                transport,
                sum(rank_plan.micro_batch_sizes[:number]),
            )
            tape.forward(read)
            tapes.append(tape)
        for tape in reversed(tapes):
            gradients = []
            for piece in tape.pieces:
                axes, error = graph.axes[piece.value], []
                whole = Region.whole(graph.extent(piece.value))
                for target in targets[piece.value]:
                    wanted = axes.piece(target, whole, piece.region)
                    error.append(2 * (piece.tensor - wanted) / target.numel())
                gradients.append(sum(error))
            tape.backward(gradients, learn)
        transport.flush()
        return found

    total = {}
    for found in World(plan.num_ranks, deadline=30).run(work):
        for weight, gradient in found.items():
            total[weight] = total.get(weight, 0) + gradient
    return total


def check(net, x, tilings, parts=1, fused=0, balance=None):
    plan = planned(net, tuple(x.shape), tilings, parts, fused, balance)
    net = net.train()
    net.zero_grad()
    pieces = [pytree.tree_leaves(net(piece)) for piece in x.split(plan.micro_batch_sizes)]
    targets, loss = {}, 0
    for leaf, each in zip(plan.graph.returned, zip(*pieces)):
        y = torch.cat(each) if each[0].ndim else each[0]
        target = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).double()
        targets.setdefault(leaf.value, []).append(target)
        loss = loss + (y - target).square().mean()
    loss.backward()
    found = tiled_gradients(plan, net, x, targets)
    untiled = {n: p.grad for n, p in net.named_parameters()}
    scale = max(float(g.abs().max()) for g in untiled.values() if g is not None)
    for name, gradient in untiled.items():
        tiled = found.get(name, torch.zeros(()))
        gradient = torch.zeros(()) if gradient is None else gradient
        error = float((tiled - gradient).abs().max())
        assert error <= 1e-10 * scale, f"{name}: {error:.1e} of {scale:.1e}"
    return plan


@pytest.mark.long
@few_and_many(35)
def test_random_networks(examples):
    @settings(RANDOM_NETWORKS, max_examples=examples)
    @given(data=st.data(), axes=st.sampled_from([1, 2, 2, 3]))
    def check_one(data, axes):
        net = data.draw(chains(axes)).double()
        assume(any(p.requires_grad for p in net.parameters()))
        size = [data.draw(st.integers(8, {1: 60, 2: 24, 3: 12}[axes])) for _ in range(axes)]
        batch, parts = data.draw(st.sampled_from([(1, 1), (2, 1), (5, 2), (4, 2), (5, 3)]))
        count = data.draw(st.integers(1, 2))
        grids = [(1, *(data.draw(st.integers(1, 3)) for _ in range(axes))) for _ in range(count)]
        tilings = [*map(Tiling.even, grids), Tiling.even((1,) * (axes + 1))]
        fused = data.draw(st.sampled_from([0, 0, 1, 2, 100]))
        try:
            check(net, noise(batch, 2, *size), tilings, parts, fused)
        except (PlanError, CaptureError) as refusal:
            note(str(refusal))
            assume(False)

    check_one()


@pytest.mark.parametrize("fused", [0, 1, 100])
@pytest.mark.parametrize("parts", [1, 2])
def test_batch_norm_takes_the_statistics_of_all_tiles_of_a_micro_batch(fused, parts):
    net = nn.Sequential(
        conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4), conv(4, 2)
    ).double()
    check(net, noise(4, 4, 17, 22), [Tiling.even((1, 2, 3)), Tiling.even((1, 1, 1))], parts, fused)


@pytest.mark.parametrize("fused", [0, 1, 100])
def test_nothing_is_read_that_was_not_written(fused, used_memory):
    net = nn.Sequential(
        conv(), nn.BatchNorm2d(4), nn.ReLU(), Residual(conv(), nn.MaxPool2d(3, 1, 1)), conv(4, 2)
    ).double()
    check(net, noise(4, 4, 17, 22), [Tiling.even((1, 2, 3)), Tiling.even((1, 1, 1))], 2, fused)


def test_gradients_of_filters_are_computed_while_those_of_halos_travel(monkeypatch):
    done = {}  # by thread, each of which is a rank

    def note_calls(owner, name, word):
        plain = getattr(owner, name)

        def noted(*given):
            done.setdefault(threading.get_ident(), []).append(word)
            return plain(*given)

        monkeypatch.setattr(owner, name, noted)

    def noting(node):
        plain = differentiating(node)

        def in_two(node, gradients):
            first, later = plain(node, gradients)
            words = done[threading.get_ident()]
            return first, later and (lambda: words.append("filters") or later())

        return in_two

    monkeypatch.setattr(call_graph, "differentiating", noting)
    note_calls(LocalTransport, "send", "send")
    note_calls(LocalTransport, "wait", "wait")
    net = nn.Sequential(conv(), nn.Tanh(), conv(), nn.Tanh(), conv()).double()
    check(net, noise(1, 4, 12, 12), [Tiling.even((1, 1, 2))])
    for words in done.values():  # the first convolution reads the image, which has no gradient
        assert words == ["send", "wait"] * 2 + ["send", "filters", "wait"] * 2


@pytest.mark.parametrize("store", [InMemory, DiskStore])
def test_a_tape_that_is_put_away_assembles_nothing_while_it_waits(store, monkeypatch):
    net = nn.Sequential(conv(), nn.Tanh(), conv()).double()
    x = noise(1, 4, 12, 12)
    plan = planned(net, tuple(x.shape), [Tiling.even((1, 1, 2))])
    begun, begin = {}, Assembly.begin

    def counted(self, own):
        begun[threading.get_ident()] = begun.get(threading.get_ident(), 0) + 1
        return begin(self, own)

    monkeypatch.setattr(Assembly, "begin", counted)

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        rules = [rule_of(node) for node in rank_plan.nodes]
        shared = TapedProgram(rank_plan, rules, rank_plan.programs[1][0])
        weights = tensors_of(net, rank_plan.weights, plan.graph)
        tape, at_waits = Tape(shared, weights, transport, store=store()), []
        whole = Region.whole(plan.graph.extent(*plan.graph.inputs))
        read = lambda value, region: plan.graph.axes[value].piece(x, whole, region)  # noqa: E731
        for arrivals in tape.forward_waits(read):
            at_waits.append(begun.get(threading.get_ident(), 0))
            transport.wait(arrivals)
        transport.flush()
        return at_waits

    for at_waits in World(2, deadline=30).run(work):
        assert at_waits == ([0] if store is DiskStore else [1])


def test_images_of_a_batch_are_shared_by_ranks():
    net = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4)).double()
    check(net, noise(4, 4, 9, 8), [Tiling.even((1, 2, 1)), Tiling.even((2, 1, 1))])


def test_what_tapes_share_is_not_stale():
    """A later pass may have other weights, frozen ones, and an image in another memory order."""
    net = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.Flatten(2)).double()
    x = noise(2, 4, 9, 8)
    plan = planned(net, tuple(x.shape), [Tiling.even((1, 1, 2))])
    first = {name: p.detach().clone() for name, p in net.named_parameters()}
    second = {name: p + 0.1 for name, p in first.items()}
    passes = [
        (first, set(first), x),
        (first, {"3.weight"}, x),
        (first, {"0.weight", "3.bias"}, x.to(memory_format=torch.channels_last)),
        (second, set(first), x),
    ]
    programs = {
        rank: TapedProgram(
            plan.rank_plan(rank),
            [rule_of(node) for node in plan.rank_plan(rank).nodes],
            plan.rank_plan(rank).programs[2][0],
            lasting=dict(first),
        )
        for rank in range(2)
    }
    for weights, trained, image in passes:
        given = {name: p.detach().requires_grad_(name in trained) for name, p in weights.items()}
        for program in programs.values():
            program.lasting = given
        untiled = torch.func.functional_call(net.train(), given, image).square().sum()
        wanted = torch.autograd.grad(untiled, [given[name] for name in sorted(trained)])

        def work(transport, given=given, image=image):
            shared, found = programs[transport.rank], {}
            every = tensors_of(net, shared.rank_plan.weights, plan.graph) | given
            tape = Tape(shared, every, transport)
            whole = Region.whole(plan.graph.extent(*plan.graph.inputs))
            tape.forward(lambda value, region: plan.graph.axes[value].piece(image, whole, region))
            outputs = [2 * piece.tensor for piece in tape.pieces]
            tape.backward(outputs, lambda key, g: found.update({key: found.get(key, 0) + g}))
            transport.flush()
            return found

        of_ranks = World(2, deadline=30).run(work)
        for name, gradient in zip(sorted(trained), wanted, strict=True):
            torch.testing.assert_close(sum(each[name] for each in of_ranks), gradient)


def held_in_world(net, x, tilings, recompute=None):
    """Bytes on each rank between the passes: autograd's, what arrived, and segments' beginnings."""
    plan = planned(net, tuple(x.shape), tilings)

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        weights = tensors_of(net, rank_plan.weights, plan.graph)
        weights = {
            n: w.requires_grad_(n in dict(net.named_parameters())) for n, w in weights.items()
        }
        (program,) = rank_plan.programs[len(x)]
        rules = [rule_of(node) for node in rank_plan.nodes]
        segments = recompute and recompute(program)
        shared = TapedProgram(rank_plan, rules, program)
        tape = Tape(shared, weights, transport, 0, segments)
        whole = Region.whole(plan.graph.extent(*plan.graph.inputs))
        tape.forward(lambda value, region: plan.graph.axes[value].piece(x, whole, region))
        transport.flush()
        nodes = [node for call in tape._calls.values() for node in call.graph.nodes]
        arrived = sum(t.nbytes for each in tape._arrived.values() for t in each)
        kept = {id(t): t.nbytes for each in tape._held.values() for t in each.tensors.values()}
        of_autograd = held_bytes(nodes, weights.values())
        return of_autograd, arrived, sum(kept.values())

    return plan, World(plan.num_ranks, deadline=30).run(work)


def test_recomputing_holds_what_arrived_and_no_more():
    net = nn.Sequential(*(conv() for _ in range(4)), nn.ReLU()).double()
    x = noise(1, 4, 16, 16)
    tile, row = 4 * 16 * 8 * 8, 4 * 16 * 8
    assert held_in_world(net, x, [grid(1, 2)])[1][0][0] >= 5 * tile
    # the tile of the image with its halo, and three halos
    assert held_in_world(net, x, [grid(1, 2)], Segments.whole)[1][0] == (0, tile + 4 * row, 0)


class Deep(nn.Module):
    """Layers of the same size, a skip connection over them, and a pool."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(9))
        )
        self.last = nn.Sequential(nn.MaxPool2d(2), conv())

    def forward(self, x):
        return self.last(self.layers(x) + x)


def test_segments_hold_the_values_at_their_beginnings_as_the_plan_foresees():
    net, x = Deep().double(), noise(2, 4, 48, 64)
    plan = planned(net, tuple(x.shape), [grid(1, 2)])
    chosen = [segments_of(plan, rank) for rank in range(plan.num_ranks)]
    _, held = held_in_world(net, x, [grid(1, 2)], lambda program: chosen[0])
    for rank, (of_autograd, arrived, kept) in enumerate(held):
        foreseen = TrainingMemory(plan, rank, chosen[0])
        assert of_autograd + arrived + kept == pytest.approx(foreseen.saved, rel=0.03)
        all_held, whole = (
            TrainingMemory(plan, rank, s) for s in (None, Segments.whole(foreseen.program))
        )
        assert foreseen.peak < 0.6 * min(all_held.peak, whole.peak)
        assert len(chosen[rank].starts) >= 2 and chosen[rank].stop < len(foreseen.program.steps)


@pytest.mark.parametrize("tiles", [(1, 2), (2, 1), (2, 2)])
def test_tiles_hold_their_share_of_what_the_whole_image_holds(tiles):
    """A tile and the same tile with halo and padding are held once; so the plan foresees it."""
    net = nn.Sequential(
        *(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(4)),
        Residual(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv()),
        nn.MaxPool2d(2),
        conv(),
    ).double()
    x = noise(2, 4, 96, 80)
    output = net(x)
    untiled = held_bytes([output.grad_fn], [*net.parameters(), *net.buffers()])
    plan, held = held_in_world(net, x, [grid(*tiles)])
    for rank, (found, _, _) in enumerate(held):
        assert found <= 1.12 * untiled / len(held)
        assert found == pytest.approx(TrainingMemory(plan, rank).saved, rel=0.03)


def test_a_weight_that_a_call_reads_twice_has_the_sum_of_both_gradients():
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.factor = conv(), nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x):
            return torch.addcmul(self.conv(x), self.factor, self.factor)

    check(Squared().double(), noise(1, 4, 9, 8), [grid(1, 2)])
