"""The command line's flags, made from the one table of options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

from .. import benchmarking
from ..errors import CaptureError, DeviceError, OptionError, PlanError, WeightsError
from ..io.open import open_source
from ..io.writers import check_suffix
from ..ir.schedule import SCHEDULES
from ..job.options import Job, options
from ..job.parsing import PRECISIONS, blocks_fused
from ..job.validation import BACKENDS, RECIPE
from ..kernels.devices import DEVICES
from ..training.recipe import OPTIMIZERS

BAD_INPUT = (
    OptionError,
    PlanError,
    CaptureError,
    WeightsError,
    DeviceError,
    FileNotFoundError,
    ValueError,
)
"""What a line that asks for the impossible raises; the message says all there is to say."""


def flag(option: dataclasses.Field) -> str:
    """An option's flag on the command line.

    >>> [flag(o) for o in options()][:3]
    ['--batch-size', '--parts', '--split-size']
    """
    return "--" + option.name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser every option of the table; absent flags are absent from its result."""
    for option in options():
        read, names = option.metadata["read"], [flag(option)]
        if option.name == "verbose":
            names.append("-v")
        text = option.metadata["help"]
        if read is bool:
            parser.add_argument(
                *names, help=text, action="store_true", dest=option.name, default=argparse.SUPPRESS
            )
            continue
        if option.default is not None:
            text += f" (default: {option.default})"
        parser.add_argument(
            *names,
            help=text,
            dest=option.name,
            default=argparse.SUPPRESS,
            type=_reader(option),
            metavar=option.metadata["metavar"] or option.name.upper(),
        )


def add_image(parser: argparse.ArgumentParser) -> None:
    """Give a parser ``--image``, which brings its own size."""
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        action="append",
        help="PNG, JPEG, TIFF, npy or zarr file, or a sample such as retina (default: synthetic);"
        " sets --image-size, and --batch-size 1, where these are not given; a picture of"
        " another size is resized; given once for each input of the network",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser what is asked of a run."""
    parser.add_argument("--check", action="store_true", help="compare with the untiled run")
    parser.add_argument(
        "--save-output",
        metavar="FILE",
        type=_output,
        help="write the output as npy, tif or zarr, each rank its own tile",
    )


def add_measuring_flags(parser: argparse.ArgumentParser, verb: str) -> None:
    """Give a parser what is asked of a verb that measures."""

    def listed(
        name: str, default: Sequence[int], text: str, read: Callable[[str], Any] = int
    ) -> None:
        shown = ",".join(map(str, default))
        parser.add_argument(
            name, type=_listed(read), default=list(default), metavar="N[,N]",
            help=f"{text} (default: {shown})",
        )  # fmt: skip

    if verb in ("bench", "suite"):
        parser.add_argument(
            "--baselines",
            metavar="NAME[,NAME]",
            type=_names,
            help="plain, tuned, compiled, onnxruntime, openvino (default: all that are installed)",
        )
    if verb == "suite":
        parser.add_argument(
            "--workloads",
            metavar="NAME[,NAME]",
            type=_names,
            default=list(benchmarking.WORKLOADS),
            help=f"built-in networks (default: {','.join(benchmarking.WORKLOADS)})",
        )
        listed("--sizes", benchmarking.SIZES, "sizes of square images")
        listed("--tiles", benchmarking.TILES, "numbers of tiles")
    if verb == "sweep":
        text = "fused blocks, or all; 0: before each window operator"
        listed("--lengths", benchmarking.LENGTHS, text, blocks_fused)
        listed("--tiles", benchmarking.LENGTH_TILES, "numbers of tiles")
    if verb == "halo":
        listed("--sizes", benchmarking.HALO_SIZES, "sizes of square images")
        listed("--halos", benchmarking.HALOS, "positions that a tile grows on each side")
        listed("--tiles", benchmarking.TILES, "numbers of tiles")
        parser.add_argument(
            "--slice-method", default="square", metavar="METHOD", help="as for plan"
        )
        parser.add_argument("--channels", type=int, default=64, metavar="N", help="(default: 64)")
        parser.add_argument("--repeats", type=int, default=50, metavar="N", help="(default: 50)")
    else:
        parser.add_argument(
            "--rounds", type=int, default=5, metavar="N", help="steps of each (default: 5)"
        )


def _names(text: str) -> list[str]:
    return text.split(",")


def _listed(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def numbers(text: str) -> list[Any]:
        try:
            return [read(n) for n in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers") from None

    return numbers


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the table that a line gives."""
    names = {option.name for option in options()}
    return {name: value for name, value in vars(args).items() if name in names}


def refuse_useless(verb: str, given: Collection[str]) -> None:
    """Refuse options of the table that a verb has no use for.

    Raises
    ------
    OptionError
        Naming the first of them.
    """
    for name in given:
        if verb in ("infer", "bench", "sweep") and name in RECIPE:
            raise OptionError(f"{name} is for training: {verb} does without it")
        if verb in ("bench", "sweep") and name == "verbose":
            raise OptionError(f"verbose is for plan, infer and train: {verb} does without it")
        if verb == "sweep" and name in ("num_spatial_parts", "halo_D2", "fused_layers"):
            raise OptionError(f"{name} is what sweep tries: give --tiles and --lengths")


def job_of(model: Any, given: dict[str, Any], images: Sequence[Any] = ()) -> Job:
    """A job from what a line gives; an image brings its size where none is given."""
    given = dict(given)
    if images and "input_shapes" not in given:
        given.setdefault("batch_size", 1)
    job = Job(model, **given)
    if images and not {"image_size", "input_shapes"} & given.keys():
        size = open_source(images[0], channels=job.input_shape[1]).shape[2:]
        job = dataclasses.replace(job, image_size=size)
    return job


def choices(name: str) -> tuple[str, ...]:
    """Values that an option can have, where they are few: for completion.

    >>> choices("slice_method")
    ('square', 'vertical', 'horizontal')
    """
    known = {
        "slice_method": ("square", "vertical", "horizontal"),
        "precision": tuple(PRECISIONS),
        "backend": BACKENDS,
        "device": DEVICES,
        "optimizer": tuple(OPTIMIZERS),
        "schedule": tuple(SCHEDULES),
        "fused_layers": ("1", "2", "4", "all"),
    }
    return known.get(name, ())


def _output(text: str) -> str:
    try:
        check_suffix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _reader(option: dataclasses.Field) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.metadata["read"](text)
        except ValueError as error:
            reason = str(error) if isinstance(error, OptionError) else f"cannot read {text!r}"
            raise argparse.ArgumentTypeError(reason) from None

    return read
