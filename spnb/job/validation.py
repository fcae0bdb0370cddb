"""What options cannot be, alone or together: refused when a job is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import OptionError
from ..kernels.devices import DEVICES
from .parsing import whole_numbers

if TYPE_CHECKING:
    from .options import Job

RECIPE = (
    "app",
    "datapath",
    "num_workers",
    "num_epochs",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "learning_rate_decay",
    "schedule",
    "recompute",
    "enable_master_comm_opt",
)
"""Options of training alone."""

BACKENDS = ("mpi", "gloo", "nccl")


def check(job: Job) -> None:
    """Refuse values that are out of range, or without effect together with the others.

    Raises
    ------
    OptionError
        Naming the option, with its value and a way out.
    """
    _stages(job)
    _effects(job)
    _backend(job)
    _recipe(job)


def check_training(job: Job) -> None:
    """Refuse what training cannot do.

    Raises
    ------
    OptionError
        Naming the option.
    """
    if job.enable_evaluation:
        raise OptionError("enable_evaluation is for inference: use infer, or leave it out")
    if job.patches > 1:
        raise OptionError(
            f"patches is {job.patches}, but training holds all of a tile for the way back:"
            " leave it out"
        )


def _stages(job: Job) -> None:
    if not 0 <= job.spatial_size <= job.split_size:
        raise OptionError(
            f"spatial_size is {job.spatial_size}, but there are {job.split_size} stages"
            f" (split_size): use 0 to {job.split_size}"
        )
    parts = whole_numbers(job.num_spatial_parts)
    if len(parts) not in (1, job.spatial_size) and job.spatial_size:
        raise OptionError(
            f"num_spatial_parts lists {len(parts)} numbers for {job.spatial_size} tiled"
            " stages (spatial_size): give one for all or one for each"
        )
    if min(parts) < 1:
        raise OptionError(f"num_spatial_parts is {min(parts)}, but must be at least 1")
    if not job.spatial_size and (parts != (4,) or job.slice_method != "square"):
        raise OptionError(
            "num_spatial_parts and slice_method have no tiled stage to cut (spatial_size 0)"
        )
    if job.local_DP > 1 and job.spatial_size == job.split_size:
        raise OptionError(
            f"local_DP is {job.local_DP}, but all {job.split_size} stages are tiled: it"
            " serves the untiled ones, so make spatial_size smaller"
        )
    if job.num_micro_batches > job.batch_size:
        of_each = f" in each of {job.num_micro_batches // job.parts} turns (replicas, gems, times)"
        raise OptionError(
            f"{job.parts} parts{of_each * (job.num_micro_batches > job.parts)} of a batch of"
            f" {job.batch_size}: a micro-batch needs an image"
        )
    sizes = whole_numbers(job.image_size, "x")
    if min(sizes) < 1:
        raise OptionError(f"image_size is {job.image_size}, but must be at least 1")


def _effects(job: Job) -> None:
    if job.fused_layers != 1 and not job.halo_D2:
        raise OptionError(f"fused_layers is {job.fused_layers}, which needs halo_D2")
    if job.fused_layers != "all" and job.fused_layers < 1:
        raise OptionError(f"fused_layers is {job.fused_layers}: use 1 or more, or all")
    for name in ("halo_D2", "allow_gather"):
        if getattr(job, name) and not job.spatial_size:
            raise OptionError(f"{name} has no tiled stage to serve (spatial_size 0)")
    if job.patches > 1 and (job.spatial_size, job.fused_layers) != (1, "all"):
        raise OptionError(
            f"patches is {job.patches}, which needs one tiled stage (spatial_size is"
            f" {job.spatial_size}) with halos fused over all of it: halo_D2 and fused_layers"
            " all"
        )
    amoebanet = isinstance(job.model, str) and job.model.startswith("amoebanet")
    if (job.num_layers, job.num_filters) != (18, 416) and not amoebanet:
        raise OptionError("num_layers and num_filters are AmoebaNet's: leave them out")
    if job.num_classes != 10 and not (isinstance(job.model, str) and ":" not in job.model):
        raise OptionError("num_classes is for the built-in networks: leave it out")


def _backend(job: Job) -> None:
    if job.backend not in BACKENDS:
        raise OptionError(f"unknown backend {job.backend!r}: use {', '.join(BACKENDS)}")
    if job.device_kind not in DEVICES:
        raise OptionError(f"unknown device {job.device!r}: use {', '.join(DEVICES)}")
    if job.backend == "nccl" and job.device_kind == "cpu":
        raise OptionError(
            "the nccl backend carries tensors between GPUs, but device is cpu: use device cuda, or"
            " backend mpi or gloo"
        )


def _recipe(job: Job) -> None:
    if job.app not in (1, 2, 3):
        raise OptionError(
            f"app is {job.app}: use 1 (an image folder), 2 (CIFAR-10) or 3 (synthetic)"
        )
    if job.app == 3 and job.datapath != job.__dataclass_fields__["datapath"].default:
        raise OptionError("datapath is for app 1 and 2: synthetic examples are in no file")
    if job.num_workers < 0:
        raise OptionError(f"num_workers is {job.num_workers}, but must be 0 or more")
    if job.num_epochs < 1:
        raise OptionError(f"num_epochs is {job.num_epochs}, but must be at least 1")
    for name in ("learning_rate", "weight_decay", "learning_rate_decay"):
        value = getattr(job, name)
        if not 0 <= value < float("inf"):
            raise OptionError(f"{name} is {value!r}, but must be a number, 0 or more")
    if not job.gems and (job.times > 1 or job.enable_master_comm_opt):
        name = "times" if job.times > 1 else "enable_master_comm_opt"
        raise OptionError(f"{name} is for mirrored copies of the plan: it needs gems")
    job.recipe("mse")  # whatever the loss, the rest of it is checked
    useless = [name for name in RECIPE if name in job.given()]
    if job.enable_evaluation and useless:
        raise OptionError(f"{useless[0]} is for training, not for inference: leave it out")
