"""A program of the user's own over ranks follows the same program in plain PyTorch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Residual, chains, conv
from random_plans import RANDOM_NETWORKS
from tiled import noise
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import spnb
from spnb.driver.parallel import num_ranks_of
from spnb.errors import CaptureError, OptionError, PlanError, RankError
from spnb.transport.local import World

SPLITS = {
    "2x2": {"num_spatial_parts": 4, "split_size": 1},
    "1x3": {"num_spatial_parts": 3, "split_size": 1, "slice_method": "vertical"},
    "stages": {"num_spatial_parts": 4, "split_size": 2},
    "fused": {"num_spatial_parts": 4, "split_size": 1, "halo_D2": True, "fused_layers": "all"},
    "parts": {"num_spatial_parts": 2, "split_size": 2, "parts": 2},
    "batch": {"num_spatial_parts": 2, "split_size": 2, "local_DP": 2, "spatial_size": 1},
    "replicas": {"num_spatial_parts": 2, "split_size": 1, "replicas": 2},
    "recomputed": {"num_spatial_parts": 2, "split_size": 2, "recompute": True},
}
X, MASK = noise(4, 3, 17, 23), torch.randint(-1, 5, (4, 9, 12))


def job_of(net, x=X, **split):
    size = tuple(x.shape[2:]) if x.ndim > 3 else x.shape[2]
    return spnb.Job(net, image_size=size, batch_size=len(x), precision="fp64", **split)


def on_ranks(job, program):
    return World(num_ranks_of(job), deadline=60).run(program)


def segmenter():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU()),
        Residual(conv(8, 8), nn.BatchNorm2d(8), nn.Tanh()),
        conv(8, 5),
    ).double()


def micro_batches(net, x, count):
    """The output of a network that sees one micro-batch after another."""
    return torch.cat([net(part) for part in x.chunk(count)])


def whole_of(pieces, whole):
    """A whole tensor of the regions of all ranks."""
    found = torch.full_like(whole, torch.nan)
    for regions, local in pieces:
        for region, piece in zip(regions, local.split([r.shape[0] for r in regions]), strict=True):
            batch, *space = (slice(*span) for span in region.spans)
            found[(batch, slice(None), *space)] = piece
    return found


def program(net, x, mask, mean, clip, gather=lambda y: y, whole_mask=None, steps=20):
    """Twenty steps: class weights and ignored positions, momentum, clipping, a scheduler."""
    weight = torch.tensor([0.2, 1.0, 1.0, 0.5, 2.0]).double()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, 0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    figures = []
    for step in range(steps):
        optimizer.zero_grad()
        y = net(x)
        if step % 2:
            loss = F.cross_entropy(gather(y), whole_mask, weight, ignore_index=-1)
        else:
            each = F.cross_entropy(y, mask, weight, ignore_index=-1, reduction="none")
            loss = mean(each) / mean(weight[mask.clamp(0)] * (mask >= 0))
        loss.backward()
        norm = clip(net, 0.5)
        optimizer.step()
        schedule.step()
        figures.append((float(loss.detach()), float(norm)))
    return figures


@pytest.mark.slow(but_each=3)
@pytest.mark.long
@pytest.mark.parametrize("name", SPLITS)
def test_twenty_steps_follow_plain_pytorch(name):
    net, split = segmenter(), SPLITS[name]
    job, reference = job_of(net, **split), copy.deepcopy(net)
    parts = split.get("parts", 1) * split.get("replicas", 1)
    x = X.clone().requires_grad_()

    def untiled(x):
        return micro_batches(reference, x, parts)

    untiled.parameters = reference.parameters
    wanted = program(
        untiled,
        x,
        MASK,
        torch.mean,
        lambda net, most: nn.utils.clip_grad_norm_(net.parameters(), most),
        whole_mask=MASK,
    )
    reference.eval()

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        tile = own.scatter(X).requires_grad_()
        mask = own.scatter_target(MASK)
        found = program(
            own, tile, mask, own.mean, type(own).clip_grad_norm_, own.gather, whole_mask=MASK
        )
        weights = {n: w.clone() for n, w in own.state_dict().items()}
        own.eval()
        with torch.no_grad():
            output = own.gather(own(own.scatter(X)))
        return found, weights, output, (own.regions, tile.grad)

    results = on_ranks(job, work)
    for found, weights, output, _ in results:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-9, atol=0)
        torch.testing.assert_close(weights, dict(reference.state_dict()), rtol=0, atol=1e-10)
        torch.testing.assert_close(output, reference(X), rtol=0, atol=1e-9)
    gradient = whole_of([each[3] for each in results if each[3][0]], X)
    torch.testing.assert_close(gradient, x.grad, rtol=0, atol=1e-10)


@pytest.mark.long
@settings(RANDOM_NETWORKS, max_examples=20)
@given(st.data())
def test_random_networks(data):
    axes = data.draw(st.integers(1, 3))
    size = data.draw(st.lists(st.integers(7, 13), min_size=axes, max_size=axes))
    x = noise(2, 2, *size)
    net = data.draw(chains(axes, 2)).double()
    count = data.draw(st.sampled_from([2, 3, 4]))
    method = data.draw(st.sampled_from(["square", "vertical", "horizontal"]))
    method = "vertical" if axes == 1 else method
    split = {"split_size": data.draw(st.integers(1, 2)), "slice_method": method}
    try:
        shapes = {"input_shapes": (tuple(x.shape),), "precision": "fp64"}
        job = spnb.Job(net, num_spatial_parts=count, **shapes, **split)
        spnb.plan(job, training=True)
    except (CaptureError, OptionError, PlanError):
        return
    given_x = x.clone().requires_grad_()
    reference = copy.deepcopy(net)
    outputs = pytree.tree_leaves(reference(given_x))
    factors = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) for y in outputs]
    sum((y * factor).sum() for y, factor in zip(outputs, factors, strict=True)).backward()

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        tile = own.scatter(x).requires_grad_()
        ys = list(enumerate(pytree.tree_leaves(own(tile))))
        sum(own.sum(y * own.scatter_target(factors[k], k)) for k, y in ys).backward()
        gradients = {n: p.grad for n, p in own.named_parameters() if p.grad is not None}
        return [own.gather(y, k) for k, y in ys], (own.regions, tile.grad), gradients

    results = on_ranks(job, work)
    for ys, _, gradients in results:
        torch.testing.assert_close(ys, outputs)
        for name, gradient in gradients.items():
            wanted = reference.get_parameter(name).grad
            torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-9)
    found = whole_of([piece for _, piece, _ in results if piece[0]], x)
    torch.testing.assert_close(found, given_x.grad, rtol=1e-9, atol=1e-9)


def test_two_networks_against_each_other():
    """A GAN: each step runs both networks several times, and goes back through one or both."""
    torch.manual_seed(0)
    maker = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 1)).double()
    judge = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.LeakyReLU(), conv(4, 1)).double()
    real = noise(4, 1, 17, 23)

    def play(maker, judge, x, real, mean):
        of_maker = torch.optim.Adam(maker.parameters(), 1e-2)
        of_judge = torch.optim.Adam(judge.parameters(), 1e-2)
        losses = []
        for _ in range(3):
            of_judge.zero_grad()
            fake = maker(x)
            loss = mean(F.softplus(-judge(real))) + mean(F.softplus(judge(fake.detach())))
            loss.backward()
            of_judge.step()
            of_maker.zero_grad()
            judge.requires_grad_(False)
            deceived = mean(F.softplus(-judge(fake)))
            deceived.backward()
            judge.requires_grad_(True)
            of_maker.step()
            losses += [loss.item(), deceived.item()]
        return losses

    def work(transport):
        split = SPLITS["2x2"]
        own = spnb.parallel(copy.deepcopy(maker), job_of(maker, **split), transport)
        other = spnb.parallel(copy.deepcopy(judge), job_of(judge, real, **split), transport)
        return play(own, other, own.scatter(X), other.scatter(real), own.mean)

    for found in World(4, deadline=60).run(work):
        assert found == pytest.approx(
            play(*map(copy.deepcopy, (maker, judge)), X, real, torch.mean)
        )


class TwoOfEach(nn.Module):
    """Two inputs, and a mapping of a dense output and one for each image."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = conv(3, 4), conv(1, 4), nn.Linear(4, 3)

    def forward(self, image, mask):
        hidden = F.relu(self.first(image) + self.second(mask))
        return {"map": hidden * mask, "classes": self.last(hidden.mean((2, 3)))}


@pytest.mark.parametrize("split", ["2x2", "stages"])
def test_several_inputs_and_outputs_and_sums_of_gradients(split):
    torch.manual_seed(0)
    net, mask = TwoOfEach().double(), noise(4, 1, 17, 23)
    reference = copy.deepcopy(net)
    for _ in range(2):  # gradients add up until they are set to zero
        found = reference(X, mask)
        (found["map"].square().mean() + found["classes"].sum()).backward()
    shapes = (tuple(X.shape), tuple(mask.shape))
    job = spnb.Job(net, input_shapes=shapes, precision="fp64", **SPLITS[split])

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        for _ in range(2):
            found = own(own.scatter(X), mask=own.scatter(mask, 1))
            (own.mean(found["map"] ** 2) + own.gather(found["classes"], 1).sum()).backward()
        return {name: p.grad for name, p in own.named_parameters()}

    for gradients in on_ranks(job, work):
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, reference.get_parameter(name).grad)


def test_autocast_around_the_call():
    """The casts are PyTorch's own, batch norm in training included."""
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4))
    x, reference = X.float(), copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = reference(x)
    wanted.float().square().mean().backward()
    job = spnb.Job(net, image_size=(17, 23), batch_size=4, **SPLITS["stages"])

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        with torch.autocast("cpu", torch.bfloat16):
            y = own(own.scatter(x))
            loss = own.mean(y.float() ** 2)
        loss.backward()
        gradients = {name: p.grad for name, p in own.named_parameters()}
        return own.gather(y), gradients, own.state_dict()["1.num_batches_tracked"]

    for y, gradients, count in on_ranks(job, work):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y, wanted, rtol=1e-2, atol=1e-2)
        for name, gradient in gradients.items():
            wanted_gradient = reference.get_parameter(name).grad
            error = (gradient - wanted_gradient).abs().max()
            assert error <= 0.02 * wanted_gradient.abs().max().clamp(min=0.05), name
        assert count == 1


def test_dropout_is_the_same_for_every_split():
    net = nn.Sequential(conv(3, 4), nn.Dropout(0.5), conv(4, 2)).double()

    def output(split):
        def work(transport):
            own = spnb.parallel(copy.deepcopy(net), job, transport)
            return [own.gather(own(own.scatter(X))) for _ in range(2)]

        job = job_of(net, seed=3, **SPLITS[split])
        return on_ranks(job, work)[0]

    first, second = output("2x2")
    assert not torch.equal(first, second)
    for found, wanted in zip(output("1x3"), (first, second), strict=True):
        torch.testing.assert_close(found, wanted)


def test_weights_begin_with_those_of_rank_0_and_are_loaded_by_name():
    net = segmenter()
    job = job_of(net, **SPLITS["stages"])
    saved = {name: torch.ones_like(w) for name, w in net.state_dict().items()}

    def work(transport):
        module = copy.deepcopy(net)
        if transport.rank:
            nn.init.zeros_(module[3].weight)
        own = spnb.parallel(module, job, transport)
        begun = {name: w.clone() for name, w in own.state_dict().items()}
        own.load_state_dict(saved)
        return begun, own.state_dict(), list(dict(own.named_parameters()))

    for begun, loaded, names in on_ranks(job, work):
        torch.testing.assert_close(begun, dict(net.state_dict()))
        torch.testing.assert_close(dict(loaded), saved)
        assert set(names) < set(saved)  # those of the stage alone, by the module's names


def test_a_stage_without_parameters_and_frozen_ones():
    """Every rank takes part in the backward pass, whatever it trains."""
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())).double()
    x = X.clone().requires_grad_()
    net(x).square().sum().backward()
    job = job_of(net, num_spatial_parts=2, split_size=2, balance=(1, 1))

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        torch.optim.Adam(own.parameters()).step()
        own.requires_grad_(False)
        tile = own.scatter(X).requires_grad_()
        own.sum(own(tile) ** 2).backward()
        return [own.regions, tile.grad], [p.grad for p in own.parameters()]

    results = on_ranks(job, work)
    assert all(gradient is None for _, gradients in results for gradient in gradients)
    found = whole_of([piece for piece, _ in results if piece[0]], X)
    torch.testing.assert_close(found, x.grad)


@pytest.mark.long
@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaler_skips_the_step_of_all_stages(unscaled):
    """A gradient of the first stage is infinite once; the last stage has no parameters."""
    net = nn.Sequential(segmenter(), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Tanh()))
    split = SPLITS["stages"] | {"balance": (4, 1)}
    job, reference = job_of(net, **split), copy.deepcopy(net)

    def program(net, x, mean, scaler):
        optimizer = torch.optim.SGD(net.parameters(), 0.5, 0.9)
        figures = []
        for step in range(4):
            optimizer.zero_grad()
            loss = mean((net(x) - 0.5) ** 2)
            scaler.scale(loss).backward()
            first = [p for name, p in net.named_parameters() if name == "0.0.0.weight"]
            for parameter in first if step == 1 else ():
                parameter.grad[0, 0, 0, 0] = torch.inf
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            figures.append((loss.item(), scaler.get_scale()))
        return figures

    wanted = program(reference, X, torch.mean, torch.amp.GradScaler("cpu", init_scale=8.0))
    assert [scale for _, scale in wanted] == [8.0, 4.0, 4.0, 4.0]
    assert wanted[1][0] == wanted[2][0] != wanted[3][0]

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        found = program(own, own.scatter(X), own.mean, own.grad_scaler(init_scale=8.0))
        return found, own.state_dict()

    for found, weights in on_ranks(job, work):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-9, atol=0)
        torch.testing.assert_close(dict(weights), dict(reference.state_dict()), rtol=0, atol=1e-10)


@pytest.mark.long
def test_networks_of_one_module_share_its_weights():
    """Trained at one size, run at another; other stages would have outdated weights."""
    net, larger = segmenter(), noise(4, 3, 30, 25)
    reference = copy.deepcopy(net)
    optimizer = torch.optim.SGD(reference.parameters(), 0.1)
    reference(X).square().mean().backward()
    optimizer.step()
    wanted = reference.eval()(larger)
    split = SPLITS["stages"] | {"balance": (2, 2)}
    job, job_of_larger = job_of(net, **split), job_of(net, larger, **split)

    def work(transport):
        module = copy.deepcopy(net)
        own = spnb.parallel(module, job, transport)
        optimizer = torch.optim.SGD(own.parameters(), 0.1)
        own.mean(own(own.scatter(X)) ** 2).backward()
        optimizer.step()
        other = spnb.parallel(module, job_of_larger, transport).eval()
        with pytest.raises(PlanError, match="would be on ranks"):
            spnb.parallel(module, job.replace(balance=(1, 3)), transport)
        with torch.no_grad():
            return other.gather(other(other.scatter(larger)))

    for found in on_ranks(job, work):
        torch.testing.assert_close(found, wanted)


@pytest.mark.long
@pytest.mark.parametrize("split", ["2x2", "stages"])
def test_a_second_backward_needs_retain_graph_and_weights_as_they_were(split):
    net = nn.Sequential(segmenter(), nn.Dropout2d(0.3)).double()
    job = job_of(net, seed=3, **SPLITS[split])

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        norm = next(each for name, each in own.state_dict().items() if "running_var" in name)
        y = own(own.scatter(X))
        moved = norm.clone()
        own.mean(y**2).backward(retain_graph=True)
        own.mean(y.abs()).backward(retain_graph=True)
        assert torch.equal(norm, moved)  # running statistics move once
        found = {name: p.grad for name, p in own.named_parameters()}
        own.zero_grad()
        own._passes = 0  # the same dropout once more
        y = own(own.scatter(X))
        (own.mean(y**2) + own.mean(y.abs())).backward()
        wanted = {name: p.grad.clone() for name, p in own.named_parameters()}
        with pytest.raises(RuntimeError, match="a second time"):
            own.mean(y).backward()
        y = own(own.scatter(X))
        own.mean(y).backward(retain_graph=True)
        torch.optim.SGD(own.parameters(), 0.1).step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            own.mean(y).backward()
        loss = own.mean(own(own.scatter(X)))
        torch.optim.SGD(own.parameters(), 0.1).step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()  # also the first time
        return found, wanted

    for found, wanted in on_ranks(job, work):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def refusal(net, program, kind, **options):
    job = job_of(net, **options)
    with pytest.raises(kind) as refused:
        on_ranks(job, lambda transport: program(spnb.parallel(copy.deepcopy(net), job, transport)))
    return str(refused.value)


@pytest.mark.long
def test_what_does_not_fit_is_refused():
    split = SPLITS["2x2"]
    text = refusal(segmenter(), lambda own: own(X), ValueError, **split)
    assert "(4, 3, 8, 11)" in text and "(4, 3, 17, 23)" in text and "net.scatter" in text
    text = refusal(segmenter(), lambda own: own.scatter(X[:, :, :16]), ValueError, **split)
    assert "(4, 3, 16, 23)" in text and "(4, 3, 17, 23)" in text
    text = refusal(segmenter(), lambda own: own.scatter_target(MASK[:2]), ValueError, **split)
    assert "(2, 9, 12)" in text and "(4, 5, 9, 12)" in text
    text = refusal(segmenter(), lambda own: own(own.scatter(X).float()), ValueError, **split)
    assert "torch.float64" in text and "torch.float32" in text
    text = refusal(segmenter(), lambda own: own.half(), RankError, **split)
    assert "torch.float16" in text
    text = refusal(segmenter().float(), lambda own: None, OptionError, **split)
    assert "torch.float32" in text and "torch.float64" in text
    for option in ({"learning_rate": 0.1}, {"gems": True}, {"checkpoint": "a.pth"}):
        text = refusal(segmenter(), lambda own: None, OptionError, **split | option)
        assert f"{next(iter(option))} has no effect in a loop of your own" in text


def test_every_rank_gets_the_planner_s_refusal():
    class Sized(nn.Module):
        def forward(self, x):
            return x[x > 0]

    told = []

    def work(transport):
        try:
            spnb.parallel(nn.Sequential(conv(3, 3), Sized()).double(), job, transport)
        except CaptureError as error:
            told.append(str(error))

    job = job_of(nn.Sequential(conv(3, 3), Sized()).double(), **SPLITS["2x2"])
    on_ranks(job, work)
    assert len(told) == 4 and len(set(told)) == 1


def test_fewer_and_more_ranks_than_the_job_needs():
    job = job_of(segmenter(), **SPLITS["2x2"])
    for count, words in ((3, "needs 4 ranks, but this program has 3"), (5, "rank 4 of 5")):
        with pytest.raises(PlanError, match=words):
            World(count, deadline=5).run(lambda t: spnb.parallel(segmenter(), job, t))


def test_modules_that_differ_are_refused():
    job = job_of(segmenter(), **SPLITS["2x2"])

    def work(transport):
        net = segmenter() if transport.rank != 2 else segmenter()[:3]
        return spnb.parallel(net, job, transport)

    with pytest.raises(RankError, match="rank 2 has another network than rank 0"):
        on_ranks(job, work)
