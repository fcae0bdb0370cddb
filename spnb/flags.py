"""The command line's flags, made from the one table of options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from .options import options
from .values import OptionError


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


def _reader(option: dataclasses.Field) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.metadata["read"](text)
        except ValueError as error:
            reason = str(error) if isinstance(error, OptionError) else f"cannot read {text!r}"
            raise argparse.ArgumentTypeError(reason) from None

    return read
