"""The table of options: one source for keywords and flags; nothing is ignored."""

import numpy as np
import pytest
from torch import nn

import spnb
from spnb.errors import OptionError, PlanError
from spnb.ir.schedule import SCHEDULES
from spnb.job import options
from spnb.job.job import Job
from spnb.job.parsing import PRECISIONS
from spnb.job.precision import DTYPES
from spnb.kernels.devices import DEVICES
from spnb.training.recipe import OPTIMIZERS


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
        "resize": False,
        "input_shapes": None,
        "method": "forward",
        "num_layers": 18,
        "num_filters": 416,
        "num_classes": 10,
        "backend": "mpi",
        "device": None,
        "precision": None,
        "calibration": None,
        "weights": None,
        "checkpoint": None,
        "app": 3,
        "datapath": "./train",
        "normalize": None,
        "num_workers": 0,
        "num_epochs": 1,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "weight_decay": 0.0001,
        "learning_rate_decay": 0.85,
        "schedule": "1f1b",
        "recompute": False,
        "recompute_memory": None,
        "replicas": 1,
        "gems": False,
        "times": 1,
        "enable_master_comm_opt": False,
        "slow_link": None,
        "deadline": 60,
        "force": False,
        "seed": 0,
        "verbose": False,
    }


def test_fused_layers():
    assert Job("resnet").fused == 0
    assert Job("resnet", halo_D2=True).fused == 1
    assert Job("resnet", halo_D2=True, fused_layers="5").fused == 5
    assert Job("resnet", halo_D2=True, fused_layers="all").fused > 1000


def test_the_table_lists_what_the_machinery_has():
    def choices(name):
        return options.option_named(name).metadata["choices"]

    assert choices("optimizer") == tuple(OPTIMIZERS)
    assert choices("device") == DEVICES
    assert choices("schedule") == tuple(SCHEDULES)
    assert tuple(DTYPES) == PRECISIONS


def test_every_option_is_in_the_docstring():
    for option in options.options():
        names = " (or ".join(filter(None, (option.name, option.metadata["other"])))
        names += ")" if option.metadata["other"] else ""
        assert f"    {names} : {option.default!r}\n" in Job.__doc__


class Sorted(nn.Module):
    """An operator that looks at all of its input."""

    def forward(self, x):
        return x.sort(-1)[0]


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
DARK, BRIGHT = (np.full((4, 3, 64, 64), level, np.float32) for level in (0.1, 0.9))
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
    "allow_gather": ({"model": Sorted(), "split_size": 1}, True, planned_or_refused),
    "local_DP": ({}, 2, lambda job: spnb.plan(job).num_ranks),
    "enable_evaluation": ({}, True, lambda job: planned_or_refused(job, training=True)),
    "image_size": ({}, 97, lambda job: spnb.plan(job).extent),
    "input_shapes": ({}, ((4, 3, 64, 80),), lambda job: spnb.plan(job).extent),
    "num_layers": (AMOEBA, 6, lambda job: len(spnb.plan(job).graph.nodes)),
    "num_filters": (AMOEBA, 32, lambda job: spnb.plan(job).memory_bytes),
    "num_classes": ({}, 7, lambda job: spnb.plan(job).graph.shape("linear")),
    "precision": ({}, "fp64", lambda job: spnb.plan(job).graph.dtype),
    "calibration": (
        {"precision": "int8", "force": True, "calibration": DARK},
        BRIGHT,
        lambda job: spnb.plan(job).graph.nodes[0].args["scale"],
    ),
    "device": ({}, "cuda", lambda job: spnb.plan(job).rank_plan(0).device),
    "seed": ({}, 5, weights_of),
    "schedule": ({"parts": 4}, "gpipe", lambda job: trained_plan(job).memory_bytes),
    "recompute": ({"parts": 4}, True, lambda job: trained_plan(job).memory_bytes),
    "recompute_memory": (
        {"image_size": 256, "batch_size": 2, "num_spatial_parts": 2, "split_size": 1},
        "130MiB",
        lambda job: trained_plan(job).memory_bytes,
    ),
    "replicas": ({}, 2, lambda job: spnb.plan(job).num_ranks),
    "gems": ({}, True, lambda job: spnb.plan(job).rank_plan(0).mirror is None),
    "slow_link": ({}, "5ms,200Mbit", lambda job: spnb.plan(job).simulate().seconds),
    "times": ({"gems": True}, 2, lambda job: spnb.plan(job).micro_batch_sizes),
    "enable_master_comm_opt": (
        {"gems": True},
        True,
        lambda job: trained_plan(job).replicas.overlapped,
    ),
}
"""By option: a job to begin with, another value, and where that is seen."""
ELSEWHERE = {
    "method": "test_foreign",
    "backend": "test_gloo",
    "weights": "test_checkpoint, test_weights",
    "checkpoint": "test_checkpoint, test_weights",
    "app": "test_datasets",
    "datapath": "test_datasets",
    "normalize": "test_datasets",
    "num_workers": "test_datasets",
    "resize": "test_given_images, test_datasets",
    "deadline": "test_engines, test_stopped_ranks",
    "force": "test_enough_memory",
    "num_epochs": "test_training_loop",
    "optimizer": "test_training_loop",
    "learning_rate": "test_training_loop",
    "weight_decay": "test_training_loop",
    "learning_rate_decay": "test_training_loop",
    "verbose": "test_cli",
}


@pytest.mark.long
@pytest.mark.parametrize("name", EFFECTS)
def test_no_option_is_ignored(name):
    base, value, probe = EFFECTS[name]
    base = {"model": "resnet20_v1", "image_size": 64, "batch_size": 4} | base
    if name == "input_shapes":
        del base["image_size"], base["batch_size"]
    assert probe(Job(**base)) != probe(Job(**(base | {name: value})))


def test_every_option_is_shown_to_have_an_effect():
    assert {*EFFECTS, *ELSEWHERE} == {option.name for option in options.options()}
