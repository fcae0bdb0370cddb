"""Reads values of options, in the spelling of a command line or as Python objects.

PyTorch is not imported here: the command line refuses a wrong value before it loads it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..ir.link import SlowLink

INT8 = "int8"
PRECISIONS = ("fp32", "fp64", "fp16", "bf16", INT8)
_SPELLINGS = {
    "float": "fp32",
    "float32": "fp32",
    "double": "fp64",
    "float64": "fp64",
    "half": "fp16",
    "float16": "fp16",
    "bfp16": "bf16",
    "bfloat16": "bf16",
}


def whole_numbers(text: int | str | Sequence[int], separator: str = ",") -> tuple[int, ...]:
    """Read ``"4,2"``, ``4`` or ``(4, 2)``.

    >>> whole_numbers("1411x1411", "x"), whole_numbers(4)
    ((1411, 1411), (4,))
    """
    if isinstance(text, str):
        return tuple(int(part) for part in text.lower().replace("×", "x").split(separator))
    if not isinstance(text, Sequence):
        return (operator.index(text),)
    return tuple(int(n) if isinstance(n, str) else operator.index(n) for n in text)


def one_or_more(text: int | str | Sequence[int], separator: str = ",") -> int | tuple[int, ...]:
    """Read as `whole_numbers` does; a single one is itself.

    >>> one_or_more("4,2"), one_or_more((4,))
    ((4, 2), 4)
    """
    found = whole_numbers(text, separator)
    return found[0] if len(found) == 1 else found


def shapes(value: str | Sequence | Mapping) -> tuple | dict:
    """Read ``"1x3x64x64,1x7"``, a list of shapes, or a dict of them by argument name.

    >>> shapes("1x3x64x64,1x7")
    ((1, 3, 64, 64), (1, 7))
    """
    if isinstance(value, Mapping):
        return {str(name): whole_numbers(shape, "x") for name, shape in value.items()}
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(whole_numbers(shape, "x") for shape in parts)


_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def size_in_bytes(text: int | str) -> int:
    """Read a size in memory: a number of bytes, or a text with a unit.

    Raises
    ------
    OptionError
        If it is none, or no byte.

    Examples
    --------
    >>> size_in_bytes("2GiB"), size_in_bytes("1.5 MB"), size_in_bytes(4096)
    (2147483648, 1500000, 4096)
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    try:
        number, unit, binary = found.groups() if found else ("", "", "")
        size = int(float(number) * (1024 if binary else 1000) ** _UNITS[unit])
    except ValueError:
        size = 0
    if size < 1:
        raise OptionError(f"cannot read the size {text!r}: give bytes, or a text such as 2GiB")
    return size


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def link_of(text: str) -> SlowLink:
    """Read the latency and the bandwidth of a link.

    Raises
    ------
    OptionError
        If it is none.

    Examples
    --------
    >>> link_of("5ms,200Mbit")
    SlowLink(latency=0.005, bandwidth=25000000.0)
    """
    form = r"\s*([0-9.]+)\s*(s|ms|us|µs)\s*,\s*([0-9.]+)\s*([kmg]?)(bit|b)(?:/s)?\s*"
    found = re.fullmatch(form, str(text).lower())
    try:
        latency, unit, size, prefix, kind = found.groups() if found else ("", "", "", "", "")
        bytes_each = (1 / 8 if kind == "bit" else 1.0) * 1000 ** _UNITS[prefix]
        link = SlowLink(float(latency) * _SECONDS[unit], float(size) * bytes_each)
    except (ValueError, KeyError):
        link = SlowLink(0.0, 0.0)
    if link.bandwidth <= 0:
        raise OptionError(
            f"cannot read slow_link {text!r}: give a latency and a bandwidth, such as 5ms,200Mbit"
            " or 100us,1GB"
        )
    return link


def link_text(text: str) -> str:
    """The text of a link, if it can be read."""
    link_of(text)
    return text


def is_program_file(model: str) -> bool:
    """Whether a model is the path of a file of ``torch.export.save``.

    >>> is_program_file("nets/denoiser.pt2"), is_program_file("resnet")
    (True, False)
    """
    return model.endswith(".pt2")


def precision(text: str) -> str:
    """The name in `PRECISIONS` that a spelling stands for.

    >>> precision("fp_16"), precision("bfp16"), precision("torch.float64")
    ('fp16', 'bf16', 'fp64')
    """
    name = str(text).lower().removeprefix("torch.").replace("_", "")
    name = _SPELLINGS.get(name, name)
    if name not in PRECISIONS:
        raise OptionError(f"unknown precision {text!r}: use {', '.join(PRECISIONS)}")
    return name


class GivenArray:
    """An image in memory, as the value of an option: two are equal if they are the same array."""

    def __init__(self, array: Any):
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GivenArray) and self.array is other.array

    def __hash__(self) -> int:
        return id(self.array)

    def __repr__(self) -> str:
        return f"array{tuple(self.array.shape)}"


def images(given: Any) -> tuple[Any, ...]:
    """Read ``"a.png,b.png"``, a path, an array, or a list of paths and arrays.

    >>> images("a.png,b.png"), images([Path("a.npy")])
    (('a.png', 'b.png'), ('a.npy',))
    """
    given = given.split(",") if isinstance(given, str) else given
    listed = given if isinstance(given, (list, tuple)) else [given]
    found = tuple(str(each) if isinstance(each, (str, Path)) else _array(each) for each in listed)
    if not found or "" in found:
        raise OptionError("calibration names no image: give a path, an array, or a list of these")
    return found


def _array(given: Any) -> GivenArray:
    if isinstance(given, GivenArray):
        return given
    if not hasattr(given, "shape"):
        raise OptionError(f"calibration has {given!r} in it: give paths and arrays")
    return GivenArray(given)


NORMALIZATIONS = {
    "benchmark": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation by name: of the OSU benchmarks, and of ImageNet's training images."""


def mean_and_std(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read ``"0.5,0.2"``, ``"0.4/0.5/0.6,0.2/0.2/0.2"`` for three channels, or a name.

    Raises
    ------
    OptionError
        If it is none of these, or a standard deviation is not above 0.

    Examples
    --------
    >>> mean_and_std("0.5,0.2"), mean_and_std("benchmark")
    (((0.5,), (0.2,)), ((0.5,), (0.5,)))
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        mean, std = (tuple(map(float, part.split("/"))) for part in text.split(","))
    except ValueError:
        names = ", ".join(NORMALIZATIONS)
        raise OptionError(
            f"cannot read normalize {text!r}: give MEAN,STD such as 0.5,0.5, with one number or"
            f" one for each channel (0.4/0.5/0.6,0.2/0.2/0.2), or {names}"
        ) from None
    if min(std) <= 0:
        raise OptionError(f"normalize is {text}, but a standard deviation must be above 0")
    return mean, std


def taken(name: str, value: Any, read: Callable[[Any], Any], default: Any) -> Any:
    """Return the value of an option, read and checked for its kind.

    Parameters
    ----------
    name
        Name of the option, for the message.
    value
        The value, in the spelling of a command line or as a Python object.
    read
        ``int``, ``float``, ``bool`` or ``str``, or a function that reads the value.
    default
        The option's default.  If it is None, a value of None is accepted.

    Raises
    ------
    OptionError
        If the value is of another kind.
    """
    if value is None and default is None:
        return None
    if read in (int, bool, float):
        return number(name, value, read)
    if read is str:
        if not isinstance(value, (str, Path)):
            raise OptionError(f"{name} must be a text, not {value!r}")
        return value
    try:
        found = read(value)
    except OptionError:
        raise
    except (ValueError, TypeError):
        found = ()
    if found == ():
        raise OptionError(f"cannot read {name} {value!r}: give whole numbers")
    return found


def refuse_out_of_range(name: str, value: Any, least: int | None, most: int | None) -> None:
    """Refuse a number that is too small or too large.

    Parameters
    ----------
    name
        Name of the option, for the message.
    value
        A number, or several; a word, as ``"all"``, is in no range.
    least, most
        The smallest and the largest number that is accepted, if there is one.

    Raises
    ------
    OptionError
        With the value and the bound.

    Examples
    --------
    >>> refuse_out_of_range("parts", 10**12, 1, 4096)
    Traceback (most recent call last):
    spnb.errors.OptionError: parts is 1000000000000, but must be at most 4,096
    """
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, str):
            continue
        if least is not None and each < least:
            wanted = f"{least} or more" if least == 0 else f"at least {least}"
            raise OptionError(f"{name} is {_shown(each)}, but must be {wanted}")
        if most is not None and each > most:
            raise OptionError(f"{name} is {_shown(each)}, but must be at most {most:,}")


def _shown(value: Any) -> str:
    """A number in digits, unless it has too many of them."""
    return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"


def number(name: str, value: Any, kind: type) -> int | float | bool:
    """Return a number of any library, NumPy or PyTorch for instance, as one of Python's own.

    >>> import torch
    >>> number("learning_rate", torch.tensor(0.5), float), number("parts", 2, int)
    (0.5, 2)
    """
    wanted = {float: "a number", int: "a whole number", bool: "True or False"}[kind]
    try:
        if isinstance(value, str) or (kind is int and isinstance(value, bool)):
            raise TypeError
        found = float(value) if kind is float else operator.index(value)
        if kind is bool and found not in (0, 1):
            raise ValueError
        return kind(found)
    except (TypeError, ValueError):
        raise OptionError(f"{name} must be {wanted}, not {value!r}") from None
    except OverflowError:
        raise OptionError(f"{name} is {_shown(value)}: it must be smaller") from None


def blocks_fused(text: int | str) -> int | str:
    """Return a number of blocks, or ``"all"``."""
    if isinstance(text, str):
        return "all" if text == "all" else int(text)
    return operator.index(text)
