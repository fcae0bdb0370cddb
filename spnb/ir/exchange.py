"""The one way in which data moves: regions that some ranks have are sent to ranks that need them.

An `Exchange` moves one value from the tiles of a team of ranks to the needs of another (or the
same) team.  Splitting the input, a halo, a hand-over between stages, a batch slice and the
gathering of the output are all exchanges; they differ only in their teams and spans::

    has:    |  tile 0  |  tile 1  |  tile 2  |          own spans: an exact cover of the extent
    needs:  |  need 0     |
                    |     need 1     |                  each need is cut where the tiles are cut
                               |     need 2  |

Grids are products of axes, so an exchange is stored axis by axis and a plan for thousands of
ranks stays small; the transfers of one rank are enumerated when asked for.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from .region import Region, Span, intersect, length
from .tiling import Tiling

HOST = -1
"""Pseudo-rank of the process that holds the image and receives the outputs."""

Spans = tuple[tuple[Span, ...], ...]
"""For each axis of ``(batch, *spatial)``, a span for each tile of the grid along that axis."""


Table = list[list[tuple[int, Span]]]
"""Along one axis, for each tile of a team: the tiles of the other that it shares a span with."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One message: a region of a value, from the rank that has it to a rank that needs it."""

    source: int
    target: int
    region: Region

    @property
    def reversed(self) -> Transfer:
        """The adjoint: the same region in the other direction, where arrivals are summed."""
        return Transfer(self.target, self.source, self.region)


@dataclass(frozen=True, slots=True)
class Team:
    """Ranks in a grid: rank ``ranks[t]`` holds tile ``t`` of the tiling."""

    ranks: Sequence[int]
    tiling: Tiling

    def position(self, rank: int) -> tuple[int, ...]:
        """Coordinates of a rank in the grid."""
        return self.tiling.coordinates(self.ranks.index(rank))

    def rank_at(self, position: Sequence[int]) -> int:
        """The rank at a position in the grid."""
        return self.ranks[self.tiling.tile(position)]


def region_at(spans: Spans, position: Sequence[int]) -> Region:
    """The region of the tile at a position in the grid."""
    return Region(tuple(axis[k] for axis, k in zip(spans, position, strict=True)))


@dataclass(frozen=True)
class Exchange:
    """The movement of one value: the source team has its regions, the target team needs them.

    Attributes
    ----------
    tag
        Tag of its messages, from `spnb.ir.tags`; tag and ranks together identify a message.
    value
        Name of the value.
    kind
        ``"input"``, ``"halo"``, ``"merge"`` (of figures), ``"ring"`` (keys of attention that go
        round), ``"gather"``, ``"hand-over"`` or ``"output"``.
    has, needs
        Spans of each team's tiles, axis by axis.
    position_bytes
        Bytes at one position: channels times element size.

    Examples
    --------
    Two tiles of 4 columns each need one column of the other:

    >>> team = Team((0, 1), Tiling.even((1, 2)))
    >>> has, needs = (((0, 1),), ((0, 4), (4, 8))), (((0, 1),), ((0, 5), (3, 8)))
    >>> halo = Exchange(0, "x", "halo", team, team, has, needs, position_bytes=4)
    >>> halo.sends(0)
    (Transfer(source=0, target=1, region=Region(0:1, 3:4)),)
    >>> halo.receives(0)
    (Transfer(source=1, target=0, region=Region(0:1, 4:5)),)
    """

    tag: int
    value: str
    kind: str
    source: Team
    target: Team
    has: Spans
    needs: Spans
    position_bytes: int

    def sends(self, rank: int) -> tuple[Transfer, ...]:
        """Messages that a rank of the source team sends to other ranks."""
        position = self.source.position(rank)
        return tuple(
            Transfer(rank, target, region)
            for target, region in self._overlapping(self._forward, position, self.target)
            if target != rank
        )

    def receives(self, rank: int) -> tuple[Transfer, ...]:
        """Messages that a rank of the target team receives from other ranks."""
        position = self.target.position(rank)
        return tuple(
            Transfer(source, rank, region)
            for source, region in self._overlapping(self._backward, position, self.source)
            if source != rank
        )

    def need(self, rank: int) -> Region:
        """The region that a rank of the target team needs."""
        return region_at(self.needs, self.target.position(rank))

    def retained(self, rank: int) -> Region | None:
        """The part of its need that a rank has itself; None if it has none of it."""
        if rank not in self.source.ranks:
            return None
        own = region_at(self.has, self.source.position(rank)) & self.need(rank)
        return None if own.empty else own

    def sent(self, rank: int) -> tuple[int, int]:
        """Messages and bytes that a rank sends in one execution, without enumerating them."""
        position = self.source.position(rank)
        overlaps = [axis[k] for axis, k in zip(self._forward, position, strict=True)]
        messages = math.prod(map(len, overlaps))
        positions = math.prod(sum(length(span) for _, span in axis) for axis in overlaps)
        if rank in self.target.ranks and (own := self.retained(rank)):
            messages, positions = messages - 1, positions - own.size
        return messages, positions * self.position_bytes

    @property
    def total(self) -> tuple[int, int]:
        """Messages and bytes of all ranks in one execution: products of sums along the axes."""
        messages = math.prod(sum(map(len, axis)) for axis in self._forward)
        positions = math.prod(sum(length(s) for k in axis for _, s in k) for axis in self._forward)
        if self.source is self.target:  # what a rank has itself is not sent
            retained = [
                [length(intersect(h, n)) for h, n in zip(has, needs, strict=True)]
                for has, needs in zip(self.has, self.needs, strict=True)
            ]
            messages -= math.prod(sum(map(bool, axis)) for axis in retained)
            positions -= math.prod(map(sum, retained))
        return messages, positions * self.position_bytes

    def verify(self) -> None:
        """Prove that every needed position arrives exactly once.

        Along each axis the spans of the source must cover every need without gap or overlap.  Grids
        are products of their axes, so the boxes then cover every need as well.  Sends and receives
        are read from the same spans, so each send has its receive.

        Raises
        ------
        AssertionError
            If a need is not covered exactly: a fault of the planner, never of its user.
        """
        for needs, arrivals in zip(self.needs, self._backward, strict=True):
            for need, pieces in zip(needs, arrivals, strict=True):
                reached = need[0]
                for _, (start, stop) in sorted(pieces, key=lambda piece: piece[1]):
                    assert start == reached, f"exchange {self.tag} of {self.value}: gap at {start}"
                    reached = stop
                assert reached == max(need), f"exchange {self.tag} of {self.value}: {need} not met"

    @cached_property
    def _forward(self) -> list[Table]:
        """By axis and number of the source's tile: the target's tiles that need some of it."""
        return [_overlaps(has, needs) for has, needs in zip(self.has, self.needs, strict=True)]

    @cached_property
    def _backward(self) -> list[Table]:
        """By axis and number of the target's tile: the source's tiles that have some of it."""
        return [_overlaps(needs, has) for has, needs in zip(self.has, self.needs, strict=True)]

    @staticmethod
    def _overlapping(
        tables: Sequence[Table], position: Sequence[int], other: Team
    ) -> Iterator[tuple[int, Region]]:
        """Ranks of another team whose tiles overlap the one at a position, and where."""
        axes = [table[k] for table, k in zip(tables, position, strict=True)]
        for corner in itertools.product(*axes):
            yield (
                other.rank_at([tile for tile, _ in corner]),
                Region(tuple(span for _, span in corner)),
            )


def _overlaps(spans: Sequence[Span], others: Sequence[Span]) -> Table:
    """For each span, the numbers of the others that overlap it, in order, and the common span.

    The others are sorted by their starts.  Those that start after a span ends are skipped by binary
    search.  If the stops are in order as well, so are those that end before the span starts.
    """
    order = sorted(range(len(others)), key=others.__getitem__)
    starts = [others[k][0] for k in order]
    stops = [others[k][1] for k in order]
    stops_in_order = all(a <= b for a, b in itertools.pairwise(stops))
    found = []
    for span in spans:
        first = bisect_right(stops, span[0]) if stops_in_order else 0
        candidates = sorted(order[first : bisect_left(starts, span[1])])
        common = ((k, intersect(span, others[k])) for k in candidates)
        found.append([(k, both) for k, both in common if length(both)])
    return found
