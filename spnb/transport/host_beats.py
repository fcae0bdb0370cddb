"""Signs of life between hosts, by which a link that is cut, or a host that is down, is noticed.

MPI waits for ever for a message that a cut link has lost.  So the first rank of each host sends a
datagram every second, whatever the host's ranks compute, to the host of rank 0, which answers it::

    node 0, with rank 0  ◄──── beat ────  node 1        a star: node 0 hears of every host,
                         ──── answer ──►                and each other host of node 0
                         ◄──── beat ────  node 2

A host is watched from its first datagram on.  If a firewall lets none pass, nothing is watched.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

EVERY = 1.0
"""Most seconds between two datagrams of a host."""

_TOKEN_BYTES = 16
_MESSAGE = struct.Struct(
    f"!{_TOKEN_BYTES}sI?"
)  # the token, the host's number, whether all must end


@dataclass(frozen=True)
class Star:
    """The hosts of a communicator.

    Attributes
    ----------
    hosts
        Their names; the first is that of rank 0.
    number
        The number of this host among them.
    port
        The port at which the first host listens.
    token
        Tells datagrams of these ranks from those of others.
    listening
        The first host's socket, on its first rank.
    """

    hosts: tuple[str, ...]
    number: int
    port: int
    token: bytes
    listening: socket.socket | None


def star_of(comm: MPI.Comm, first_of_host: bool) -> Star | None:
    """The star of the hosts of a communicator. Collective.

    Parameters
    ----------
    comm
        The communicator.
    first_of_host
        Whether this rank is the first of its host.

    Returns
    -------
    Star or None
        None on ranks that are not the first of their host, and if there is one host only.
    """
    every = comm.allgather(socket.gethostname() if first_of_host else None)
    hosts = tuple(name for name in every if name is not None)
    if len(hosts) == 1:
        return None
    listening = None
    if comm.rank == 0:
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind(("", 0))
    port = listening.getsockname()[1] if listening else 0
    port, token = comm.bcast((port, secrets.token_bytes(_TOKEN_BYTES)))
    if not first_of_host:
        return None
    number = sum(name is not None for name in every[: comm.rank])
    return Star(hosts, number, port, token, listening)


class HostBeats:
    """Sends and hears datagrams, in a thread of the first rank of a host.

    Parameters
    ----------
    star
        The hosts.
    deadline
        Seconds without a datagram after which a host counts as one that does not answer.
    end
        Called once, in the thread, with the names of such hosts; or with none if another host has
        found some.
    clock
        Returns seconds; tests have one of their own.
    """

    def __init__(
        self,
        star: Star,
        deadline: float,
        end: Callable[[list[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.star, self.deadline, self._end, self._clock = star, deadline, end, clock
        self._socket = star.listening or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(min(EVERY, deadline / 4))
        self._silent: dict[int, float] = {}  # seconds, of each host that was heard
        self._addresses: dict[int, tuple[str, int]] = {}
        if star.number:
            self._addresses[0] = (star.hosts[0], star.port)
        threading.Thread(target=self._run, name="beats of hosts", daemon=True).start()

    def _run(self) -> None:
        every = self._socket.gettimeout() or EVERY
        before, sent = self._clock(), -every
        while True:
            if self.star.number and self._clock() >= sent + every:
                self._send(0)
                sent = self._clock()
            if self._heard():
                self._end([])
                return
            # This process may have been stopped for a while, as the others were.
            now = self._clock()
            elapsed, before = min(now - before, 2 * every), now
            for number in self._silent:
                self._silent[number] += elapsed
            late = [n for n, seconds in self._silent.items() if seconds >= self.deadline]
            if late:
                for number in self._addresses:
                    self._send(number, end=True)
                self._end([self.star.hosts[number] for number in sorted(late)])
                return

    def _heard(self) -> bool:
        """Wait for a datagram, and answer it; return whether it says that all must end."""
        try:
            content, address = self._socket.recvfrom(_MESSAGE.size + 1)
        except OSError:  # none has come; or the system says that the last one reached nobody
            return False
        if len(content) != _MESSAGE.size:
            return False
        token, number, end = _MESSAGE.unpack(content)
        if token != self.star.token or number >= len(self.star.hosts):
            return False
        self._silent[number] = 0.0
        if not self.star.number:
            self._addresses[number] = address
            self._send(number)
        return end

    def _send(self, number: int, end: bool = False) -> None:
        """Send a datagram to a host; one that cannot be sent is lost like any other."""
        message = _MESSAGE.pack(self.star.token, self.star.number, end)
        with contextlib.suppress(OSError):
            self._socket.sendto(message, self._addresses[number])
