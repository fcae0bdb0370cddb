"""Where engines are started: on this host, on hosts by their names, or by a scheduler.

No scheduling is done here: mpiexec, ssh and Slurm do the work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from ...errors import OptionError

LAUNCHERS = {
    "local": "on this host",
    "mpiexec": "by mpiexec: on its hosts, or on those of an allocation",
    "ssh": "by mpiexec, which reaches its hosts by ssh",
    "slurm": "by Slurm: a batch job, or a step of the allocation that this process is in",
}
"""Each launcher and where it starts engines."""

_OF = {
    "nodes": ("slurm",),
    "partition": ("slurm",),
    "time": ("slurm",),
    "hosts": ("mpiexec", "ssh"),
    "hostfile": ("mpiexec", "ssh"),
}


@dataclass(frozen=True)
class Placement:
    """Where engines are started.

    Attributes
    ----------
    launcher
        One of `LAUNCHERS`.
    nodes
        Number of Slurm's nodes; by default as many as it takes.
    partition, time
        Slurm's partition, and the time limit of the job, such as ``"1:30:00"``.
    hosts
        Names of hosts, each with the number of its ranks if that is not one: ``("a", "b:2")``.
    hostfile
        A file with such names, one on each line.

    Examples
    --------
    >>> Placement.of({"launcher": "ssh", "hosts": "a,b:2"}).hosts
    ('a', 'b:2')
    """

    launcher: str = "local"
    nodes: int | None = None
    partition: str | None = None
    time: str | None = None
    hosts: tuple[str, ...] = ()
    hostfile: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The placement that options say.

        Parameters
        ----------
        given
            Options by name; ``hosts`` may be a text with commas.

        Raises
        ------
        OptionError
            If a value is wrong, or an option has no effect with the launcher.
        """
        options = dict(given)
        if "hosts" in options:
            hosts = options["hosts"]
            options["hosts"] = tuple(hosts.split(",") if isinstance(hosts, str) else hosts)
        if options.get("time") is not None:
            options["time"] = str(options["time"])
        found = cls(**options)
        found._check()
        return found

    def _check(self) -> None:
        if self.launcher not in LAUNCHERS:
            raise OptionError(f"launcher is {self.launcher!r}, but must be {_or(LAUNCHERS)}")
        for name, launchers in _OF.items():
            if getattr(self, name) and self.launcher not in launchers:
                raise OptionError(
                    f"{name} has no effect with launcher {self.launcher}: it is for"
                    f" {_or(launchers)}"
                )
        if self.nodes is not None and self.nodes < 1:
            raise OptionError(f"nodes is {self.nodes}, but must be 1 or more")
        for host in self.hosts:
            if not re.fullmatch(r"[\w.-]+(:[1-9]\d*)?", host):
                raise OptionError(f"hosts has {host!r}, but must have names as a or b:2")
        if self.hosts and self.hostfile:
            raise OptionError("hosts and hostfile are both given: give one")
        if self.hostfile and not Path(self.hostfile).is_file():
            raise OptionError(f"hostfile is {self.hostfile}, but there is no such file")
        if self.launcher == "ssh" and not (self.hosts or self.hostfile):
            raise OptionError("launcher is ssh, but no host is named: give hosts or hostfile")

    @property
    def is_here(self) -> bool:
        """Whether all engines are on this host."""
        return self.launcher == "local"

    def mpiexec(
        self, path: str, of_open_mpi: bool = False, passed_on: Sequence[str] = ()
    ) -> list[str]:
        """The begin of the command by which mpiexec starts engines; a number of them follows.

        Parameters
        ----------
        path
            Path of mpiexec.
        of_open_mpi
            Whether it is of Open MPI, whose words differ from those of MPICH and of others.
        passed_on
            Names of variables that engines on other hosts need; MPICH passes on all.

        Examples
        --------
        >>> Placement("ssh", hosts=("a", "b:2")).mpiexec("mpiexec")
        ['mpiexec', '-launcher', 'ssh', '-hosts', 'a,b:2']
        """
        words = [path]
        if self.launcher == "ssh":
            words += ["--prtemca", "plm", "ssh"] if of_open_mpi else ["-launcher", "ssh"]
        if self.hosts:
            words += ["--host" if of_open_mpi else "-hosts", ",".join(self.hosts)]
        if self.hostfile:
            words += ["--hostfile", str(Path(self.hostfile).absolute())]
        if of_open_mpi and not self.is_here:
            words += [word for name in passed_on for word in ("-x", name)]
        return words


OF_PLACEMENT = tuple(field.name for field in fields(Placement))
"""Names of the options that say where engines are started."""

HERE = Placement()
"""All engines on this host."""


def _or(names: Sequence[str] | Mapping[str, str]) -> str:
    """Names in words: ``a, b or c``."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
