"""Options that cannot be, alone or together, are refused in one line."""

import pytest
import torch
from torch import nn
from trained_sessions import job

import spnb
from spnb.errors import OptionError
from spnb.job.job import Job
from spnb.job.options import options


def test_options_that_training_does_not_take_are_refused():
    for given, message in (
        ({"enable_evaluation": True, "learning_rate": 0.001}, "is for inference"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm': use adam, adamw"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"schedule": "1f2b"}, "unknown schedule"),
    ):
        with pytest.raises(OptionError, match=message):
            spnb.plan(job(**given), training=True)
    with pytest.raises(OptionError, match="num_epochs is for training"):
        job(num_epochs=2, enable_evaluation=True)


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
            {"patches": 4, "spatial_size": 2},
            "patches is 4, which needs one tiled stage, but spatial_size is 2",
        ),
        ({"patches": 4, "gems": True}, "patches is 4, but with gems a rank is in two stages"),
        ({"num_filters": 64}, "num_filters is for amoebanet: leave it out"),
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


def test_a_class_is_no_network():
    with pytest.raises(OptionError, match=r"not <class .*Conv2d'>: make one, as Conv2d\(…\)"):
        Job(nn.Conv2d)


class CastsOnGpu(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.conv, self.options = nn.Conv2d(3, 4, 3, padding=1), options

    def forward(self, x):
        with torch.autocast("cuda", **self.options):
            return self.conv(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_on_gpus_are_refused_where_ranks_have_gpus(dtype):
    network = nn.Sequential(nn.Conv2d(3, 3, 1), CastsOnGpu(dtype=dtype))
    options = {"image_size": 16, "batch_size": 1, "num_spatial_parts": 2, "split_size": 1}
    assert spnb.plan(spnb.Job(network, **options)).num_ranks == 2
    with pytest.raises(OptionError, match=r"^1 of Sequential casts on GPUs .*precision"):
        spnb.plan(spnb.Job(network, device="cuda", **options))
    plain = nn.Sequential(nn.Conv2d(3, 3, 1), CastsOnGpu(enabled=False))
    assert spnb.plan(spnb.Job(plain, device="cuda", **options)).num_ranks == 2


BOUNDED = [option.name for option in options() if option.metadata["most"] is not None]


@pytest.mark.parametrize("digits", [13, 27, 400, 5000])
def test_numbers_far_beyond_any_plan_are_refused_at_once(digits):
    number = 10 ** (digits - 1)
    tables = {name: {name: number} for name in BOUNDED}
    tables["times"] |= {"gems": True}
    tables["num_layers"] |= {"model": "amoebanet"}
    if digits < 20:
        del tables["seed"]  # which has 63 bits
    for name, given in tables.items():
        with pytest.raises(OptionError, match=rf"^{name} is .*, but must be at most [\d,]+$"):
            Job(**{"model": "resnet"} | given)
    if digits > 309:
        with pytest.raises(OptionError, match=r"learning_rate is .*: it must be smaller"):
            Job("resnet", learning_rate=number)
    for shapes in ([(1, 3, number, 8)], [(number, 3, 8, 8)], [(1, 3, 8, 8), (1, number)]):
        with pytest.raises(OptionError, match=r"input.* is .*, but must be at most"):
            Job(nn.Conv2d(3, 2, 1), input_shapes=shapes)


def test_every_number_of_a_family_is_bounded():
    assert {"batch_size", "split_size", "num_spatial_parts", "local_DP", "image_size"} < {*BOUNDED}
    assert {"num_classes", "num_layers", "num_filters", "replicas", "parts"} < {*BOUNDED}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_spatial_parts": 2**20, "replicas": 4}, "number of ranks is 4194308, but must be at"),
        ({"spatial_size": 3, "split_size": 3, "num_spatial_parts": 2**20}, "of ranks is 3145728,"),
        ({"batch_size": 2**20, "parts": 4096, "replicas": 4}, "micro-batches is 16384, but must"),
        ({"image_size": 2**24, "batch_size": 1}, "has 281,474,976,710,656 of them, but must have"),
        ({"image_size": 2**20, "batch_size": 32}, "make image_size or batch_size smaller"),
    ],
)
def test_numbers_that_are_too_large_together_are_refused(given, told):
    with pytest.raises(OptionError, match=told):
        spnb.plan(Job("resnet20_v1", **given))


@pytest.mark.long
@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        ({"image_size": 2**20, "num_spatial_parts": 4096, "batch_size": 1}, 4097),
        ({"batch_size": 2**24}, 5),
        ({"batch_size": 4096, "local_DP": 4096}, 4100),
    ],
)
def test_numbers_within_the_bounds_are_planned(given, ranks):
    assert spnb.plan(Job("resnet20_v1", **given)).num_ranks == ranks
