"""The images and targets that a plan is trained on: given, of a data set, or synthetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...capture.losses import LossFunction, OwnLoss, TargetShape
from ...io.arrays import as_numpy
from ...io.datasets.cifar import cifar10
from ...io.datasets.examples import Examples, matched
from ...io.datasets.image_folder import image_folder
from ...io.datasets.prepared import Normalized, Scaled, decoded
from ...io.open import open_source
from ...io.sources import NOT_GIVEN, Source, SyntheticSource, given
from ...ir.axes import Axes
from ...ir.option_words import option
from ...job.job import Job
from ...job.job_plan import JobPlan
from ...job.parsing import mean_and_std

BATCHES = 10
"""Batches of synthetic examples in an epoch."""


def examples_of(
    plan: JobPlan,
    images: Any = NOT_GIVEN,
    targets: Any = NOT_GIVEN,
    *,
    evaluation: bool = False,
    any_number: bool = False,
    datapath: str | None = None,
) -> Examples:
    """Return images and targets that fit a plan: the given ones, the job's, or synthetic ones.

    Parameters
    ----------
    plan
        The plan.
    images, targets
        As of `spnb.driver.session.Session.train`.
    evaluation
        Whether they are evaluated: of CIFAR-10 they are the test images then.
    any_number
        Whether there may be fewer than a batch.
    datapath
        A folder in place of that of the job.

    Raises
    ------
    ValueError
        If they do not fit, or make no whole batch to train on.
    """
    graph, job = plan.graph, plan.job
    if len(graph.inputs) > 1 or len(graph.outputs) > 1:
        raise ValueError(
            f"{job.name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs: training"
            " and evaluation take one of each, without a loss that is a function"
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
        images, targets = _of_the_job(plan, output, evaluation, datapath)
    elif not with_targets:
        raise ValueError("images without targets: give a target for each image")
    else:
        images = open_source(images, channels=channels, size=size, resize=job.resize)
    examples = matched(images, targets, output.shape, tells_classes(plan), job.seed)
    if not any_number:
        require_a_batch(examples, batch)
    return examples


def require_a_batch(examples: Examples, batch: int) -> None:
    """Refuse examples that make no whole batch to train on.

    Raises
    ------
    ValueError
        Naming both numbers.
    """
    if len(examples) < batch:
        raise ValueError(
            f"{len(examples)} images make no batch of {batch}: use a smaller batch_size"
        )


def several_targets(targets: Any) -> bool:
    """Whether targets are a tuple or list of arrays, and not one array or a list of numbers."""
    return isinstance(targets, (tuple, list)) and all(map(_is_array, targets))


def examples_for_loss(
    plan: JobPlan, images: Any, targets: Any, *, any_number: bool = False
) -> Examples:
    """Return images and targets of any shape, for a loss of the user's own.

    Parameters
    ----------
    plan
        The plan.
    images
        As of `examples_of`.
    targets
        An array or tensor ``(examples, …)``, or a tuple or list of them.
    any_number
        Whether there may be fewer than a batch.

    Raises
    ------
    ValueError
        If they do not fit, or make no whole batch to train on.
    """
    job = plan.job
    batch, channels, *size = job.input_shape
    if len(job.shapes) > 1:
        inputs = len(job.shapes)
        raise ValueError(f"{job.name} has {inputs} inputs: training and evaluation take one")
    if not given(images, "images") or not given(targets, "targets"):
        raise ValueError("a loss of your own needs images and targets: give both")
    source = open_source(images, channels=channels, size=size, resize=job.resize)
    arrays = [_target_array(each) for each in (targets if several_targets(targets) else [targets])]
    for array in arrays:
        if len(array) != source.shape[0]:
            raise ValueError(
                f"{source.shape[0]} images, but {len(array)} targets: give one for each image"
            )
    examples = Examples(source, arrays[0], job.seed, tuple(arrays[1:]))
    if not any_number:
        require_a_batch(examples, batch)
    return examples


def _is_array(target: Any) -> bool:
    return hasattr(target, "shape") and len(target.shape) > 0


def _target_array(target: Any) -> np.ndarray:
    """A target as an array; whole numbers have 64 bits, as PyTorch's losses want classes."""
    array = as_numpy(target) if _is_array(target) else np.asarray(target)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return (
        array if array.dtype == np.float64 or array.dtype.kind == "b" else array.astype(np.float32)
    )


def loss_of(
    plan: JobPlan,
    examples: Examples,
    function: LossFunction,
    metrics: Mapping[str, LossFunction],
    several: bool,
) -> OwnLoss:
    """Return a loss of the user's own, with the shapes that its targets have in a batch.

    Parameters
    ----------
    plan
        The plan.
    examples
        Images and targets.
    function, metrics
        The loss and the metrics.
    several
        Whether they take a tuple of targets.
    """
    batch, *_ = plan.job.input_shape
    exact = torch.float64 if plan.job.dtype == torch.float64 else torch.float32
    found = []
    for number in range(1 + len(examples.further)):
        array = examples.array_of_targets(number)
        dtype = {"i": torch.int64, "b": torch.bool}.get(array.dtype.kind, exact)
        found.append(TargetShape((batch, *array.shape[1:]), dtype))
    return OwnLoss(function, tuple(found), several, dict(metrics))


def tells_classes(plan: JobPlan) -> bool:
    """Whether the output may be scores of classes: its second dimension lies whole on each rank."""
    (value,) = plan.graph.outputs
    axes, grid = plan.graph.axes[value], plan.maker_of(value).team.tiling.grid
    return len(axes.dims) > 1 and all(grid[axis] == 1 for axis in axes.axes_of(1))


def _of_the_job(
    plan: JobPlan, output: Axes, evaluation: bool, datapath: str | None
) -> tuple[Source, torch.Tensor | list[int]]:
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
    found, labels = _of_files(job, evaluation, datapath or job.datapath)
    if job.normalize is not None:
        found = Normalized(found, *mean_and_std(job.normalize))
    return found, labels


def _of_files(job: Job, evaluation: bool, datapath: str) -> tuple[Source, list[int]]:
    """The images and classes of the files that a job names, each image decoded once."""
    _, channels, *size = job.input_shape
    if job.app == 1:
        pictures, labels = image_folder(datapath, channels, size, resize=job.resize)
        return decoded(pictures), labels
    images, labels = cifar10(datapath, test=evaluation)
    if channels != 3 or len(size) != 2:
        raise ValueError(f"{job.name} takes {channels} channels, but CIFAR-10 has 3 on two axes")
    if tuple(size) == (32, 32):
        return images, labels
    if not job.resize:
        shown = "x".join(map(str, size))
        raise ValueError(
            f"the images of CIFAR-10 are 32x32, but {shown} is planned: train with"
            f" {option('image_size', 32)}, or with {option('resize', True)}, which resizes images"
            f" to {shown}"
        )
    return decoded(Scaled(images, tuple(size))), labels
