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


def option(name: str, value: Any = None) -> str:
    """Return an option, with its value if one is given, as the user would write it.

    Parameters
    ----------
    name
        The keyword.
    value
        The value; True is a flag alone.

    Examples
    --------
    >>> option("image_size", "400x600"), option("resize", True)
    ("image_size='400x600'", 'resize=True')
    >>> with as_flags():
    ...     option("image_size", "400x600"), option("resize", True)
    ('--image-size 400x600', '--resize')
    """
    if not _flags:
        return name if value is None else f"{name}={value!r}"
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None or value is True else f"{flag} {value}"
