"""The command line's flags, made from the one table of options.

PyTorch is not imported here: wrong flags and values are refused before it is loaded.  The module is
longer than 300 lines since every flag that is no option of a job stands here, with its help text.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from ..driver.launch.placement import LAUNCHERS, OF_PLACEMENT, Placement
from ..errors import CaptureError, DeviceError, OptionError, PlanError, WeightsError
from ..io.writing.formats import check_suffix
from ..job.names import FUSE, own_names
from ..job.options import OptionTable, option_named, options, training_options
from ..job.parsing import mean_and_std
from ..job.validation import check, check_training, without_effect

BAD_INPUT = (
    OptionError,
    PlanError,
    CaptureError,
    WeightsError,
    DeviceError,
    FileNotFoundError,
    FileExistsError,
    ValueError,
)
"""Errors in a user's input; their message is shown, without a traceback."""


def flag(option: dataclasses.Field) -> str:
    """An option's flag on the command line.

    >>> [flag(o) for o in options()][:3]
    ['--batch-size', '--parts', '--split-size']
    """
    return "--" + option.name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, taken: Collection[str] = ()) -> None:
    """Add every option of the table to a parser, by all of its names.

    The parsed namespace has only the options that the line gives.

    Parameters
    ----------
    parser
        The parser.
    taken
        Flags that mean something else there.
    """
    for option in options():
        read, names = option.metadata["read"], [flag(option)]
        other = option.metadata["other"]
        if other and other != FUSE and (also := "--" + other.replace("_", "-")) not in taken:
            names.append(also)
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
    parser.add_argument(
        f"--{FUSE}",
        help="--halo-D2 --fused-layers N, in one flag; 0 for neither",
        default=argparse.SUPPRESS,
        type=_reader(option_named("fused_layers")),
        metavar="N",
    )


def add_image(parser: argparse.ArgumentParser) -> None:
    """Add ``--image`` to a parser."""
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        action="append",
        help="PNG, JPEG, TIFF, npy or zarr file, or a sample such as retina (default: a synthetic"
        " image). --image-size is then the image's size, and --batch-size its number of images,"
        " unless they are given; an image of another size is refused, or resized with --resize."
        " Give --image once for each input of the network",
    )


def add_skip(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip`` to a parser."""
    parser.add_argument(
        "--skip",
        metavar="BACKGROUND",
        type=_skip,
        help="what is background, so that patches that see nothing else have one answer, which is"
        " computed once: a number of the file (255), a limit ('>=230', '<=5'), or a mask and a"
        " number (mask.png,255)",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a run to a parser."""
    parser.add_argument(
        "--preprocess",
        metavar="MEAN,STD",
        type=_mean_and_std,
        help="subtract a mean from the image, and divide by a standard deviation: imagenet,"
        " benchmark (0.5,0.5), or numbers as of --normalize. Unsigned integers are in [0, 1] then",
    )
    parser.add_argument(
        "--nodata",
        metavar="NUMBER",
        type=_nodata,
        default="file",
        help="the number of the image's file that stands for nodata: it is read as NaN. file (the"
        " default) is that of a GeoTIFF's tag; none reads all numbers as they are",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the output with that of the untiled network"
    )
    parser.add_argument(
        "--save-output",
        metavar="FILE",
        type=_output,
        help="write the output to an npy, tif, zarr or png file; each rank writes its own tile",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="with --save-output: replace the array that is there; anything else is never replaced",
    )
    parser.add_argument(
        "--gather-output",
        action="store_true",
        help="with --save-output: one process writes the output of all ranks, for a folder that"
        " other hosts do not see",
    )


def add_placement_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where ranks are started to a parser."""
    group = parser.add_argument_group("where ranks are started")
    kinds = "; ".join(f"{name}: {what}" for name, what in LAUNCHERS.items())
    group.add_argument(
        "--launcher",
        choices=tuple(LAUNCHERS),
        default=argparse.SUPPRESS,
        help=f"what starts the ranks ({kinds})",
    )
    for name, metavar, read, text in (
        ("nodes", "N", int, "with --launcher slurm: number of nodes (default: as Slurm chooses)"),
        ("partition", "NAME", str, "with --launcher slurm: the partition"),
        ("time", "LIMIT", str, "with --launcher slurm: the job's time limit, such as 1:30:00"),
        ("hosts", "A,B:2", str, "with --launcher ssh or mpiexec: hosts, and ranks on each"),
        ("hostfile", "FILE", str, "the same, one host in a line"),
    ):
        group.add_argument(
            f"--{name}", metavar=metavar, type=read, default=argparse.SUPPRESS, help=text
        )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add ``--dry-run`` to a parser."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the command, or the batch job, that would start the ranks; start none",
    )


def placement(args: argparse.Namespace) -> Placement:
    """Where a line starts ranks.

    Raises
    ------
    OptionError
        If its flags do not fit each other.
    """
    return Placement.of({name: vars(args)[name] for name in OF_PLACEMENT if name in args})


def check_output(args: argparse.Namespace) -> None:
    """Refuse to overwrite or gather no output.

    Raises
    ------
    OptionError
        With a way out.
    """
    for name in ("overwrite", "gather_output"):
        if getattr(args, name) and args.save_output is None:
            raise OptionError(f"{name} is for a saved output: give --save-output too")


def add_validation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a validation during training to a parser."""
    parser.add_argument(
        "--validation",
        metavar="SHARE|DIR",
        type=_share_or_folder,
        help="evaluate after each epoch, and keep the weights of the epoch with the smallest loss."
        " A number such as 0.2 leaves this share of the images out of the training; a folder has"
        " other images, in the form of --datapath (of CIFAR-10, its test images)",
    )
    parser.add_argument(
        "--patience",
        metavar="N",
        type=int,
        help="with --validation: training ends after so many epochs without a smaller loss",
    )


def check_validation(validation: float | str | None, patience: int | None) -> None:
    """Refuse a patience without a validation, or of no epoch.

    Raises
    ------
    OptionError
        With a way out.
    """
    if patience is not None and validation is None:
        raise OptionError("patience counts epochs of a validation: give --validation too")
    if patience is not None and patience < 1:
        raise OptionError(f"patience is {patience}, but must be 1 or more epochs")


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the table that a line gives, by name."""
    names = {FUSE, *(option.name for option in options())}
    return own_names({name: value for name, value in vars(args).items() if name in names})


def deadline(args: argparse.Namespace) -> int:
    """The seconds after which a line calls a rank one that does not answer.

    Every rank of a launcher asks for it, before rank 0 has read the other options.
    """
    return given(args).get("deadline", option_named("deadline").default)


def effective(model: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of a line that have an effect, and a line of text for each of the others.

    Lines that are pasted from the benchmarks' scripts have such flags, which are ignored there.

    >>> effective("resnet", {"parts": 2, "num_layers": 3})
    ({'parts': 2}, ['--num-layers has no effect: num_layers is for amoebanet: leave it out'])
    """
    useless = without_effect(OptionTable(model, **given))
    kept = {name: value for name, value in given.items() if name not in useless}
    names = {name: flag(option_named(name)) for name in useless}
    return kept, [f"{names[name]} has no effect: {why}" for name, why in useless.items()]


NOT_TIMED = ("app", "datapath", "normalize", "num_workers", "num_epochs", "learning_rate_decay")
"""Options of training that have no effect on a single step over synthetic images."""


def refuse_useless(verb: str, given: Collection[str], *, training: bool = False) -> None:
    """Refuse options of the table that a verb does not use.

    Parameters
    ----------
    verb
        A verb of the command line.
    given
        Names of the options that the line gives.
    training
        Whether a benchmark is one of training.

    Raises
    ------
    OptionError
        Naming the first of them.
    """
    not_used = []
    of_both = verb in ("bench", "tune")  # of inference, or of training
    if verb in ("infer", "evaluate", "sweep") or (of_both and not training):
        not_used = training_options(evaluation=verb != "evaluate")
    for name in given:
        if name in not_used:
            way_out = ", without --training" if of_both else ""
            raise OptionError(f"{name} is for training: {verb} does not use it{way_out}")
        if verb == "bench" and training and name in NOT_TIMED:
            raise OptionError(f"{name} is for train: {verb} --training times steps over noise")
        if verb in ("bench", "sweep", "tune") and name in ("verbose", "resize"):
            raise OptionError(f"{name} is for plan, infer and train: {verb} does not use it")
        if verb == "sweep" and name in ("num_spatial_parts", "halo_D2", "fused_layers"):
            raise OptionError(f"{name} is what sweep tries: give --tiles and --lengths")


def check_options(verb: str, model: str, given: dict[str, Any], *, training: bool = False) -> None:
    """Refuse options that a verb cannot use or that contradict each other.

    Errors that depend on the network or the plan are found later.

    Parameters
    ----------
    verb
        A verb of the command line.
    model
        Name of the model.
    given
        The options of the line, by name.
    training
        Whether a benchmark is one of training.

    Raises
    ------
    OptionError
        Naming the option.
    """
    given, _ = effective(model, given)
    refuse_useless(verb, given, training=training)
    table = OptionTable(model, **given)
    check(table)
    if verb == "train" or training:
        check_training(table)


def choices(name: str) -> tuple[str, ...]:
    """Return values of an option for completion; none if there are too many.

    >>> choices("slice_method")
    ('square', 'vertical', 'horizontal')
    """
    known = {option.name for option in options()}
    return option_named(name).metadata["suggestions"] if name in known else ()


def _output(text: str) -> str:
    try:
        check_suffix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _nodata(text: str) -> float | str | None:
    if text in ("none", "file"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: give one, file or none") from None


def _skip(text: str) -> str | tuple[str, float]:
    mask, comma, number = text.rpartition(",")
    try:
        return (mask, float(number)) if comma else text
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} does not end in a number: give a mask and a number, as mask.png,255"
        ) from None


def _mean_and_std(text: str) -> str:
    try:
        mean_and_std(text)
    except OptionError as error:
        reason = str(error).replace("normalize ", "")
        raise argparse.ArgumentTypeError(reason) from None
    return text


def _share_or_folder(text: str) -> float | str:
    """A share of the examples, or the name of a folder."""
    try:
        share = float(text)
    except ValueError:
        return text
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is no share between 0 and 1; write a folder of this name as ./{text}"
        )
    return share


def _reader(option: dataclasses.Field) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.metadata["read"](text)
        except ValueError as error:
            reason = str(error) if isinstance(error, OptionError) else f"cannot read {text!r}"
            raise argparse.ArgumentTypeError(reason) from None

    return read
