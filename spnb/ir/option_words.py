"""How messages name options: keywords in Python, flags on a command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_flags = False


@contextmanager
def as_flags() -> Iterator[None]:
    """Name options as flags in a block, which carries out a command line."""
    global _flags
    before, _flags = _flags, True
    try:
        yield
    finally:
        _flags = before


_NAME_ONLY = object()


def option(name: str, value: Any = _NAME_ONLY) -> str:
    """Return an option, with its value if one is given, as the user would write it.

    Parameters
    ----------
    name
        The keyword.
    value
        The value; True is a flag alone, and None the word ``none`` behind it.

    Examples
    --------
    >>> option("image_size", "400x600"), option("resize", True)
    ("image_size='400x600'", 'resize=True')
    >>> with as_flags():
    ...     option("image_size", "400x600"), option("resize", True), option("nodata", None)
    ('--image-size 400x600', '--resize', '--nodata none')
    """
    if not _flags:
        return name if value is _NAME_ONLY else f"{name}={value!r}"
    flag = f"--{name.replace('_', '-')}"
    if value is _NAME_ONLY or value is True:
        return flag
    return f"{flag} {'none' if value is None else value}"
