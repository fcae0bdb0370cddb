"""The running ipyparallel engines, as the ranks of one MPI world."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import ipyparallel as ipp

from ...errors import EngineDied, StartError
from .processes import Launch

RESTART = "run the command again, or in Python cluster.restart()"
"""What to do when engines died, or do not stop."""


class Introduction(TypedDict):
    """What an engine tells of itself: rank and world size in MPI, host name, process id."""

    rank: int
    size: int
    host: str
    pid: int


@dataclass(frozen=True)
class EngineWorld:
    """Engines in the order of their ranks.

    Attributes
    ----------
    client
        The ipyparallel client.
    ids
        The engine's id of each MPI rank.
    hosts
        The host name of each rank.
    pids
        The process id of each rank of this host, by rank.
    launch
        The processes, if this process started them; ``None`` for a client of the user's own.
    """

    client: ipp.Client
    ids: tuple[int, ...]
    hosts: tuple[str, ...]
    pids: Mapping[int, int] = field(default_factory=dict)
    launch: Launch | None = None

    @classmethod
    def unordered(cls, client: ipp.Client, launch: Launch | None) -> EngineWorld:
        """The engines of a client in any order, on hosts that are not known yet."""
        ids = tuple(client.ids)
        return cls(client=client, ids=ids, hosts=("?",) * len(ids), launch=launch)

    def ordered(self, introductions: Sequence[Introduction]) -> EngineWorld:
        """The same engines in the order of their ranks.

        Parameters
        ----------
        introductions
            The result of `introduce` on each engine, in the order of `ids`.

        Raises
        ------
        StartError
            If the engines are not the ranks of one MPI world.
        """
        count = len(self.ids)
        sizes = [engine["size"] for engine in introductions]
        if set(sizes) != {count}:
            raise StartError(
                f"{count} engines are in MPI worlds of {sizes} ranks, not all in one of {count}:"
                f" start them with ipyparallel.Cluster(engines='mpi', n={count})"
            )
        order = sorted(range(count), key=lambda k: introductions[k]["rank"])
        in_order = [introductions[k] for k in order]
        here = socket.gethostname()
        return replace(
            self,
            ids=tuple(self.ids[k] for k in order),
            hosts=tuple(engine["host"] for engine in in_order),
            pids={engine["rank"]: engine["pid"] for engine in in_order if engine["host"] == here},
        )

    def ailment(self) -> str | None:
        """The processes that died, and advice, as a text; ``None`` if all live."""
        if self.launch is not None and (lost := self.launch.lost()):
            return f"{lost}: {RESTART}"
        living = self.client.ids
        dead = [rank for rank, id_ in enumerate(self.ids) if id_ not in living]
        if not dead:
            return None
        hosts = ", ".join(sorted({self.hosts[rank] for rank in dead}))
        ranks = f"ranks {dead}" if len(dead) > 1 else f"rank {dead[0]}"
        return (
            f"{ranks} of {len(self.ids)} died on {hosts} (killed, or out of memory?),"
            f" and MPI ends all with one: {RESTART}"
        )

    def require_alive(self) -> None:
        """Raise unless every engine lives.

        Raises
        ------
        EngineDied
            With the ranks that died, and their hosts.
        """
        if ailment := self.ailment():
            raise EngineDied(ailment)


def introduce() -> Introduction:
    """On an engine: return its rank and world size in MPI, its host and its process id."""
    import os
    import socket

    from mpi4py import MPI

    world = MPI.COMM_WORLD
    host = socket.gethostname()
    return {"rank": world.rank, "size": world.size, "host": host, "pid": os.getpid()}


# Else the engines would import the function's module, and with it torch, to call it.
introduce.__module__ = "__main__"
