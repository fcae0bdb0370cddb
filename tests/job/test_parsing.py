"""Values of options: every spelling that is read, and what is refused by its kind."""

import pytest
import torch

from spnb.errors import OptionError
from spnb.job.job import Job


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
        ({"seed": 2**70}, "seed is 1180591620717411303424, but must be at most 9,223,"),
        ({"model": None}, "model must be a name or an nn.Module, not None"),
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        Job(**({"model": "resnet20_v1"} | options))
