"""A job: its shapes, its network, which is captured once, and the user's module, which stays."""

import pytest
import torch
from torch import nn

import spnb
from spnb.errors import PlanError
from spnb.job.job import Job
from spnb.rules import rule


def test_channels_and_axes_are_those_of_the_first_convolution():
    assert Job(nn.Conv3d(5, 2, 3), image_size=9, batch_size=1).input_shape == (1, 5, 9, 9, 9)
    assert Job(nn.Conv1d(2, 2, 3), image_size=9, batch_size=1).tilings[0].grid == (1, 4)


@pytest.mark.long
def test_ranks_are_tiles_and_the_rest_times_local_dp():
    def ranks(**given):
        return spnb.plan(Job("resnet20_v1", image_size=64, batch_size=4, **given)).num_ranks

    assert ranks() == 5
    assert ranks(split_size=3, spatial_size=2) == 9
    assert ranks(split_size=3, spatial_size=2, num_spatial_parts="4,2", local_DP=2) == 8
    assert ranks(spatial_size=0, split_size=3, local_DP=2) == 6


def test_the_users_module_is_left_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    job = Job(net, precision="fp64", image_size=16, batch_size=1, split_size=1, num_spatial_parts=2)
    spnb.plan(job)
    assert job.module[0].weight.dtype == torch.float64
    assert not job.module.training
    assert net.training
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert net[0].weight.dtype == torch.float32


@pytest.mark.parametrize("model", ["resnet20_v1", nn.Conv2d(3, 4, 3)], ids=["built-in", "module"])
def test_a_network_is_captured_once_and_again_for_new_rules(model):
    job = Job(model, image_size=32, batch_size=1)
    graph = job.graph
    assert job.graph is graph
    assert job.replace(num_spatial_parts=9).graph is graph
    assert job.replace(image_size=64).graph is not graph
    rule("testing.never_called")(lambda node: None)
    assert job.graph is not graph


def test_a_module_that_was_changed_is_captured_and_copied_anew():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    job = Job(net, image_size=32, batch_size=1, split_size=1, precision="fp64")
    graph, module = job.graph, job.module
    assert job.graph is graph and job.module is module
    with torch.no_grad():
        net[0].weight.mul_(2)
    assert torch.equal(job.module[0].weight, net[0].weight.double())
    net[1] = nn.Sigmoid()
    assert "sigmoid" in {node.kind for node in job.graph.nodes}
    net.add_module("last", nn.Conv2d(4, 2, 1))
    assert spnb.plan(job).graph.shape(job.graph.outputs[0])[1] == 2


@pytest.mark.long
def test_a_balance_of_one_stage():
    for balance in (15, "15", (15,)):
        assert (
            spnb.plan(Job("resnet20_v1", split_size=1, balance=balance)).stages[0].blocks[1] == 15
        )
    with pytest.raises(PlanError, match="has 1 entries with the sum 12"):
        spnb.plan(Job("resnet20_v1", split_size=1, balance=12))


class Difference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, a, b):
        return self.conv(a) * 2 - self.conv(b).flip(3)


def test_a_list_of_inputs_is_in_the_order_of_the_arguments():
    shapes = {"b": (1, 3, 12, 12), "a": (1, 3, 12, 12)}
    job = Job(Difference().double(), input_shapes=shapes, split_size=1, precision="fp64")
    a, b = torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12)
    session = spnb.InProcess(spnb.plan(job), progress=False)
    with torch.no_grad():
        wanted = job.module(a.double(), b.double())
    for given in ([a, b], {"b": b, "a": a}):
        assert torch.allclose(session.infer(given).output, wanted, atol=1e-12)
