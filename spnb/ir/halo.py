"""A halo: the regions of one value that tiles need, and other tiles of the stage own."""

from __future__ import annotations

from dataclasses import dataclass

from .exchange import Exchange, Spans, Team, Transfer, region_at
from .region import Region


@dataclass(frozen=True)
class Halo:
    """The regions of one value that the tiles of a stage own, and those that they need.

    Attributes
    ----------
    layer
        Path of the module that computes the value; "the image" where a stage reads the input.
    kind
        Kind of the exchange; see `spnb.ir.exchange.Exchange`.
    team
        The ranks of the stage.
    extent
        Extent of the value over ``(batch, *spatial)``.
    has, needs
        Spans that each tile owns and needs, axis by axis.
    """

    layer: str
    kind: str
    team: Team
    extent: tuple[int, ...]
    has: Spans
    needs: Spans

    def own(self, rank: int) -> Region:
        """The region that a rank owns."""
        return region_at(self.has, self.team.position(rank))

    def need(self, rank: int) -> Region:
        """The region that a rank needs, clipped to the extent."""
        return region_at(self.needs, self.team.position(rank))

    def neighbours(self, rank: int) -> tuple[Transfer, ...]:
        """The regions that a rank needs and that other tiles of the stage own."""
        exchange = Exchange(0, self.layer, self.kind, self.team, self.team, self.has, self.needs, 0)
        return exchange.receives(rank)

    @property
    def depth(self) -> tuple[int, ...]:
        """For each spatial axis, the most positions by which a tile's need exceeds the tile."""
        return tuple(
            max(max(a - start, stop - b) for (a, b), (start, stop) in zip(has, needs, strict=True))
            for has, needs in zip(self.has[1:], self.needs[1:], strict=True)
        )
