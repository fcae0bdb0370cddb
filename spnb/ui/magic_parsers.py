"""The parsers of ``%spnb``: they raise an error where argparse would end the kernel's process."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from IPython.core.error import UsageError

from ..training.losses import LOSSES
from . import flags

AddFlags = Callable[[argparse.ArgumentParser], None]
"""Adds the flags of a verb to its parser."""


class MagicParser(argparse.ArgumentParser):
    """Raises an error of one line; argparse itself would end the process, the kernel."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown(message or "")


class HelpShown(Exception):
    """Raised by ``--help``, with the help text; the line does nothing else."""


class Help(argparse.Action):
    """Ends the parsing and carries the help text."""

    def __init__(self, option_strings: list[str], dest: str, help: str):
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise HelpShown(parser.format_help())


class Pair(argparse.Action):
    """Takes two names, or none."""

    def __call__(
        self, parser: argparse.ArgumentParser, space: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        if len(values) not in (0, 2):
            parser.error(f"give images and targets, or neither: not {len(values)} names")
        setattr(space, self.dest, values or None)


def no_flags(parser: argparse.ArgumentParser) -> None:
    """Add nothing: for a verb without flags."""


def job_flags(parser: argparse.ArgumentParser) -> None:
    """Add a model and the options of a job."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a built-in name, package.module:factory or a variable (default: the last plan's)",
    )
    flags.add_flags(parser)
    flags.add_image(parser)


def infer_flags(parser: argparse.ArgumentParser) -> None:
    """Add the images and the flags of a run."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="a file, sample or variable")
    flags.add_image(parser)
    flags.add_skip(parser)
    flags.add_run_flags(parser)


def train_flags(parser: argparse.ArgumentParser) -> None:
    """Add images and targets, the loss, the validation, and the options of a job."""
    evaluation_flags(parser)
    flags.add_validation_flags(parser)
    flags.add_flags(parser)


def evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """Add images and targets, and the loss."""
    parser.add_argument(
        "examples", metavar="IMAGES TARGETS", nargs="*", action=Pair, help="files or variables"
    )
    parser.add_argument(
        "--loss",
        choices=tuple(LOSSES),
        help="loss function (default: cross_entropy for class numbers, mse for other targets)",
    )


def placement_flags(parser: argparse.ArgumentParser) -> None:
    """Add where engines are started."""
    flags.add_placement_flags(parser)
    flags.add_dry_run(parser)


def file_flag(parser: argparse.ArgumentParser) -> None:
    """Add the file of a trace."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="trace.json")


def image_flag(parser: argparse.ArgumentParser) -> None:
    """Add the image and the stage of a picture of tiles."""
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="a file, sample or variable")
    parser.add_argument("--stage", type=int, help="a tiled stage (default: all)")


def rank_flags(parser: argparse.ArgumentParser) -> None:
    """Add the image, the rank and the layer of a picture of a halo."""
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="a file, sample or variable")
    parser.add_argument("--rank", type=int, help="the rank that needs the halo (default: 0)")
    parser.add_argument(
        "--layer",
        help="the halo of this layer's result is drawn (default: the widest halo)",
    )
