"""Flags of the command line: the benchmarks' own, and the same job as keywords make."""

import argparse

import torch

from spnb.job import options
from spnb.job.job import Job
from spnb.ui.cli import _parser
from spnb.ui.flags import add_flags, flag, given


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
        "--resize",
        "--input-shapes",
        "--method",
        "--num-layers",
        "--num-filters",
        "--num-classes",
        "--backend",
        "--device",
        "--precision",
        "--calibration",
        "--weights",
        "--checkpoint",
        "--app",
        "--datapath",
        "--normalize",
        "--num-workers",
        "--num-epochs",
        "--optimizer",
        "--learning-rate",
        "--weight-decay",
        "--learning-rate-decay",
        "--schedule",
        "--recompute",
        "--recompute-memory",
        "--replicas",
        "--gems",
        "--times",
        "--enable-master-comm-opt",
        "--slow-link",
        "--deadline",
        "--force",
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


def test_short_flags_are_those_of_the_same_options():
    short = "--tiles 4,2 --stages 3 --tiled-stages 2 --micro-batches 3 --fuse 2"
    long = "--num-spatial-parts 4,2 --split-size 3 --spatial-size 2 --parts 3 --fused-layers 2"
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert given(parser.parse_args(short.split())) == parsed(f"{long} --halo-D2")
    sweep = _parser().parse_args(["sweep", "unet", "--tiles", "2,4", "--lengths", "0,1"])
    assert sweep.tiles == [2, 4]
    assert "num_spatial_parts" not in given(sweep)
