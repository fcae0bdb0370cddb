"""The images and targets that a plan is trained on: given, of a data set, or synthetic."""

from __future__ import annotations

from typing import Any

import torch

from ..io.datasets import Normalized, Scaled, cifar10, decoded, image_folder
from ..io.examples import Examples, matched
from ..io.open import open_source
from ..io.sources import NOT_GIVEN, Source, SyntheticSource, given
from ..ir.axes import Axes
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..job.parsing import mean_and_std

BATCHES = 10
"""Batches of synthetic examples in an epoch."""


def examples_of(plan: JobPlan, images: Any = NOT_GIVEN, targets: Any = NOT_GIVEN) -> Examples:
    """Return images and targets that fit a plan: the given ones, the job's, or synthetic ones.

    Raises
    ------
    ValueError
        If they do not fit, or make no whole batch.
    """
    graph, job = plan.graph, plan.job
    if len(graph.inputs) > 1 or len(graph.outputs) > 1:
        raise ValueError(
            f"{job.name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs: training"
            " takes one of each in this version"
        )
    batch, channels, *size = job.input_shape
    output = graph.axes[graph.outputs[0]]
    if output.shape[:1] != (batch,) or output.axes_of(0) != (0,) * (batch > 1):
        raise ValueError(
            f"{job.name} gives an output of shape {output.shape}, whose first dimension is not the"
            f" batch of {batch}: there is no target for each image, so train a network that gives"
            " (batch, …)"
        )
    with_images, with_targets = given(images, "images"), given(targets, "targets")
    if not with_images:
        if with_targets:
            raise ValueError("targets without images: give both, or neither for synthetic ones")
        images, targets = _of_the_job(plan, output)
    elif not with_targets:
        raise ValueError("images without targets: give a target for each image")
    else:
        images = open_source(images, channels=channels, size=size, resize=job.resize)
    examples = matched(images, targets, output.shape, tells_classes(plan), job.seed)
    if len(examples) < batch:
        raise ValueError(
            f"{len(examples)} images make no batch of {batch}: use a smaller batch_size"
        )
    return examples


def tells_classes(plan: JobPlan) -> bool:
    """Whether the output may be scores of classes: its second dimension lies whole on each rank."""
    (value,) = plan.graph.outputs
    axes, grid = plan.graph.axes[value], plan.maker_of(value).team.tiling.grid
    return len(axes.dims) > 1 and all(grid[axis] == 1 for axis in axes.axes_of(1))


def _of_the_job(plan: JobPlan, output: Axes) -> tuple[Source, torch.Tensor | list[int]]:
    """The images and targets that a job's options name."""
    job = plan.job
    batch, channels, *size = job.input_shape
    if job.app == 3:
        count = BATCHES * batch
        noise = torch.Generator().manual_seed(job.seed)
        shape = output.shape
        if tells_classes(plan):
            targets = torch.randint(0, shape[1], (count, *shape[2:]), generator=noise)
        else:
            targets = torch.rand(count, *shape[1:], generator=noise)
        return SyntheticSource((count, channels, *size), job.seed), targets
    if len(output.dims) > 2:
        raise ValueError(
            f"{job.name} gives a class for each pixel, but app {job.app} has one for each image:"
            " take another network, or give images and targets to train(…)"
        )
    found, labels = _of_files(job)
    if job.normalize is not None:
        found = Normalized(found, *mean_and_std(job.normalize))
    return found, labels


def _of_files(job: Job) -> tuple[Source, list[int]]:
    """The images and classes of the files that a job names, each image decoded once."""
    _, channels, *size = job.input_shape
    if job.app == 1:
        pictures, labels = image_folder(job.datapath, channels, size, resize=job.resize)
        return decoded(pictures), labels
    images, labels = cifar10(job.datapath)
    if channels != 3 or len(size) != 2:
        raise ValueError(f"{job.name} takes {channels} channels, but CIFAR-10 has 3 on two axes")
    if tuple(size) == (32, 32):
        return images, labels
    if not job.resize:
        shown = "x".join(map(str, size))
        raise ValueError(
            f"the images of CIFAR-10 are 32x32, but {shown} is planned: train with image_size=32,"
            f" or with resize=True (--resize), which resizes images to {shown}"
        )
    return decoded(Scaled(images, tuple(size))), labels
