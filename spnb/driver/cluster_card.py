"""The card of a cluster: its engines, their hosts, and the plan that is loaded."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from ..display.cards import Card, Table, counted
from ..job.job_plan import JobPlan


class HostRanks(NamedTuple):
    """Ranks that follow each other on one host: the first, the last, and the host's name."""

    first: int
    last: int
    host: str


def cluster_card(plan: JobPlan, hosts: Sequence[str], alive: bool) -> Card:
    """Make the card of a cluster that is not stopped.

    Parameters
    ----------
    plan
        The plan that is loaded.
    hosts
        The host name of each rank.
    alive
        Whether every engine lives.

    Returns
    -------
    Card
        Engines by host, and the plan's tables and grids.
    """
    engines = counted(len(hosts), "engine")
    title = f"Cluster: {engines} on {counted(len(set(hosts)), 'host')}"
    if not alive:
        return Card(f"{title}, not all alive: cluster.restart()")
    here = socket.gethostname()
    rows = [
        (
            f"{each.first}-{each.last}" if each.last > each.first else f"{each.first}",
            "this one" if each.host == here else each.host,
        )
        for each in ranks_by_host(hosts)
    ]
    loaded = plan.card
    table = Table(("engines of ranks", "host"), rows)
    return Card(f"{title}, ready for {loaded.title}", [table, *loaded.body], loaded.grids)


def ranks_by_host(hosts: Sequence[str]) -> list[HostRanks]:
    """Ranks that follow each other on one host, in the order of the ranks.

    Parameters
    ----------
    hosts
        The host name of each rank.

    Returns
    -------
    list of HostRanks
        One for each run of ranks on one host.

    Examples
    --------
    >>> [tuple(each) for each in ranks_by_host(["a", "a", "b"])]
    [(0, 1, 'a'), (2, 2, 'b')]
    """
    groups = [list(each) for _, each in groupby(enumerate(hosts), lambda pair: pair[1])]
    return [HostRanks(each[0][0], each[-1][0], each[0][1]) for each in groups]
