"""What a user asks to be done to an image before the network: a name, two numbers, a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import OptionError
from ..io.datasets.prepared import Normalized
from ..io.nodata import masked, nodata_of
from ..io.preprocessed import Preprocess, Preprocessed
from ..io.sources import Source
from ..ir.option_words import option
from ..job.parsing import mean_and_std

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


def first_preprocessed(
    opened: Mapping[str, Source],
    asked: Preprocessing | None,
    nodata: Nodata = "file",
    say: Callable[[str], None] = print,
) -> dict[str, Source]:
    """Return the inputs of a network, of which the first, its image, is preprocessed.

    Parameters
    ----------
    opened
        The inputs by name.
    asked
        As of `preprocessed`.
    nodata
        The number that is read as NaN; ``"file"`` is that of the image's file, if it names one, and
        None is no number.
    say
        Says in a line that a file's number is read so.
    """
    first = next(iter(opened))
    image = opened[first]
    number = nodata_of(image) if nodata == "file" else nodata
    if isinstance(number, str):
        raise OptionError(f"nodata is {number!r}: give a number, 'file' or None")
    if number is not None:
        image = masked(image, number)
        if nodata == "file":
            say(
                f"{image.name}: its number for nodata, {number:g}, is read as NaN;"
                f" {option('nodata', None)} reads it as a number"
            )
    return {**opened, first: preprocessed(image, asked)}
