"""What is at hand at a point of a program: over which regions, and how to take of it in a run."""

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
    """The values at hand while a program is made ready, step by step.

    Parameters
    ----------
    held
        Region of each value that is at hand before.
    paths
        The module that each value came from.
    """

    def __init__(self, held: Mapping[str, Region], paths: Mapping[str, str]):
        self._held, self._paths = dict(held), paths
        self._apart: dict[str, HaloTile] = {}  # values whose halo lies beside them
        self._awaited: dict[str, Action] = {}  # halos that nobody has waited for

    def layer(self, value: str) -> str:
        """The module that a value came from, or the name of an input."""
        return self._paths.get(value, value)

    def hold(self, value: str, region: Region) -> None:
        """Have a value in one piece over a region."""
        self._held[value] = region

    def hold_apart(self, value: str, pieces: HaloTile, arrive: Action | None) -> None:
        """Have a value in pieces, and what waits for those that are on their way."""
        self._held[value], self._apart[value] = pieces.region, pieces
        if arrive is not None:
            self._awaited[value] = arrive

    def free(self, values: Iterable[str]) -> list[Action]:
        """Have values no more; what waits for halos of them that nobody has read."""
        values = list(values)
        for value in values:
            self._apart.pop(value, None)
        return [self._awaited.pop(value) for value in values if value in self._awaited]

    def apart(self, value: str) -> HaloTile | None:
        """A value's pieces, as long as its halo lies beside it."""
        return self._apart.get(value)

    def whole(self, value: str) -> Region:
        """Where a value is at hand, its halo included."""
        return self._held[value]

    def own(self, value: str) -> Region:
        """Where a value is in one piece: what was computed here, as long as a halo is beside it."""
        apart = self._apart.get(value)
        return apart.own if apart else self._held.get(value, NOTHING)

    def arrival(self, value: str) -> Action:
        """What waits for the halo of a value, the first time."""
        return self._awaited.pop(value, lambda run: None)

    def operands(self, node: Node, regions: Sequence[Region], first: int = 0) -> list[Action]:
        """What gives each operand of a call, from one on, over a region."""
        operands = list(zip(node.operands, regions, node.operand_axes, strict=True))
        return [self.operand(*operand) for operand in operands[first:]]

    def operand(self, value: str, region: Region, axes: Axes) -> Action:
        """What gives a value over a region: as it is, or put together from its pieces."""
        apart = self._apart.get(value)
        if apart is None:
            take = taker(axes, self._held[value], region)
            return lambda run: take(run.values[value])
        if region.empty:
            return lambda run: room(axes, region, apart.dtype)
        if region in apart.own:
            take = taker(axes, apart.own, region)
            return lambda run: take(run.values[value].tensors[0])
        arrive, assemble = self.arrival(value), apart.assembly(apart.region)
        take, layer = taker(axes, apart.region, region), self.layer(value)
        del self._apart[value]  # from now on, and for whoever reads it later, it is in one piece

        def assembled(run: RunState) -> torch.Tensor:
            arrive(run)
            start = run.recorder.now()
            whole = run.values[value] = assemble(run.values[value].tensors)
            run.recorder.note(start, "unpack", layer, apart.kind)
            return take(whole)

        return assembled
