"""Training steps: losses, parameters and running statistics follow those of the untiled network."""

import copy
import itertools

import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import chains, conv
from random_plans import RANDOM_NETWORKS
from running import planned_for_training as planned
from tiled import noise
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

from spnb import models
from spnb.errors import CaptureError, PlanError, RankError
from spnb.ir.axes import Axes
from spnb.ir.region import Region, Tiling
from spnb.ir.schedule import SCHEDULES, Turn, all_forward_first, one_forward_one_backward
from spnb.ir.schedule import clock as training_clock
from spnb.ir.weights import tensors_of
from spnb.rules import rule_of
from spnb.rules.dropout import dropout_mask
from spnb.rules.dropout import noise as noise_of
from spnb.training.loss_scale import LossScale
from spnb.training.losses import LOSSES
from spnb.training.step import TrainingWorker
from spnb.training.tape import Tape
from spnb.transport.local import World


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
        names = {
            name for image in rank_plan.with_mirror for name in graph.made_of(image.weights)[0]
        }
        weights = tensors_of(net, names, graph)
        trained = {n for n, p in net.named_parameters() if p.requires_grad}
        worker = TrainingWorker(
            rank_plan, weights, trained, transport, LOSSES[loss], schedule, recompute
        )
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
    copies = {n: options.pop(n) for n in ("replicas", "times", "overlapped") if n in options}
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
            scale = float(wanted[name].detach().abs().max())
            assert error <= tolerance * max(scale, 1e-3), f"rank {rank}, {name}: {error:.1e}"
    known = {name for worker in learners for name in worker.weights}
    assert known >= set(dict(net.named_parameters()))
    return plan, told


def grid(*tiles):
    return Tiling.even((1, *tiles))


SQUARE, WHOLE = grid(2, 2), grid(1, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("parts", "fused"), [(1, 0), (3, 0), (2, 100)])
def test_dense_networks_follow_the_untiled_one(schedule, parts, fused, recompute):
    net = nn.Sequential(
        conv(3, 4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        conv(),
        nn.BatchNorm2d(4, momentum=0.3),
        conv(4, 2),
    ).double()
    x, target = noise(3, 3, 17, 14), noise(3, 2, 17, 14)
    options = {"schedule": schedule, "recompute": recompute}
    check(net, x, target, [SQUARE, grid(1, 3), WHOLE], parts, fused, **options)


def test_classes_of_images_and_of_pixels():
    pooled = nn.Sequential(
        conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    labels = torch.tensor([0, 3, 4, 1])
    check(pooled.double(), noise(4, 3, 9, 13), labels, [SQUARE, WHOLE], 2, loss="cross_entropy")
    pixels = torch.randint(0, 4, (2, 9, 13), generator=torch.Generator().manual_seed(0))
    check(conv(3, 4).double(), noise(2, 3, 9, 13), pixels, [SQUARE], loss="cross_entropy")


def test_a_batch_shared_by_ranks_of_the_last_stage():
    net = nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4)
    ).double()
    tilings = [SQUARE, Tiling.even((2, 1, 1))]
    check(net, noise(4, 3, 9, 8), noise(4, 4, 9, 8), tilings, loss="l1")
    check(net, noise(7, 3, 9, 8), noise(7, 4, 9, 8), tilings, parts=3)
    check(net, noise(3, 3, 9, 8), noise(3, 4, 9, 8), [WHOLE, Tiling.even((3, 1, 1))])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("parts", "copies"),
    [
        (1, {"replicas": 2}),
        (2, {"replicas": 2, "overlapped": False}),
        (1, {"times": 1}),
        (2, {"times": 1, "overlapped": False}),
        (1, {"times": 2}),
        (2, {"replicas": 2, "times": 1}),
    ],
    ids=str,
)
def test_copies_follow_the_untiled_run_with_the_same_micro_batches(schedule, parts, copies):
    net = nn.Sequential(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4, momentum=0.3), conv()
    ).double()
    x, target = noise(9, 3, 9, 8), noise(9, 4, 9, 8)
    stages = [SQUARE, Tiling.even((1, 1, 2)), WHOLE]
    plan, _ = check(net, x, target, stages, parts, schedule=schedule, **copies)
    assert plan.num_ranks == 7 * copies.get("replicas", 1)
    count = parts * copies.get("replicas", 1) * 2 * copies.get("times", 0.5)
    assert len(plan.micro_batch_sizes) == count


def test_a_mirrored_batch_shared_by_ranks_of_the_last_stage():
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.BatchNorm2d(4))
    tilings = [SQUARE, Tiling.even((2, 1, 1))]
    x, target = noise(8, 3, 9, 8), noise(8, 4, 9, 8)
    check(net.double(), x, target, tilings, times=1, replicas=2)


def test_sums_begin_while_others_compute_where_that_is_asked_for():
    net = nn.Sequential(conv(3, 4), conv(), conv(), conv(4, 2)).double()
    x, target = noise(4, 3, 8, 8), noise(4, 2, 8, 8)
    for copies, overlapped in (
        ({"replicas": 2}, True),
        ({"times": 1}, True),
        ({"times": 1, "overlapped": False}, False),
    ):
        _, told = check(net, x, target, [SQUARE, WHOLE], **copies)
        assert all((step.overlapped_sums > 0) == overlapped for step in told), copies


def test_mirrored_pipelines_are_held_one_at_a_time():
    net = nn.Sequential(conv(3, 4), conv(), conv(), conv(4, 2)).double()
    x, target = noise(8, 3, 8, 8), noise(8, 2, 8, 8)
    _, told = check(net, x, target, [WHOLE] * 3, 2, times=2, balance=[1, 1, 2])
    assert [step.most_held for step in told] == [2, 2, 2]


@pytest.mark.long
@settings(RANDOM_NETWORKS, max_examples=40)
@given(data=st.data())
def test_random_networks_in_copies(data):
    dtype = data.draw(st.sampled_from([torch.float64, torch.float64, torch.float32]))
    net = data.draw(chains(2)).body.to(dtype)  # its dense output: training takes one
    assume(any(p.requires_grad for p in net.parameters()))
    size = [data.draw(st.integers(8, 20)) for _ in range(2)]
    parts, replicas = data.draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
    times = data.draw(st.sampled_from([0, 1, 1, 2]))
    local = data.draw(st.sampled_from([1, 2]))
    grids = [data.draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (1, 3)]))]
    tilings = [*(grid(*each) for each in grids), Tiling.even((local, 1, 1))]
    images = parts * replicas * (2 * times or 1) * local + data.draw(st.integers(0, 1))
    x = noise(images, 2, *size).to(dtype)
    # of the gradients' scale a tenth of that may differ
    options = {"tolerance": 1e-9 if dtype == torch.float64 else 1e-3}
    options |= {"steps": 1, "schedule": data.draw(st.sampled_from(sorted(SCHEDULES)))}
    options["recompute"] = data.draw(st.booleans())
    fused = data.draw(st.sampled_from([0, 0, 1, 100]))
    try:
        output = copy.deepcopy(net).train()(x)
    except RuntimeError as unfit:  # an image smaller than a kernel, say
        note(str(unfit))
        assume(False)
    try:
        target = noise(*output.shape).to(dtype)
        check(net, x, target, tilings, parts, fused, replicas=replicas, times=times, **options)
    except (PlanError, CaptureError) as refusal:
        note(str(refusal))
        assume(False)


class Tied(nn.Module):
    """Convolutions at the beginning and at the end that have one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.between, self.last = conv(3, 3), conv(3, 3), conv(3, 3)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.between(self.first(x)).relu())


def test_a_weight_of_several_stages_is_one_weight():
    net = Tied().double()
    x = noise(2, 3, 9, 8)
    plan, _ = check(net, x, noise(2, 3, 9, 8), [SQUARE, WHOLE, WHOLE], balance=[1, 1, 1])
    (shared,) = [each for each in plan.rank_plan(0).shared if "first.weight" in each.names]
    assert list(shared.ranks) == [0, 1, 2, 3, 5]


class Woven(nn.Module):
    """Four convolutions, of which each pair of stages shares one weight."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(conv(3, 3) for _ in range(6))
        for one, other in ((0, 3), (1, 4), (2, 5)):  # of stages 0 and 1, 0 and 2, 1 and 2
            self.layers[other].weight = self.layers[one].weight

    def forward(self, x):
        for number in (0, 1, 2, 3, 5, 4):
            x = x + self.layers[number](x).tanh()
        return x


def test_sums_over_pairs_of_stages_do_not_wait_for_each_other():
    x, target = noise(1, 3, 9, 8), noise(1, 3, 9, 8)
    plan, _ = check(Woven().double(), x, target, [SQUARE, grid(1, 2), WHOLE], balance=[2, 2, 2])
    groups = {shared.names for rank in (0, 4, 6) for shared in plan.rank_plan(rank).shared}
    assert {(f"layers.{k}.weight",) for k in range(3)} <= groups


def test_a_rank_that_fails_is_named_and_the_others_hear_of_it():
    plan = planned(nn.Sequential(conv(3, 4), conv(4, 2)).double(), (1, 3, 9, 8), [SQUARE, WHOLE])

    def read(value, region):
        raise FileNotFoundError("the image is gone")

    def work(transport):
        rank_plan = plan.rank_plan(transport.rank)
        weights = {
            n: torch.zeros(w.shape).double()
            for node in rank_plan.nodes
            for w in node.weights
            for n in [w.name]
        }
        TrainingWorker(rank_plan, weights, weights, transport, LOSSES["mse"]).step(read, read)

    with pytest.raises(
        RankError, match=r"rank \d, stage 0, .*: FileNotFoundError: the image is gone"
    ):
        World(plan.num_ranks, deadline=60).run(work)


def test_what_is_made_of_parameters_is_made_anew_in_each_step():
    net = nn.Sequential(parametrizations.weight_norm(conv(3, 4)), nn.ReLU(), conv(4, 2)).double()
    check(net, noise(2, 3, 9, 8), noise(2, 2, 9, 8), [SQUARE, WHOLE])


class Dropped(nn.Module):
    """Dropout by positions in the whole batch: what the untiled network does with one mask."""

    def __init__(self, dropout):
        super().__init__()
        self.first, self.dropout, self.last = conv(3, 4), dropout, conv(4, 2)
        self.mask = None

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(self.dropout(x) if self.mask is None else x * self.mask)


@pytest.mark.parametrize("dropout", [nn.Dropout(0.3), nn.Dropout2d(0.5)], ids=str)
@pytest.mark.parametrize("parts", [1, 2])
def test_dropout_drops_the_same_on_all_grids(dropout, parts):
    net = Dropped(dropout).double()
    x, target = noise(4, 3, 9, 14), noise(4, 2, 9, 14)
    seeds = []
    for tilings in [[WHOLE, WHOLE], [SQUARE, WHOLE], [grid(1, 3), Tiling.even((2, 1, 1))]]:
        for fused, recompute in ((0, False), (100, False), (0, True)):
            plan = planned(net, tuple(x.shape), tilings, parts, fused)
            losses, _, _ = train(plan, net, x, target, steps=2, recompute=recompute)
            seeds.append(losses)
    for losses in seeds:
        assert losses == pytest.approx(seeds[0], rel=1e-12)
    if parts == 1:  # plain PyTorch with that mask has that loss, and that gradient
        (node,) = [node for node in plan.graph.nodes if "dropout" in node.kind]
        features = isinstance(dropout, nn.Dropout2d)
        with noise_of(0, 0, 4):
            ones = dropout_mask(
                node.name, dropout.p, node.axes, Region.whole(node.axes.extent), features
            )
        net.mask = ones.double() / (1 - dropout.p)
        assert seeds[0] == pytest.approx(untiled_losses(net, x, target, 2), rel=1e-12)


def untiled_losses(net, x, target, steps):
    """Of plain PyTorch, as `train` has its optimizer."""
    net, losses = copy.deepcopy(net), []
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), target)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses


def test_what_is_dropped_is_as_much_as_was_asked_and_differs():
    axes = Axes.image((8, 16, 32, 32))
    whole = Region.whole(axes.extent)
    masks = {}
    for seed, layer in itertools.product((0, 1), ("a", "b")):
        with noise_of(seed, 0, 8):
            masks[seed, layer] = dropout_mask(layer, 0.25, axes, whole, features=False)
            features = dropout_mask(layer, 0.25, axes, whole, features=True)
        assert masks[seed, layer].double().mean() == pytest.approx(0.75, abs=0.01)
        assert bool((features == features[:, :, :1, :1]).all())
        assert 0.6 < features.double().mean() < 0.9
        for dim in range(4):  # neighbours along each dimension know nothing of each other
            a, b = (
                masks[seed, layer].double().narrow(dim, 0, 7),
                masks[seed, layer].double().narrow(dim, 1, 7),
            )
            assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.02
    for (a, x), (b, y) in itertools.combinations(masks.items(), 2):
        assert a != b and (x == y).double().mean() == pytest.approx(0.625, abs=0.01)


def test_frozen_parameters_stay():
    net = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2)).double()
    net[0].requires_grad_(False)  # all that the first stage has
    check(net, noise(2, 3, 9, 8), noise(2, 2, 9, 8), [SQUARE, WHOLE])


@pytest.mark.long
def test_twenty_steps_of_a_resnet():
    net = models.build("resnet20_v1", num_classes=10, num_layers=0, num_filters=0).double()
    x, labels = noise(4, 3, 32, 32), torch.tensor([1, 7, 7, 0])
    options = {"loss": "cross_entropy", "steps": 20, "rate": 0.02}
    check(net, x, labels, [SQUARE, WHOLE], 2, **options)


@pytest.mark.long
def test_twenty_steps_of_an_amoebanet_on_nine_ranks():
    net = models.build("amoebanet", num_classes=10, num_layers=3, num_filters=16).double()
    x, labels = noise(4, 3, 64, 64), torch.tensor([1, 7, 7, 0])
    # Norms over as few values as the last cells have make much of a last bit, step by step.
    options = {"loss": "cross_entropy", "steps": 20, "rate": 0.002, "tolerance": 1e-6}
    plan, _ = check(net, x, labels, [SQUARE, SQUARE, WHOLE], **options)
    assert plan.num_ranks == 9


def test_one_forward_one_backward_holds_less():
    net = nn.Sequential(conv(3, 4), conv(), conv(), conv(4, 2)).double()
    x, target = noise(6, 3, 8, 8), noise(6, 2, 8, 8)
    stages = [WHOLE, WHOLE, WHOLE]
    _, told = check(net, x, target, stages, 6, schedule="1f1b", balance=[1, 1, 2])
    assert [step.most_held for step in told] == [3, 2, 1]
    _, told = check(net, x, target, stages, 6, schedule="gpipe", balance=[1, 1, 2])
    assert [step.most_held for step in told] == [6, 6, 6]


def test_recomputing_holds_what_arrived_and_no_more():
    net = nn.Sequential(*(conv() for _ in range(4)), nn.ReLU()).double()
    x = noise(1, 4, 16, 16)
    plan = planned(net, tuple(x.shape), [grid(1, 2)])

    def bytes_held(transport, recompute):
        rank_plan = plan.rank_plan(transport.rank)
        weights = tensors_of(net, rank_plan.weights, plan.graph)
        (program,) = rank_plan.programs[1]
        rules = [rule_of(node) for node in rank_plan.nodes]
        tape = Tape(rank_plan, rules, program, weights, transport, 0, recompute)
        whole = Region.whole(plan.graph.extent(*plan.graph.inputs))
        tape.forward(lambda value, region: plan.graph.axes[value].piece(x, whole, region))
        transport.flush()
        kept = [t for call in tape._calls.values() for each in call.inputs for t in each]
        kept += [t for each in tape._arrived.values() for t in each]
        return sum(t.numel() for t in kept)

    held, again = (
        World(2, deadline=30).run(lambda t, r=r: bytes_held(t, r))[0] for r in (False, True)
    )
    tile, row = 4 * 16 * 8, 4 * 16
    assert again == tile + 4 * row  # the tile of the image with its halo, and three halos
    assert held >= 5 * tile


def half_steps(dtype, tilings, scaling=None, steps=5, **copies):
    """Losses of some steps in half precision, what the ranks told, and the ranks."""
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.ReLU(), conv(4, 2))
    x, target = noise(4, 3, 12, 10).float(), noise(4, 2, 12, 10).float()
    parts = 2 if not copies else 1
    plan = planned(net, tuple(x.shape), tilings, parts, dtype=dtype, **copies)

    def work(transport):
        rank_plan, graph = plan.rank_plan(transport.rank), plan.graph
        names = {n for image in rank_plan.with_mirror for n in graph.made_of(image.weights)[0]}
        trained = dict(net.named_parameters())
        facts = (tensors_of(net, names, graph), trained, transport, LOSSES["mse"])
        worker = TrainingWorker(rank_plan, *facts)
        worker.loss_scale = scaling or worker.loss_scale
        optimizer = torch.optim.SGD(list(worker.parameters.values()), 0.05)
        told = []
        for _ in range(steps):
            read = lambda value, region: x[region.slices_in(Region.whole((4, 12, 10)))[0]][  # noqa: E731
                :, :, slice(*region.spans[1]), slice(*region.spans[2])
            ].to(dtype)
            wanted = lambda value, region: target[slice(*region.spans[0])][  # noqa: E731
                :, :, slice(*region.spans[1]), slice(*region.spans[2])
            ]
            told.append(worker.step(read, wanted))
            if told[-1].finite:
                optimizer.step()
        return told, worker

    found = World(plan.num_ranks, deadline=60).run(work)
    losses = [sum(step.loss for step in each) for each in zip(*(told for told, _ in found))]
    return losses, [told for told, _ in found], [worker for _, worker in found]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_full_with_parameters_in_full(dtype):
    full, _, _ = half_steps(torch.float32, [WHOLE, WHOLE])
    assert full[-1] < full[0]
    for tilings, copies in (
        ([WHOLE, WHOLE], {}),
        ([SQUARE, WHOLE], {}),
        ([SQUARE, WHOLE], {"times": 1}),
    ):
        losses, _, learners = half_steps(dtype, tilings, **copies)
        assert losses == pytest.approx(full, rel=2e-2)
        assert losses != full
        every = [w for worker in learners for w in worker.parameters.values()]
        assert {w.dtype for w in every} == {torch.float32}
        assert all(w.grad.dtype == torch.float32 and w.grad.isfinite().all() for w in every)


def test_a_step_with_an_infinite_gradient_is_left_out_on_all_ranks():
    start = LossScale(2.0**40)
    losses, told, learners = half_steps(torch.float16, [SQUARE, WHOLE], scaling=start, steps=30)
    finite = [step.finite for step in told[0]]
    left_out = finite.index(True)
    assert 10 < left_out < 29 and all(finite[left_out:])
    assert all([step.finite for step in each] == finite for each in told)
    assert losses[:left_out] == pytest.approx([losses[0]] * left_out, rel=1e-3)  # nothing moved
    assert losses[-1] < losses[0]
    assert {worker.loss_scale for worker in learners} == {
        LossScale(2.0 ** (40 - left_out), 30 - left_out)
    }


def test_the_scale_of_a_loss_grows_again():
    scaling = LossScale(8.0, LossScale.patience - 2)
    assert scaling.after(True).after(True) == LossScale(16.0)
    assert LossScale(8.0, 3).after(False) == LossScale(4.0)


def clock(order, stages, rows):
    """The clock table of an order of passes, as its docstring draws it: one unit for each pass."""
    ticks = training_clock(order, stages, [[Turn(*turn) for turn in turns] for turns in rows])
    cells = ([tick.get(row, ("", "")) for tick in ticks] for row in range(len(rows)))
    return [[f"{'B' * (kind == 'backward')}{number}" for kind, number in row] for row in cells]


def test_clock_tables_are_those_of_the_docstrings():
    stages = [[(0, stage, [0, 1, 2])] for stage in range(2)]
    assert clock(all_forward_first, 2, stages) == [
        ["0", "1", "2", "", "", "B2", "B1", "B0"],
        ["", "0", "1", "2", "B2", "B1", "B0", ""],
    ]
    assert clock(one_forward_one_backward, 2, stages) == [
        ["0", "1", "", "B0", "2", "B1", "", "B2"],
        ["", "0", "B0", "1", "B1", "2", "B2", ""],
    ]
    mirrored = [[(0, 0, [0, 1]), (1, 1, [2, 3])], [(0, 1, [0, 1]), (1, 0, [2, 3])]]
    assert clock(one_forward_one_backward, 2, mirrored) == [
        ["0", "1", "", "B0", "", "B1", "2", "B2", "3", "B3", ""],
        ["", "0", "B0", "1", "B1", "2", "3", "", "B2", "", "B3"],
    ]


def test_tiles_of_a_mirrored_plan_wait_for_each_other_only():
    # Four tiles and a whole: ranks 1 to 3 are tiles of both pipelines.
    rows = [
        [(0, 0, [0]), (1, 1, [1])],
        *([(0, 0, [0]), (1, 0, [1])] for _ in range(3)),
        [(0, 1, [0]), (1, 0, [1])],
    ]
    assert clock(one_forward_one_backward, 2, rows) == [
        ["0", "", "", "B0", "", "1", "B1", ""],
        *([["0", "", "", "B0", "1", "", "", "B1"]] * 3),
        ["", "0", "B0", "", "1", "", "", "B1"],
    ]
