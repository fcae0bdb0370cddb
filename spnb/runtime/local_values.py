"""The values that a rank holds at a point of its program, and how an action reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from ..ir.axes import Axes
from ..ir.node import Node
from ..ir.region import Region
from .halo_tile import HaloTile, room, taker
from .state import Action, RunState

NOTHING = Region(((0, 0),))


class LocalValues:
    """The values that a rank holds at each step, while its program is compiled.

    Parameters
    ----------
    held
        Region of each value that earlier programs left.
    paths
        By value, the path of the module that computes it.
    """

    def __init__(self, held: Mapping[str, Region], paths: Mapping[str, str]):
        self._held, self._paths = dict(held), paths
        self._tiles: dict[str, HaloTile] = {}  # values with a halo in separate tensors
        self._arrivals: dict[str, Action] = {}  # halos that no action has waited for yet

    def layer(self, value: str) -> str:
        """Path of the module that computes a value; for an input, its name."""
        return self._paths.get(value, value)

    def hold(self, value: str, region: Region) -> None:
        """Record that the rank now holds a value over a region, in one piece."""
        self._held[value] = region

    def hold_tile(self, value: str, tile: HaloTile, arrive: Action | None) -> None:
        """Record that the rank now holds a value in pieces.

        Parameters
        ----------
        arrive
            Waits for the pieces that other ranks send, if there are any.
        """
        self._held[value], self._tiles[value] = tile.region, tile
        if arrive is not None:
            self._arrivals[value] = arrive

    def free(self, values: Iterable[str]) -> list[Action]:
        """Record that the rank does not hold these values any more.

        Returns
        -------
        list of Action
            Each waits for a halo of these values that no earlier action has waited for.
        """
        values = list(values)
        for value in values:
            self._tiles.pop(value, None)
        return [self._arrivals.pop(value) for value in values if value in self._arrivals]

    def halo_tile(self, value: str) -> HaloTile | None:
        """The pieces of a value; None if it is in one piece."""
        return self._tiles.get(value)

    def region(self, value: str) -> Region:
        """The region over which the rank holds a value, halo included."""
        return self._held[value]

    def own(self, value: str) -> Region:
        """The region over which a value is in one piece: without a halo in separate tensors."""
        tile = self._tiles.get(value)
        return tile.own if tile else self._held.get(value, NOTHING)

    def arrival(self, value: str) -> Action:
        """The action that waits for the halo of a value, unless an earlier action has waited."""
        return self._arrivals.pop(value, lambda run: None)

    def operands(self, node: Node, regions: Sequence[Region], first: int = 0) -> list[Action]:
        """Actions that return the operands of a call over regions, from number ``first`` on."""
        operands = list(zip(node.operands, regions, node.operand_axes, strict=True))
        return [self.operand(*operand) for operand in operands[first:]]

    def operand(self, value: str, region: Region, axes: Axes) -> Action:
        """The action that returns a value over a region, assembled from its pieces if needed."""
        tile = self._tiles.get(value)
        if tile is None:
            take = taker(axes, self._held[value], region)
            return lambda run: take(run.values[value])
        if region.empty:
            return lambda run: room(axes, region, tile.dtype)
        if region in tile.own:
            take = taker(axes, tile.own, region)
            return lambda run: take(run.values[value].tensors[0])
        return self._assembled(value, tile, region, axes)

    def _assembled(self, value: str, tile: HaloTile, region: Region, axes: Axes) -> Action:
        """The action that assembles a value, for later actions too, and returns a region."""
        arrive, assemble = self.arrival(value), tile.assembly(tile.region)
        take, layer = taker(axes, tile.region, region), self.layer(value)
        del self._tiles[value]

        def assembled(run: RunState) -> torch.Tensor:
            arrive(run)
            start = run.recorder.now()
            whole = run.values[value] = assemble(run.values[value].tensors)
            run.recorder.note(start, "unpack", layer, tile.kind)
            return take(whole)

        return assembled
