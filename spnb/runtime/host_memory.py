"""The memory of a host that its ranks may take, as the system and its containers limit it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of groups of processes, as of a container or of a Slurm job."""

_UNLIMITED = 1 << 60  # an older kernel writes a number of this size for "no limit"


@dataclass(frozen=True)
class HostMemory:
    """The memory of a host, as one of its processes sees it.

    Attributes
    ----------
    host
        The host's name.
    total
        Bytes that all processes of the host, or of the container, can have.
    free
        Bytes of them that can be taken now.
    held
        Bytes that the asking process holds for itself.
    """

    host: str
    total: int
    free: int
    held: int


def host_memory() -> HostMemory:
    """Return the memory of this process's host.

    >>> 0 < host_memory().held < host_memory().total
    True
    """
    system, own = psutil.virtual_memory(), psutil.Process().memory_info()
    total, free = system.total + psutil.swap_memory().total, system.available
    for limit, used in _limits():
        total, free = min(total, limit), min(free, max(0, limit - used))
    return HostMemory(socket.gethostname(), total, free, own.rss - getattr(own, "shared", 0))


def _limits() -> Iterator[tuple[int, int]]:
    """The limit of each group that this process is in, and the bytes that the group uses."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kind, path = line.split(":", 2)
        if kind in _FILES:
            root = CGROUPS / kind
            inner = root / path.lstrip("/")
            # A container may show its own group as the root, whatever the path says.
            folders = [f for f in (inner, *inner.parents) if f.is_relative_to(root)]
            for folder in folders if inner.exists() else [root]:
                yield from _limit(folder, *_FILES[kind])


_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By version of the system: a group's limit, its use, and the part of it that is given back."""


def _limit(folder: Path, limit: str, used: str, cached: str) -> Iterator[tuple[int, int]]:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if most != "max" and int(most) < _UNLIMITED:
        yield int(most), now - int(lines.get(cached, 0))
