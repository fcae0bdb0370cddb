"""The table of options: one source for keywords and flags; nothing is ignored."""

import argparse

import pytest
import torch
from torch import nn

import spnb
from spnb.errors import OptionError, PlanError
from spnb.ir.schedule import SCHEDULES
from spnb.job import options
from spnb.job.job import DTYPES, Job
from spnb.job.parsing import PRECISIONS
from spnb.kernels.devices import DEVICES
from spnb.rules import rule
from spnb.training.recipe import OPTIMIZERS
from spnb.ui.flags import add_flags, flag


def test_defaults_are_those_of_the_table():
    job = Job("resnet")
    assert job.values() == {
        "batch_size": 32,
        "parts": 1,
        "split_size": 2,
        "num_spatial_parts": 4,
        "spatial_size": 1,
        "slice_method": "square",
        "halo_D2": False,
        "fused_layers": 1,
        "patches": 1,
        "balance": None,
        "allow_gather": False,
        "local_DP": 1,
        "enable_evaluation": False,
        "image_size": 32,
        "input_shapes": None,
        "num_layers": 18,
        "num_filters": 416,
        "num_classes": 10,
        "backend": "mpi",
        "device": None,
        "precision": "fp32",
        "checkpoint": None,
        "app": 3,
        "datapath": "./train",
        "num_workers": 0,
        "num_epochs": 1,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "weight_decay": 0.0001,
        "learning_rate_decay": 0.85,
        "schedule": "1f1b",
        "recompute": False,
        "replicas": 1,
        "gems": False,
        "times": 1,
        "enable_master_comm_opt": False,
        "seed": 0,
        "verbose": False,
    }


def test_flags_are_the_benchmarks_own():
    assert [flag(option) for option in options.options()] == [
        "--batch-size",
        "--parts",
        "--split-size",
        "--num-spatial-parts",
        "--spatial-size",
        "--slice-method",
        "--halo-D2",
        "--fused-layers",
        "--patches",
        "--balance",
        "--allow-gather",
        "--local-DP",
        "--enable-evaluation",
        "--image-size",
        "--input-shapes",
        "--num-layers",
        "--num-filters",
        "--num-classes",
        "--backend",
        "--device",
        "--precision",
        "--checkpoint",
        "--app",
        "--datapath",
        "--num-workers",
        "--num-epochs",
        "--optimizer",
        "--learning-rate",
        "--weight-decay",
        "--learning-rate-decay",
        "--schedule",
        "--recompute",
        "--replicas",
        "--gems",
        "--times",
        "--enable-master-comm-opt",
        "--seed",
        "--verbose",
    ]


def parsed(text):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(text.split()))


def test_a_command_line_and_keywords_make_the_same_job():
    text = (
        "--batch-size 6 --parts 3 --split-size 3 --spatial-size 2 --num-spatial-parts 4,2 "
        "--slice-method vertical --halo-D2 --fused-layers 2 --balance 5,5,5 --local-DP 2 "
        "--image-size 97x131 --precision fp_16 --seed 3 -v --slice-method horizontal"
    )
    a = Job("resnet20_v1", **parsed(text))
    b = Job(
        "resnet20_v1",
        batch_size=6,
        parts=3,
        split_size=3,
        spatial_size=2,
        num_spatial_parts=(4, 2),
        slice_method="horizontal",  # given twice, the last counts
        halo_D2=True,
        fused_layers=2,
        balance=[5, 5, 5],
        local_DP=2,
        image_size=(97, 131),
        precision="float16",
        seed=3,
        verbose=True,
    )
    assert a.values() == b.values()
    assert a.dtype == torch.float16
    assert [t.grid for t in a.tilings] == [(1, 4, 1), (1, 2, 1), (2, 1, 1)]
    assert parsed("") == {}


@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [
        ("fp32", torch.float32),
        ("fp_32", torch.float32),
        ("float32", torch.float32),
        ("fp_16", torch.float16),
        ("fp16", torch.float16),
        ("half", torch.float16),
        ("bf_16", torch.bfloat16),
        ("bfp_16", torch.bfloat16),
        ("bfp16", torch.bfloat16),
        ("bf16", torch.bfloat16),
        ("fp64", torch.float64),
        ("torch.float64", torch.float64),
    ],
)
def test_spellings_of_precision(spelling, dtype):
    assert Job("resnet", precision=spelling).dtype == dtype


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8': use fp32, fp64, fp16, bf16"),
        ({"backend": "gloom"}, "unknown backend 'gloom': use mpi, gloo, nccl"),
        ({"backend": "nccl", "device": "cpu"}, "carries tensors between GPUs, but device is cpu"),
        ({"device": "tpu"}, "unknown device 'tpu': use cpu, cuda"),
        ({"spatial_size": 3}, "spatial_size is 3, but there are 2 stages (split_size)"),
        ({"spatial_size": -1}, "spatial_size is -1"),
        ({"num_spatial_parts": "4,2"}, "lists 2 numbers for 1 tiled stages (spatial_size)"),
        ({"num_spatial_parts": 0}, "num_spatial_parts is 0, but must be at least 1"),
        ({"spatial_size": 0, "num_spatial_parts": 2}, "have no tiled stage to cut"),
        ({"spatial_size": 0, "slice_method": "vertical"}, "have no tiled stage to cut"),
        ({"spatial_size": 2, "local_DP": 2}, "local_DP is 2, but all 2 stages are tiled"),
        ({"spatial_size": 0, "halo_D2": True}, "halo_D2 has no tiled stage to serve"),
        ({"parts": 33}, "33 parts of a batch of 32: a micro-batch needs an image"),
        ({"parts": 0}, "parts is 0, but must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, not 2.5"),
        ({"image_size": 0}, "image_size is 0, but must be at least 1"),
        ({"image_size": "big"}, "cannot read image_size 'big'"),
        ({"balance": "3;4"}, "cannot read balance '3;4'"),
        ({"fused_layers": 2}, "fused_layers is 2, which needs halo_D2"),
        ({"fused_layers": 0, "halo_D2": True}, "fused_layers is 0: use 1 or more, or all"),
        ({"patches": 0}, "patches is 0, but must be at least 1"),
        (
            {"patches": 4},
            "patches is 4, which needs one tiled stage (spatial_size is 1)",
        ),
        (
            {"patches": 4, "halo_D2": True, "fused_layers": "all", "spatial_size": 2},
            "which needs one tiled stage (spatial_size is 2)",
        ),
        ({"num_filters": 64}, "num_layers and num_filters are AmoebaNet's"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(given, message):
    with pytest.raises(OptionError) as caught:
        Job("resnet", **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_only_the_network_can_tell_is_refused_later():
    with pytest.raises(OptionError, match="has 3 numbers, but resnet20_v1 takes images of 2 axes"):
        _ = Job("resnet20_v1", image_size="8x8x8").input_shape
    with pytest.raises(OptionError, match="unknown slice method 'round'"):
        _ = Job("resnet20_v1", slice_method="round").tilings
    with pytest.raises(OptionError, match="num_classes is for the built-in networks"):
        Job(nn.Conv2d(3, 3, 1), num_classes=3)
    with pytest.raises(TypeError, match="time"):
        Job("resnet", time=2)


def test_channels_and_axes_are_those_of_the_first_convolution():
    assert Job(nn.Conv3d(5, 2, 3), image_size=9, batch_size=1).input_shape == (1, 5, 9, 9, 9)
    assert Job(nn.Conv1d(2, 2, 3), image_size=9, batch_size=1).tilings[0].grid == (1, 4)


def test_fused_layers():
    assert Job("resnet").fused == 0
    assert Job("resnet", halo_D2=True).fused == 1
    assert Job("resnet", halo_D2=True, fused_layers="5").fused == 5
    assert Job("resnet", halo_D2=True, fused_layers="all").fused > 1000


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


def test_a_class_is_no_network():
    with pytest.raises(OptionError, match=r"not <class .*Conv2d'>: make one, as Conv2d\(…\)"):
        Job(nn.Conv2d)


def test_the_table_lists_what_the_machinery_has():
    def choices(name):
        return options.option_named(name).metadata["choices"]

    assert choices("optimizer") == tuple(OPTIMIZERS)
    assert choices("device") == DEVICES
    assert choices("schedule") == tuple(SCHEDULES)
    assert tuple(DTYPES) == PRECISIONS


def test_every_option_is_in_the_docstring():
    for option in options.options():
        assert f"{option.name} : {option.default!r}\n" in Job.__doc__


class Cumulative(nn.Module):
    """An operator that looks at all of its input."""

    def forward(self, x):
        return x.cumsum(-1)


def planned_or_refused(job, training=False):
    try:
        return spnb.plan(job, training).num_ranks
    except (PlanError, OptionError) as refusal:
        return type(refusal)


def weights_of(job):
    return float(next(iter(job.module.parameters())).double().sum())


def trained_plan(job):
    return spnb.plan(job, training=True)


AMOEBA = {"model": "amoebanet", "num_layers": 3, "num_filters": 16}
FUSED = {"halo_D2": True, "fused_layers": "all", "balance": (5, 10)}
EFFECTS = {
    "batch_size": ({}, 2, lambda job: spnb.plan(job).graph.batch),
    "parts": ({}, 2, lambda job: spnb.plan(job).micro_batch_sizes),
    "split_size": ({}, 3, lambda job: len(spnb.plan(job).stages)),
    "num_spatial_parts": ({}, 2, lambda job: spnb.plan(job).num_ranks),
    "spatial_size": ({"split_size": 3}, 2, lambda job: spnb.plan(job).num_ranks),
    "slice_method": ({}, "vertical", lambda job: spnb.plan(job).stages[0].team.tiling.grid),
    "halo_D2": ({}, True, lambda job: spnb.plan(job).totals.exchanges),
    "fused_layers": ({"halo_D2": True}, 3, lambda job: spnb.plan(job).totals.exchanges),
    "patches": (FUSED, 4, lambda job: spnb.plan(job).stages[0].num_patches),
    "balance": ({}, (5, 10), lambda job: spnb.plan(job).stages[0].blocks),
    "allow_gather": ({"model": Cumulative(), "split_size": 1}, True, planned_or_refused),
    "local_DP": ({}, 2, lambda job: spnb.plan(job).num_ranks),
    "enable_evaluation": ({}, True, lambda job: planned_or_refused(job, training=True)),
    "image_size": ({}, 97, lambda job: spnb.plan(job).extent),
    "input_shapes": ({}, ((4, 3, 64, 80),), lambda job: spnb.plan(job).extent),
    "num_layers": (AMOEBA, 6, lambda job: len(spnb.plan(job).graph.nodes)),
    "num_filters": (AMOEBA, 32, lambda job: spnb.plan(job).memory_bytes),
    "num_classes": ({}, 7, lambda job: spnb.plan(job).graph.shape("linear")),
    "precision": ({}, "fp64", lambda job: spnb.plan(job).graph.dtype),
    "device": ({}, "cuda", lambda job: spnb.plan(job).rank_plan(0).device),
    "seed": ({}, 5, weights_of),
    "schedule": ({"parts": 4}, "gpipe", lambda job: trained_plan(job).memory_bytes),
    "recompute": ({"parts": 4}, True, lambda job: trained_plan(job).memory_bytes),
    "replicas": ({}, 2, lambda job: spnb.plan(job).num_ranks),
    "gems": ({}, True, lambda job: spnb.plan(job).rank_plan(0).mirror is None),
    "times": ({"gems": True}, 2, lambda job: spnb.plan(job).micro_batch_sizes),
    "enable_master_comm_opt": (
        {"gems": True},
        True,
        lambda job: trained_plan(job).replicas.overlapped,
    ),
}
"""By option: a job to begin with, another value, and where that is seen."""

ELSEWHERE = {
    "backend": "test_gloo",
    "checkpoint": "test_epochs, test_weights",
    "app": "test_datasets",
    "datapath": "test_datasets",
    "num_workers": "test_datasets",
    "num_epochs": "test_epochs",
    "optimizer": "test_epochs",
    "learning_rate": "test_epochs",
    "weight_decay": "test_epochs",
    "learning_rate_decay": "test_epochs",
    "verbose": "test_cli",
}


@pytest.mark.parametrize("name", EFFECTS)
def test_no_option_is_ignored(name):
    base, value, probe = EFFECTS[name]
    base = {"model": "resnet20_v1", "image_size": 64, "batch_size": 4} | base
    if name == "input_shapes":
        del base["image_size"], base["batch_size"]
    assert probe(Job(**base)) != probe(Job(**(base | {name: value})))


def test_every_option_is_shown_to_have_an_effect():
    assert {*EFFECTS, *ELSEWHERE} == {option.name for option in options.options()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_spatial_parts": None}, "cannot read num_spatial_parts None"),
        ({"num_spatial_parts": (4.7,)}, r"cannot read num_spatial_parts \(4\.7,\)"),
        ({"image_size": None}, "cannot read image_size None"),
        ({"image_size": []}, r"cannot read image_size \[\]"),
        ({"halo_D2": True, "fused_layers": 1.5}, r"cannot read fused_layers 1\.5"),
        ({"halo_D2": 2}, "halo_D2 must be True or False, not 2"),
        ({"slice_method": 4}, "slice_method must be a text, not 4"),
        ({"slice_method": None}, "slice_method must be a text, not None"),
        ({"device": 0}, "device must be a text, not 0"),
        ({"batch_size": True}, "batch_size must be a whole number, not True"),
        ({"balance": (1.5, 1.5)}, "cannot read balance"),
        ({"seed": 2**70}, "seed is 1180591620717411303424, but must be 0 or more, and less"),
        ({"model": None}, "model must be a name or an nn.Module, not None"),
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Job(**({"model": "resnet20_v1"} | options))


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
