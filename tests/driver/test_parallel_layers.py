"""A network over ranks has the layers of its module: modes, settings, frozen parts, copies."""

import copy
import pickle

import pytest
import torch
from networks import conv
from test_parallel import SPLITS, X, job_of, on_ranks, segmenter, whole_of
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import spnb
from spnb.errors import PlanError, RankError


class Plain(nn.Module):
    """A module of plain PyTorch with the methods of a network over ranks."""

    def __init__(self, module):
        super().__init__()
        self._modules.update(module._modules)
        self.forward, self.sum, self.mean = module.forward, torch.sum, torch.mean

    def scatter(self, image):
        return image


def layers():
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Tanh())
    return nn.Sequential(first, last, conv(8, 5)).double()


def steps(net, optimizer, count=2):
    found = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = net.mean(net(net.scatter(X)) ** 2)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def sgd(net):
    return torch.optim.SGD(net.parameters(), 0.1, 0.9)


def frozen_norms(net):
    """All norms are in evaluation mode in one epoch, and the first part in the other."""
    optimizer, found = sgd(net), []
    for part in (nn.BatchNorm2d, nn.Sequential):
        net.train()
        for layer in net.modules():
            if isinstance(layer, part):
                layer.eval()
        found += steps(net, optimizer)
    net.eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
    with torch.no_grad():
        return [*found, net.mean(net(net.scatter(X)).abs()).item()]


def set_by_kind(net):
    """Weights and settings are set by the kind of a layer."""

    def begin(layer):
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 0.1)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum, layer.eps = 0.3, 0.1

    net.apply(begin)
    found = steps(net, sgd(net))
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.01
    return [*found, *steps(net, sgd(net))]


def thawed(net):
    """The first part is frozen when the network is made parallel, and trained later."""
    optimizer, found = sgd(net), []
    for trained in (False, True, False):
        for name, parameter in net.named_parameters():
            if name.startswith("0."):
                parameter.requires_grad_(trained)
        found += steps(net, optimizer)
    return found


def averaged(net):
    """A moving average of the weights, which is run beside the network."""
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer, found = sgd(net), []
    for _ in range(2):
        found += steps(net, optimizer)
        average.update_parameters(net)
    average.eval()
    with torch.no_grad():
        return [*found, net.mean(average(net.scatter(X)).abs()).item()]


PROGRAMS = {each.__name__: each for each in (frozen_norms, set_by_kind, thawed, averaged)}


@pytest.mark.long
@pytest.mark.parametrize("split", ["2x2", "stages"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_layers_are_those_of_the_module(name, split):
    net = layers()
    if name == "thawed":
        net[0].requires_grad_(False)
    job, program = job_of(net, **SPLITS[split]), PROGRAMS[name]
    reference = copy.deepcopy(net)
    wanted = program(Plain(reference))

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        return program(own), own.state_dict()

    for found, weights in on_ranks(job, work):
        assert found == pytest.approx(wanted, rel=1e-11)
        torch.testing.assert_close(dict(weights), dict(reference.state_dict()), rtol=0, atol=1e-11)


@pytest.mark.long
@pytest.mark.parametrize("split", ["2x2", "stages"])
def test_gradients_of_chosen_tensors(split):
    """``torch.autograd.grad`` and ``backward(inputs=...)`` give what ``backward`` does."""
    net = layers()
    job, x = job_of(net, **SPLITS[split]), X.clone().requires_grad_()
    loss = net(x).square().sum()
    wanted = torch.autograd.grad(loss, [x, *net.parameters()])

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        tile = own.scatter(X).requires_grad_()
        parameters = dict(own.named_parameters())
        loss = own.sum(own(tile) ** 2)
        of_tile, *others = torch.autograd.grad(loss, [tile, *parameters.values()])
        own.sum(own(tile) ** 2).backward(inputs=list(parameters.values()))
        assert tile.grad is None
        torch.testing.assert_close([p.grad for p in parameters.values()], others)
        return (own.regions, of_tile), dict(zip(parameters, others, strict=True))

    results = on_ranks(job, work)
    found = whole_of([piece for piece, _ in results if piece[0]], X)
    torch.testing.assert_close(found, wanted[0], rtol=0, atol=1e-11)
    for _, gradients in results:
        for (name, _), gradient in zip(net.named_parameters(), wanted[1:], strict=True):
            if name in gradients:
                torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-10)


def test_a_gradient_of_a_gradient():
    """It is refused through the network, and goes through sums over ranks."""
    net = layers()
    job = job_of(net, **SPLITS["2x2"])

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        tile = own.scatter(X).requires_grad_()
        (slope,) = torch.autograd.grad(own.sum(own(tile)), tile, create_graph=True)
        loss = own.mean(own(tile) ** 2) + own.sum(slope**2)
        with pytest.raises(RuntimeError, match="gradient of a gradient"):
            loss.backward()
        factor = torch.ones((), dtype=X.dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(factor * own.sum(tile**2), tile, create_graph=True)
        return torch.autograd.grad(own.sum(slope**2), factor)[0]

    for found in on_ranks(job, work):
        torch.testing.assert_close(found, (8 * X**2).sum())


@pytest.mark.long
def test_a_copy_has_weights_of_its_own_and_no_file_has_a_network():
    net = segmenter()
    job = job_of(net, **SPLITS["stages"])

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        before = {name: each.clone() for name, each in own.state_dict().items()}
        other = copy.deepcopy(own)
        steps(other, sgd(other))
        with pytest.raises(TypeError, match="save net"):
            pickle.dumps(own)
        return before, own.state_dict(), other.state_dict()

    for before, own, other in on_ranks(job, work):
        torch.testing.assert_close(dict(own), before, rtol=0, atol=0)
        assert not torch.equal(other["3.weight"], own["3.weight"])


@pytest.mark.long
def test_a_compiled_module_is_its_module():
    net = layers()
    job, wanted = job_of(net, **SPLITS["2x2"]), steps(Plain(copy.deepcopy(net)), sgd(net), 1)

    def work(transport):
        own = spnb.parallel(torch.compile(copy.deepcopy(net), backend="eager"), job, transport)
        return steps(own, sgd(own), 1), list(own.state_dict())

    for found, names in on_ranks(job, work):
        assert found == pytest.approx(wanted, rel=1e-11)
        assert names == list(net.state_dict())


def test_what_would_not_be_seen_is_refused():
    net = layers()

    def told(change, split="2x2"):
        def work(transport):
            module = copy.deepcopy(net)
            own = spnb.parallel(module, job, transport)
            change(own, module)
            with pytest.raises((PlanError, RankError)) as refused:
                steps(own, torch.optim.LBFGS(own.parameters()) if split != "2x2" else sgd(own))
            return str(refused.value)

        job = job_of(net, **SPLITS[split])
        return on_ranks(job, work)[0]

    def hook(own, module):
        module[1].register_forward_hook(lambda layer, given, result: None)

    def backward_hook(own, module):
        module[1].register_full_backward_hook(lambda layer, given, result: None)

    assert "1 has a hook of its own" in told(hook)
    assert "1 has a hook of its own" in told(backward_hook)
    assert "2.weight was added" in told(lambda own, module: module.__setitem__(2, conv(8, 5)))
    assert "2 was added" in told(lambda own, module: setattr(own, "2", conv(8, 5)))


def test_an_optimizer_of_all_parameters_together_is_refused_on_stages():
    net = layers()
    job = job_of(net, **SPLITS["stages"])

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        with pytest.raises(RankError, match="LBFGS chooses one step for all parameters"):
            torch.optim.LBFGS(own.parameters()).step(lambda: None)

    on_ranks(job, work)


@pytest.mark.parametrize("order", [1.0, 2.0, torch.inf])
@pytest.mark.parametrize("split", ["2x2", "stages"])
def test_norms_of_any_order_count_a_shared_weight_once(split, order):
    net = nn.Sequential(conv(3, 3), nn.Tanh(), conv(3, 3), nn.Tanh(), conv(3, 3)).double()
    net[2].weight = net[0].weight
    job, reference = job_of(net, **SPLITS[split]), copy.deepcopy(net)
    reference(X).square().mean().backward()
    wanted = nn.utils.clip_grad_norm_(reference.parameters(), 0.01, order)

    def work(transport):
        own = spnb.parallel(copy.deepcopy(net), job, transport)
        own.mean(own(own.scatter(X)) ** 2).backward()
        return own.clip_grad_norm_(0.01, order), {n: p.grad for n, p in own.named_parameters()}

    for norm, gradients in on_ranks(job, work):
        torch.testing.assert_close(norm, wanted, rtol=1e-11, atol=0)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, reference.get_parameter(name).grad)
