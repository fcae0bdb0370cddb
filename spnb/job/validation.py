"""Refuses values of options that do not go together, before anything is built.

PyTorch is not imported here: the command line checks its flags before it loads it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import models
from ..errors import OptionError
from ..ir.tiling import grid_of
from .options import OptionTable, option_named, options, training_options
from .parsing import INT8, is_program_file, mean_and_std, refuse_out_of_range, whole_numbers

MOST_RANKS, MOST_BATCHES = 2**21, 2**13
"""Most ranks, and most micro-batches, of a plan."""


def check(table: OptionTable) -> None:
    """Refuse values that are out of range, or that have no effect beside the others.

    Parameters
    ----------
    table
        A model, by name or as a module, and the options.

    Raises
    ------
    OptionError
        If a value is refused; the message names the option, its value and what to do.
    """
    _check_stages(table)
    _check_batch(table)
    _check_halos(table)
    _check_model(table)
    _check_backend(table)
    _check_int8(table)
    _check_training_options(table)
    for reason in without_effect(table).values():
        raise OptionError(reason)


def without_effect(table: OptionTable) -> dict[str, str]:
    """Options that do nothing beside the others, each with the reason.

    The benchmarks' own scripts ignore such flags, so pasted command lines have them.

    >>> without_effect(OptionTable("resnet", times=2))
    {'times': 'times is for mirrored copies of the plan: it needs gems'}
    """
    found = {}
    for name in ("times", "enable_master_comm_opt"):
        if not table.gems and getattr(table, name) != option_named(name).default:
            found[name] = f"{name} is for mirrored copies of the plan: it needs gems"
    if table.fused_layers != 1 and not table.halo_D2:
        found["fused_layers"] = f"fused_layers is {table.fused_layers}, which needs halo_D2"
    amoebanet = _built_in(table) and str(table.model).startswith("amoebanet")
    for name in ("num_layers", "num_filters"):
        if not amoebanet and getattr(table, name) != option_named(name).default:
            found[name] = f"{name} is for amoebanet: leave it out"
    return found


def check_training(table: OptionTable) -> None:
    """Refuse options that training cannot have.

    Raises
    ------
    OptionError
        Naming the option.
    """
    if table.enable_evaluation:
        raise OptionError(
            "enable_evaluation is for inference: use evaluate or infer, or leave it out"
        )
    if table.precision == INT8:
        raise OptionError(
            "precision int8 is for inference: train in another precision, and give its checkpoint"
            " as weights"
        )


def _check_stages(table: OptionTable) -> None:
    """Refuse stages, tiles and grids that do not fit each other."""
    if not 0 <= table.spatial_size <= table.split_size:
        raise OptionError(
            f"spatial_size is {table.spatial_size}, but there are {table.split_size} stages"
            f" (split_size): use 0 to {table.split_size}"
        )
    tiles = whole_numbers(table.num_spatial_parts)
    if len(tiles) not in (1, table.spatial_size) and table.spatial_size:
        raise OptionError(
            f"num_spatial_parts lists {len(tiles)} numbers for {table.spatial_size} tiled"
            " stages (spatial_size): give one for all or one for each"
        )
    if not table.spatial_size and (tiles != (4,) or table.slice_method != "square"):
        raise OptionError(
            "num_spatial_parts and slice_method have no tiled stage to cut (spatial_size 0)"
        )
    _check_slice_method(table.slice_method, tiles)
    tiled = sum(tiles) if len(tiles) > 1 else tiles[0] * table.spatial_size
    ranks = tiled + (table.split_size - table.spatial_size) * table.local_DP
    refuse_out_of_range("the number of ranks", ranks * table.replicas, 1, MOST_RANKS)
    if table.local_DP > 1 and table.spatial_size == table.split_size:
        raise OptionError(
            f"local_DP is {table.local_DP}, but all {table.split_size} stages are tiled: it"
            " is for untiled stages, so make spatial_size smaller"
        )


def _check_slice_method(method: str, tiles: Sequence[int]) -> None:
    """Refuse a slice method that suits no image, of any number of axes."""
    refusals = []
    for axes in (1, 2, 3):
        try:
            grid_of(method, tiles[0], axes)
        except ValueError as error:
            refusals.append(str(error))
    if len(refusals) == 3 and len(set(refusals)) == 1:  # the same for every number of axes
        raise OptionError(refusals[0])


def _check_batch(table: OptionTable) -> None:
    """Refuse a batch that is too small for its micro-batches."""
    if table.num_micro_batches > table.batch_size:
        turns = ""
        if table.num_micro_batches > table.parts:
            count = table.num_micro_batches // table.parts
            turns = f" in each of {count} turns (replicas, gems, times)"
        raise OptionError(
            f"{table.parts} parts{turns} of a batch of {table.batch_size}: a micro-batch needs"
            " an image"
        )
    refuse_out_of_range("the number of micro-batches", table.num_micro_batches, 1, MOST_BATCHES)


def _check_halos(table: OptionTable) -> None:
    """Refuse options of halos and patches that would have no effect, or cannot work."""
    if table.fused_layers != "all" and int(table.fused_layers) < 1:
        raise OptionError(f"fused_layers is {table.fused_layers}: use 1 or more, or all")
    for name in ("halo_D2", "allow_gather"):
        if getattr(table, name) and not table.spatial_size:
            raise OptionError(f"{name} has no tiled stage to serve (spatial_size 0)")
    if table.patches > 1 and table.spatial_size != 1:
        raise OptionError(
            f"patches is {table.patches}, which needs one tiled stage, but spatial_size is"
            f" {table.spatial_size}"
        )
    if table.patches > 1 and table.recompute_memory is not None:
        raise OptionError(
            f"patches is {table.patches}, and patches are always computed again in training:"
            " recompute_memory would have no effect, leave it out"
        )
    if table.patches > 1 and table.gems:
        raise OptionError(
            f"patches is {table.patches}, but with gems a rank is in two stages, of which one is"
            " not tiled: leave one of the two out"
        )


def _check_model(table: OptionTable) -> None:
    """Refuse an unknown built-in name, and options that only other networks have."""
    model, built_in = table.model, _built_in(table)
    if built_in and table.method != option_named("method").default:
        raise OptionError(
            f"method is {table.method}, but {model} has its forward alone: leave it out"
        )
    if built_in:
        try:
            models.checked_name(str(table.model))
        except ValueError as error:
            raise OptionError(str(error)) from None
    if table.num_classes != 10 and not built_in:
        raise OptionError("num_classes is for the built-in networks: leave it out")


def _built_in(table: OptionTable) -> bool:
    """Whether the model is one that spnb has by name."""
    model = table.model
    return isinstance(model, str) and ":" not in model and not is_program_file(model)


def _check_backend(table: OptionTable) -> None:
    """Refuse an unknown backend or device, and a backend that the device does not support."""
    for option in options():
        value, choices = getattr(table, option.name), option.metadata["choices"]
        if choices and value is not None and value not in choices:
            raise OptionError(f"unknown {option.name} {value!r}: use {', '.join(choices)}")
    if table.backend == "nccl" and table.device_kind == "cpu":
        raise OptionError(
            "the nccl backend carries tensors between GPUs, but device is cpu: leave backend out,"
            " or use mpi or gloo; on a machine with GPUs, add device cuda"
        )


def _check_int8(table: OptionTable) -> None:
    """Refuse int8 without what it needs, and its images without it."""
    if table.precision != INT8:
        if table.calibration is not None:
            raise OptionError("calibration is for precision int8: add it, or leave calibration out")
        return
    if table.calibration is None:
        raise OptionError(
            "precision int8 finds the range of every value on images: give some with calibration"
        )
    if table.device_kind != "cpu":
        raise OptionError("precision int8 is for CPUs, but device is cuda: use fp16 or bf16")
    if table.input_shapes is not None and len(table.input_shapes) > 1:
        raise OptionError(
            f"precision int8 is for networks of one image, but input_shapes has"
            f" {len(table.input_shapes)}: use another precision"
        )


def _check_training_options(table: OptionTable) -> None:
    """Refuse options of training that are out of range, or given for inference."""
    if table.app not in (1, 2, 3):
        raise OptionError(
            f"app is {table.app}: use 1 (an image folder), 2 (CIFAR-10) or 3 (synthetic)"
        )
    if table.app == 3 and table.datapath != option_named("datapath").default:
        raise OptionError("datapath is for app 1 and 2: synthetic examples are in no file")
    if table.normalize is not None:
        mean_and_std(table.normalize)
        if table.app == 3:
            raise OptionError("normalize is for app 1 and 2: synthetic examples are noise")
    for name in ("learning_rate", "weight_decay", "learning_rate_decay"):
        value = getattr(table, name)
        if not 0 <= value < float("inf"):
            raise OptionError(f"{name} is {value!r}, but must be a number, 0 or more")
    given = table.given()
    useless = [name for name in training_options(evaluation=False) if name in given]
    if table.enable_evaluation and useless:
        raise OptionError(f"{useless[0]} is for training, not for inference: leave it out")
