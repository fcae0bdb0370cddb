"""A halo: what the tiles of a stage need of one value beyond what they own."""

from __future__ import annotations

from dataclasses import dataclass

from .exchange import Exchange, Spans, Team, Transfer, region_at
from .region import Region


@dataclass(frozen=True)
class Halo:
    """What the tiles of a stage own and need of one value.

    Attributes
    ----------
    layer
        The module whose result is exchanged; the image itself where a stage reads it.
    kind
        Of the exchange; see `spnb.ir.exchange.Exchange`.
    extent
        Of the value, over ``(batch, *spatial)``.
    has, needs
        Spans of the tiles, axis by axis.
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
        """The regions of a rank's need that other tiles of the stage own."""
        exchange = Exchange(0, self.layer, self.kind, self.team, self.team, self.has, self.needs, 0)
        return exchange.receives(rank)

    @property
    def depth(self) -> tuple[int, ...]:
        """Largest number of positions, on each spatial axis, that a need reaches past its tile."""
        return tuple(
            max(max(a - start, stop - b) for (a, b), (start, stop) in zip(has, needs, strict=True))
            for has, needs in zip(self.has[1:], self.needs[1:], strict=True)
        )
