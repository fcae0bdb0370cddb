"""Layouts of stored arrays: which axis is the batch, the channels, or an axis of space.

A layout is a text with a letter for each axis of the array: ``B`` batch, ``C`` channels, ``A``
channels with an alpha at their end, which is dropped, ``S`` space, ``-`` an axis of one element,
which is dropped.  An empty layout stands for ``(batch, channels, *spatial)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def batched(array: np.ndarray, layout: str) -> np.ndarray:
    """Return an array as ``(batch, channels, *spatial)``; no element is copied.

    >>> batched(np.zeros((7, 9, 4)), "SSA").shape, batched(np.zeros((5, 1, 7, 9)), "C-SS").shape
    ((1, 3, 7, 9), (1, 5, 7, 9))
    """
    if not layout:
        return array
    array = array[tuple(0 if letter == "-" else slice(None) for letter in layout)]
    letters = layout.replace("-", "")
    if "A" in letters:
        array = np.moveaxis(array, letters.index("A"), -1)[..., :-1]
        letters = letters.replace("A", "") + "C"
    order = [k for role in "BCS" for k, letter in enumerate(letters) if letter == role]
    array = array.transpose(order)
    if "C" not in letters:
        array = np.expand_dims(array, "B" in letters)
    return array if "B" in letters else array[None]


def stored_index(layout: str, batch: slice, box: Sequence[slice]) -> tuple[slice, ...]:
    """Return the part of a stored array that a region needs; no axis is dropped yet.

    >>> stored_index("-CSS", slice(0, 1), [slice(2, 4), slice(5, 9)])
    (slice(0, 1, None), slice(None, None, None), slice(2, 4, None), slice(5, 9, None))
    """
    found, spatial = [], iter(box)
    for letter in layout:
        if letter == "S":
            found.append(next(spatial))
        else:
            found.append({"B": batch, "-": slice(0, 1)}.get(letter, slice(None)))
    return tuple(found)


def layout_of(
    shape: Sequence[int],
    channels: int,
    size: Sequence[int] | None,
    space: int,
    name: str,
) -> str:
    """Return the layout of an array without names of axes.

    Parameters
    ----------
    shape
        Shape of the array.
    channels
        Number of channels wanted.
    size
        Spatial size wanted, if any.
    space
        Number of spatial axes.
    name
        Name of the array, for messages.

    Raises
    ------
    ValueError
        If the array has one axis besides space, and neither its first nor its last axis can be the
        channels, or both can.

    Examples
    --------
    >>> layout_of((97, 131, 3), 3, None, 2, "a"), layout_of((1, 3, 1, 97, 131), 3, None, 2, "a")
    ('SSC', '-C-SS')
    """
    further = len(shape) - space
    if further == 0:
        return "S" * space
    if further > 2:
        return _without_unit_axes(shape, channels, space)
    if further != 1:
        return ""
    alpha = channels == 3 and shape[-1] == 4
    first, last = "C" + "S" * space, "S" * space + "C"
    fits = [first] * (shape[0] in (1, channels))
    fits += [last] * (shape[-1] in (1, channels)) + ["S" * space + "A"] * alpha
    if len(fits) == 2 and size is not None:
        own = {first: tuple(shape[1:])}
        leaves_size = [fit for fit in fits if own.get(fit, tuple(shape[:-1])) == tuple(size)]
        fits = leaves_size or fits
    if len(fits) != 1:
        raise ValueError(
            f"{name} has shape {tuple(shape)}: {'both' if fits else 'neither'} its first axis"
            f" {'and' if fits else 'nor'} its last may be the {channels} channels asked for:"
            " give it as (batch, channels, *spatial), or ask for the channels that it has"
        )
    return fits[0]


def _without_unit_axes(shape: Sequence[int], channels: int, space: int) -> str:
    """Return the layout of an array of many axes; axes of one element are dropped."""
    leading = shape[: len(shape) - space]
    left = [k for k, n in enumerate(leading) if n > 1]
    if len(left) == 2 and leading[left[1]] == channels:
        roles = dict(zip(left, "BC", strict=True))
    elif len(left) == 1 and leading[left[0]] == channels:
        roles = {left[0]: "C"}
    elif len(left) == 1 and channels == 1:
        roles = {left[0]: "B"}
    elif not left:
        roles = {}
    else:
        return ""
    return "".join(roles.get(k, "-") for k in range(len(leading))) + "S" * space


def named_layout(
    axes: str,
    shape: Sequence[int],
    channels: int | None,
    size: Sequence[int] | None,
    space: int,
    name: str,
) -> str:
    """Return the layout of an array with names of axes.

    ``C`` and ``S`` (samples of a pixel) are channels, ``X``, ``Y`` and, for volumes, ``Z`` are
    space.  Of the others (pages, slices, times), one is the depth if volumes are asked for, one is
    the channels if it has their number, and one is the batch.  Axes of one element are dropped.
    ``C`` is one of the others where samples are the channels, and where it must be the depth.

    Parameters
    ----------
    axes
        A letter for each axis, as in tifffile and OME.
    shape
        Shape of the array.
    channels
        Number of channels wanted, if that is known.
    size
        Spatial size wanted, if any.
    space
        Number of spatial axes, 2 or 3.
    name
        Name of the array, for messages.

    Raises
    ------
    ValueError
        If there are more axes than a batch of images has, or more grey pages than channels wanted.

    Examples
    --------
    >>> named_layout("TZCYX", (1, 9, 2, 97, 131), 2, None, 3, "a.tif")
    '-SCSS'
    >>> named_layout("ZYX", (5, 97, 131), 5, None, 2, "a.tif")
    'CSS'
    """
    several = {letter for letter, n in zip(axes, shape, strict=True) if n > 1}
    roles: dict[int, str] = {}
    free = []
    for number, (letter, n) in enumerate(zip(axes, shape, strict=True)):
        # Some writers name any stack of pages channels; it may be a depth, or images in colours.
        only_called = n != channels and space == 3 and "Z" not in several
        if letter in "YX" or (letter == "Z" and space == 3 and n > 1):
            roles[number] = "S"
        elif n == 1:
            roles[number] = "-"
        elif letter == "S" or (letter == "C" and "S" not in several and not only_called):
            roles[number] = "C"
        else:
            free.append(number)
    if space == 3 and list(roles.values()).count("S") < 3:
        deep = [k for k in free if size is not None and shape[k] == size[0]] or free
        depth = deep[-1] if deep else axes.find("Z")
        if depth >= 0:
            roles[depth] = "S"
        free = [k for k in free if k != depth]
    if free and "C" not in roles.values():
        if same := [k for k in free if shape[k] == channels]:
            roles[same[-1]] = "C"
            free.remove(same[-1])
        elif channels is not None and channels > 1:
            raise ValueError(
                f"{name} has {shape[free[0]]} grey pages, but {channels} channels are asked for:"
                " write them as the channels of one page (tifffile: planarconfig='separate'), or"
                " give an array"
            )
    if len(free) > 1 or list(roles.values()).count("C") > 1:
        raise ValueError(
            f"{name} has shape {tuple(shape)} over the axes {axes}: give an array (batch, channels,"
            f" *spatial) with {space} spatial axes"
        )
    roles |= dict.fromkeys(free, "B")
    return "".join(roles[k] for k in range(len(axes)))
