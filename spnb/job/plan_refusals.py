"""What is refused before a job is planned, or in its plan for training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import OptionError, PlanError
from ..ir.graph import Graph
from ..ir.option_words import option
from ..ir.region import shape_text
from ..ir.tiling import Tiling
from ..kernels.int8 import time_in_int8
from ..planner.plan import Plan
from .job import Job
from .parsing import INT8

INT8_CONVOLUTION = "spnb.conv_int8.default"
"""The operator that `spnb.kernels.int8` registers."""

OPERATIONS_A_NUMBER = 200
"""Operations of a convolution in the time that rounding a number, and undoing it, takes.

Of U-Net, ResNet-20 and ResNet-50 on 512² pixels it foresees 1.2, 0.7 and 0.6 times the time of
fp32, where 1.1, 0.7 and 0.7 were measured on a CPU with AVX2.
"""


def refuse_small_images(job: Job, cuts: Sequence[Tiling]) -> None:
    """Refuse tiles, or patches of tiles, that are more than an axis has pixels.

    Parameters
    ----------
    job
        What is planned.
    cuts
        How each stage cuts the image.

    Raises
    ------
    PlanError
        Naming the stage and both numbers.
    """
    size = job.input_shape[2:]
    for stage, tiling in enumerate(cuts):
        grid = tiling.grid[1:]
        if any(n > pixels for n, pixels in zip(grid, size, strict=True)):
            raise PlanError(
                f"stage {stage}: an image of {shape_text(size)} pixels cannot be cut into"
                f" {shape_text(grid)} {'patches' if job.patches > 1 else 'tiles'}:"
                " use fewer or a larger image"
            )


def refuse_gpu_casts(job: Job, graph: Graph) -> None:
    """Refuse a network whose ``torch.autocast("cuda")`` would cast in plain PyTorch, but not here.

    Raises
    ------
    OptionError
        Naming the module, if ranks compute on GPUs.
    """
    if graph.gpu_casts and job.device_kind == "cuda":
        raise OptionError(
            f"{graph.gpu_casts} of {job.name} casts on GPUs (torch.autocast('cuda')), which spnb"
            " does not follow, and device is cuda: name the type of all with precision, or write"
            " torch.autocast(x.device.type), which it follows"
        )


def refuse_slow_int8(job: Job, graph: Graph) -> None:
    """Refuse int8 where it would take longer than fp32, unless the job says ``force``.

    The estimate counts operations.  A convolution of the size of many networks' is measured in
    both; others are added up in fp64, which takes twice as long as fp32; each number of another
    call's result costs `OPERATIONS_A_NUMBER`.

    Raises
    ------
    OptionError
        With the estimate and what it is made of.
    """
    if job.precision != INT8 or job.force:
        return
    others = [node for node in graph.nodes if node.op != INT8_CONVOLUTION]
    work = max(1, sum(node.flops for node in graph.nodes))
    of_others = sum(node.flops for node in others) / work
    numbers = sum(math.prod(node.shape) for node in others) / work
    ratio = time_in_int8()
    estimate = (1 - of_others) * ratio + of_others * 2 + numbers * OPERATIONS_A_NUMBER
    if estimate > 1:
        raise OptionError(
            f"precision int8 would take about {estimate:.1f} times as long as fp32 here: a"
            f" convolution of 8-bit numbers takes {ratio:.1f} times as long, and {len(others)}"
            f" calls of {job.name} are none, and are computed in fp32 and fp64. Leave precision"
            f" out, or run it all the same with {option('force', True)}"
        )


def refuse_several_types(job: Job) -> None:
    """Refuse to train weights of several floating types, whose optimizer would mix them.

    Raises
    ------
    OptionError
        Naming the types.
    """
    if job.weights_dtype is None:
        types = sorted(str(each).removeprefix("torch.") for each in job.network.floating_types)
        raise OptionError(
            f"{job.name} has weights of several types ({', '.join(types)}), and training needs"
            " one: name it with precision"
        )


def require_statistics(plan: Plan, parts: int) -> None:
    """Refuse batch norms that would take the variance of a single value of each channel.

    Parameters
    ----------
    plan
        A plan for training.
    parts
        Micro-batches that the job asks for.

    Raises
    ------
    PlanError
        Naming the stage and the batch norm.
    """
    images = min(plan.micro_batch_sizes)
    for node in plan.captured.nodes:
        if node.kind != "batch_norm" or not node.args["training"]:
            continue
        batch, channels, *space = node.shape
        values_each = math.prod(space) * batch // plan.captured.batch * images
        if values_each < 2:
            raise PlanError(
                f"stage {plan.maker_of(node.name).index}, {node.label}: a micro-batch of"
                f" {images} image has one value for each of {channels} channels, and its"
                f" statistics need 2 or more: use fewer than {parts} parts, or a"
                " larger batch"
            )
