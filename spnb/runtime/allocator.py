"""glibc's allocator: which freed memory it keeps, and which it can use again.

A large block that is freed is by default returned to the system, which maps the next one page by
page; that takes longer than to compute it.  A block that is kept has another fault.  Tensors are
aligned, so glibc cuts each out of a block that is 96 bytes larger, and keeps the small ends in
caches, where nothing joins them with their neighbours.  What is freed is then too small for the
next tensor of its size::

    before          │ end │      tensor      │ end │
    freed           │ end │     no room      │ end │   ends in caches, or used by small objects
    without caches  │           room               │   ends joined again
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import Any

_MXFAST, _TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = 1, -1, -2, -3  # of malloc.h
IN_INFERENCE = 2**24
"""Bytes of blocks that are returned in inference: few are left once results have planned places,
and the heap would have a hole for each of their sizes.  In training there are many."""

TUNABLES = "GLIBC_TUNABLES"
"""The variable that glibc reads when a process starts."""

JOINED = (
    "glibc.malloc.tcache_count=0",
    "glibc.malloc.mxfast=0",
    "glibc.malloc.hugetlb=1",  # huge pages, which are mapped 512 at a time
)


def joining_blocks(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of a process whose allocator joins what is freed, and takes huge pages.

    Parameters
    ----------
    environment
        The variables that the process would have; what a user set in them is heeded.

    Examples
    --------
    >>> given = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    >>> joining_blocks(given)["GLIBC_TUNABLES"].split(":")[-2:]
    ['glibc.malloc.hugetlb=1', 'glibc.malloc.hugetlb=0']
    """
    given = environment.get(TUNABLES)
    return {TUNABLES: ":".join([*JOINED, *([given] if given else [])])}  # the last one counts


def keep_blocks(below: int = 2**31 - 1) -> None:
    """Let the allocator keep large blocks of memory from one operation to the next.

    Parameters
    ----------
    below
        Blocks of so many bytes or more are returned all the same.
    """
    mallopt = of_libc("mallopt")
    if mallopt is None:
        return
    for parameter, value in (
        (_MMAP_THRESHOLD, below),
        (_TRIM_THRESHOLD, -1),
        (_TOP_PAD, min(2**26, below // 16)),
        (_MXFAST, 0),
    ):
        mallopt(parameter, value)


def trim() -> None:
    """Return the allocator's unused memory to the system, if it is glibc's."""
    if malloc_trim := of_libc("malloc_trim"):
        malloc_trim(0)


def of_libc(name: str) -> Callable[..., Any] | None:
    """A function of the C library; None if it has no such function."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
