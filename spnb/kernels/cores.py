"""The cores that a process may use, which are often fewer than the machine's.

A container or a batch job gives a process some of the machine's cores: by its affinity, by the
quota of a control group, or by a number that the scheduler says and nothing enforces.  The ranks of
a host divide what they share::

    rank 0  cores 0 1 2 3      affinity of its own    ─► 4 threads
    rank 1          2 3 4 5    two shared with rank 0 ─► …
    both    a quota of 3 cores                        ─► 1 thread each
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """The cores of a process.

    Attributes
    ----------
    numbers
        The numbers of the cores that it may run on.
    limits
        How many cores a group of processes may use at a time, by the group's name; the process
        belongs to each of these groups.
    """

    numbers: frozenset[int]
    limits: Mapping[str, float] = field(default_factory=dict)

    def threads(self, others: Sequence[Cores] = (), at_once: int | None = None) -> int:
        """The number of threads with which a process computes on its share of the cores.

        Parameters
        ----------
        others
            The cores of the other processes of the host.
        at_once
            Number of processes that compute at the same time, if not all do.

        Examples
        --------
        >>> whole = Cores(frozenset(range(8)))
        >>> whole.threads(), whole.threads([whole] * 3), whole.threads([whole] * 3, at_once=2)
        (8, 2, 4)
        >>> Cores(frozenset({0, 1})).threads([Cores(frozenset({2, 3}))])
        2
        >>> Cores(frozenset(range(8)), {"container": 2.5}).threads()
        2
        """
        every = [self, *others]
        most = len(every) if at_once is None else at_once

        def share(cores: float, sharing: Iterator[bool]) -> float:
            return cores / min(most, sum(sharing))

        by_affinity = sum(share(1, (n in each.numbers for each in every)) for n in self.numbers)
        by_limit = [
            share(cores, (name in each.limits for each in every))
            for name, cores in self.limits.items()
        ]
        return max(1, math.floor(min(by_affinity, *by_limit, math.inf) + 1e-6))


def cores_of_process(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> Cores:
    """The cores of this process.

    Parameters
    ----------
    environment
        Its variables, in which Slurm says how many cores a task and a job have on this host.
    root
        The root of the file system, in which the system describes control groups.

    Examples
    --------
    >>> cores_of_process().threads() <= os.cpu_count()
    True
    """
    if hasattr(os, "sched_getaffinity"):
        numbers = frozenset(os.sched_getaffinity(0))
    else:  # macOS
        numbers = frozenset(range(os.cpu_count() or 1))
    return Cores(numbers, {**dict(_quotas(root)), **_allotted(environment)})


def num_cores() -> int:
    """The number of cores that this process may use at a time.

    >>> num_cores() >= 1
    True
    """
    return cores_of_process().threads()


def _allotted(environment: Mapping[str, str]) -> dict[str, float]:
    """The cores of this task and of the job on this host, as Slurm says them."""
    found = {}
    if "SLURM_STEP_ID" in environment and "SLURM_CPUS_PER_TASK" in environment:
        found[f"process {os.getpid()}"] = float(environment["SLURM_CPUS_PER_TASK"])
    if "SLURM_CPUS_ON_NODE" in environment:
        found["Slurm's job"] = float(environment["SLURM_CPUS_ON_NODE"])
    return found


def _quotas(root: Path) -> Iterator[tuple[str, float]]:
    """The quota of each control group of this process that has one, by the group's folder.

    Version 1 has a hierarchy for processor time, version 2 has one for all resources.
    """
    groups = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            groups[name] = path
    for line in _lines(root / "proc/self/mountinfo"):
        where, system = (half.split() for half in line.split(" - "))
        (top, folder), (kind, *_, options) = where[3:5], system
        of_version_1 = kind == "cgroup" and "cpu" in options.split(",")
        group = groups.get("cpu" if of_version_1 else "")
        if group is None or not (of_version_1 or kind == "cgroup2"):
            continue
        read = _quota_v1 if of_version_1 else _quota
        own = Path(group).relative_to(top) if Path(group).is_relative_to(top) else Path()
        mounted = root / folder.lstrip("/")
        for parent in [own, *own.parents]:
            cores = read(mounted / parent)
            if cores is not None:
                yield str(Path(folder) / parent), cores


def _quota(group: Path) -> float | None:
    """The cores that a control group of version 2 may use at a time; None if there is no limit."""
    found = [line.split() for line in _lines(group / "cpu.max")]
    if not found or found[0][0] == "max":
        return None
    return int(found[0][0]) / int(found[0][1])


def _quota_v1(group: Path) -> float | None:
    """The same for a control group of version 1."""
    quota, period = (_lines(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if not quota or not period or int(quota[0]) < 0:
        return None
    return int(quota[0]) / int(period[0])


def _lines(file: Path) -> list[str]:
    """The lines of a file; none if it cannot be read."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
