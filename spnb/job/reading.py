"""How an image is read: what is done to it before the network, what is nodata or background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import OptionError
from ..io.datasets.prepared import Normalized
from ..io.nodata import masked, nodata_of
from ..io.preprocessed import Preprocess, Preprocessed
from ..io.sources import Source
from ..ir.option_words import option
from .parsing import mean_and_std
from .skipping import Skip, with_background

Numbers = float | Sequence[float]
Nodata = float | str | None
"""The number that is read as NaN; ``"file"`` for that of the file, None for none."""

Preprocessing = str | tuple[Numbers, Numbers] | Preprocess


def preprocessed(source: Source, asked: Preprocessing | None) -> Source:
    """Return an image as it is preprocessed, which each rank does on its region.

    Parameters
    ----------
    source
        The image.
    asked
        A name or numbers as of the option ``normalize``, a mean and a standard deviation, or a
        function; see `spnb.driver.session.Session.infer`.

    Raises
    ------
    OptionError
        If it is none of these.
    ValueError
        If tiles cannot do it.

    Examples
    --------
    >>> from spnb.io.sources import SyntheticSource
    >>> image = SyntheticSource((1, 3, 8, 8))
    >>> preprocessed(image, "imagenet").std
    (0.229, 0.224, 0.225)
    >>> preprocessed(image, (0.5, (0.2, 0.3, 0.4))).mean
    (0.5,)
    """
    if asked is None:
        return source
    if isinstance(asked, str):
        return Normalized(source, *mean_and_std(asked))
    if callable(asked):
        return Preprocessed(source, asked)
    try:
        mean, std = (tuple(map(float, np.atleast_1d(part))) for part in asked)
    except (TypeError, ValueError):
        raise OptionError(
            f"preprocess is {asked!r}: give imagenet, (mean, std), or a function of an array"
            " (batch, channels, *spatial)"
        ) from None
    if min(std) <= 0:
        raise OptionError(f"preprocess has a standard deviation of {min(std)}: it must be above 0")
    return Normalized(source, mean, std)


@dataclass(frozen=True)
class Reading:
    """How the image of a run, a network's first input, is read; see `Session.infer`.

    Attributes
    ----------
    preprocess
        As of `preprocessed`.
    nodata
        The number that is read as NaN; ``"file"`` is that of the image's file, if it names one, and
        None is no number.
    skip
        What is background, of which patches have one answer.
    """

    preprocess: Preprocessing | None = None
    nodata: Nodata = "file"
    skip: Skip = None


def read_so(stored: Source, reading: Reading, say: Callable[[str], None] = print) -> Source:
    """Return an image as the network reads it.

    Parameters
    ----------
    stored
        The image, not changed yet.
    reading
        How it is read.
    say
        Says in a line that a file's number for nodata is read as NaN.

    Raises
    ------
    OptionError, ValueError
        If it cannot be read so.
    """
    read, number = stored, reading.nodata
    number = nodata_of(stored) if number == "file" else number
    if isinstance(number, str):
        raise OptionError(f"nodata is {number!r}: give a number, 'file' or None")
    if number is not None:
        read = masked(stored, number)
        if reading.nodata == "file":
            say(
                f"{stored.name}: its number for nodata, {number:g}, is read as NaN;"
                f" {option('nodata', None)} reads it as a number"
            )
    act = partial(preprocessed, asked=reading.preprocess)
    return with_background(stored, read, act, reading.skip)
