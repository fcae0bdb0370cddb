"""Finds the image size nearest to one that a network cannot take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir.region import shape_text

MULTIPLES = (
    *(2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64),
    *(80, 96, 112, 128, 160, 192, 224, 256),
)
"""Numbers of which sides of images often must be multiples: strides, and sizes of windows."""

SURE = (256, 224)
"""A network that takes multiples of some number takes multiples of one of these."""

FIXED = (28, 32, 64, 96, 112, 128, 160, 192, 224, 240, 256, 299, 320, 384, 448, 512, 518, 640, 1024)
"""Sides of square images, for networks that take one size only."""


def nearest_size(size: Sequence[int], works: Callable[[Sequence[int]], bool]) -> list[int] | None:
    """The nearest size that works, among sizes with sides that are multiples of one number.

    For a network that takes one size only, the sizes that are tried are `FIXED`.

    Parameters
    ----------
    size
        Pixels along each spatial axis.
    works
        Whether the network runs at a size.

    Returns
    -------
    list of int or None
        None if the network fails at every size that was tried.

    Examples
    --------
    >>> nearest_size((97, 133), lambda size: all(n % 16 == 0 for n in size))
    [96, 128]
    >>> nearest_size((200, 200), lambda size: size == [224, 224])
    [224, 224]
    """
    if not any(works([-(-n // m) * m for n in size]) for m in SURE):
        squares = sorted(FIXED, key=lambda n: sum(abs(n - each) for each in size))
        return next(([n] * len(size) for n in squares if works([n] * len(size))), None)
    tried = {tuple(size)}
    for m in MULTIPLES:
        candidate = [max(m, (n + m // 2) // m * m) for n in size]
        if tuple(candidate) not in tried and works(candidate):
            return candidate
        tried.add(tuple(candidate))
    return None


def resized(shape: Sequence[int], old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """The shape of an input, with another size if it has the image's.

    >>> resized((1, 3, 8, 9), old=(8, 9), new=(16, 16)), resized((1, 7), old=(8, 9), new=(16, 16))
    ((1, 3, 16, 16), (1, 7))
    """
    return (*shape[:2], *new) if tuple(shape[2:]) == tuple(old) else tuple(shape)


def size_advice(shape: Sequence[int], works: Callable[[Sequence[int]], bool]) -> str:
    """In words, the nearest image size at which a network runs; empty where none was found.

    Parameters
    ----------
    shape
        Of the image, ``(batch, channels, *spatial)``.
    works
        Whether the network runs at a size.

    Examples
    --------
    >>> size_advice((1, 3, 97, 133), lambda size: all(n % 16 == 0 for n in size))
    '; the nearest image size that works is 96×128'
    """
    size = list(shape[2:])
    found = None if not size or works(size) else nearest_size(size, works)
    return f"; the nearest image size that works is {shape_text(found)}" if found else ""
