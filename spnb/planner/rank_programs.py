"""From the needs of a stage and the exchanges of a plan to the programs of one rank.

A rank computes its tile at once, or in patches, one after another.  Each patch reads its own region
of the image, so the rank holds the values of one patch only, and those values of the whole tile
that other stages need::

    at once      read    compute …  send
    in patches   read  compute … keep │ read  compute … keep │ … │ send

(Lin et al., *MCUNetV2: Memory-efficient patch-based inference for tiny deep learning*, 2021, do the
same in the first layers of a network.)
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..ir.exchange import HOST, Exchange, Transfer, region_at
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Program, Receive, Send, Step, receive_step
from ..ir.region import Region
from ..rules import rule_of
from ..rules.fused import Fused
from .needs import OperandRegions, StageNeeds, extent_in
from .stage import Stage
from .widen import widened


@dataclass(frozen=True)
class _Tile:
    """A tile or a patch of it, computed at one time, and the steps around its computation.

    Attributes
    ----------
    needs, position
        Regions of every value, and the position of this tile in the grid.
    receives
        By value, the step that receives it; it comes before the value is first read.
    sends
        By value, the steps that follow as soon as it is computed.
    foreign
        Values that are also held elsewhere: by the host, another stage, or the whole tile.
    moved
        Values that an exchange moves.
    held
        Values that are not freed after their last use.
    """

    needs: StageNeeds
    position: Sequence[int]
    receives: Mapping[str, Receive]
    sends: Mapping[str, Sequence[Step]]
    foreign: Collection[str]
    moved: Collection[str]
    held: Collection[str] = ()


@dataclass(frozen=True)
class RankProgramBuilder:
    """Writes the programs of one rank for a micro-batch.

    Parameters
    ----------
    graph, stage, rank
        The network, the stage, and one of its ranks.
    images
        Images in the micro-batch.
    needs
        The spans that each tile of the stage owns, computes and needs.
    patch_needs
        The same for each patch; None if the stage has no patches.
    exchanges
        Every exchange of the micro-batch.
    regions
        Gives the regions of its operands that a region of a call reads.
    widens
        Whether calls may compute more than is needed, in place of a copy: see
        `spnb.planner.widen`.
    """

    graph: Graph
    stage: Stage
    rank: int
    images: int
    needs: StageNeeds
    patch_needs: StageNeeds | None
    exchanges: Sequence[Exchange]
    regions: OperandRegions
    widens: bool

    def programs(self) -> tuple[Program, ...]:
        """Return the programs in order: a single one, or one for each patch and then the tile's."""
        if self.patch_needs is not None:
            to_send = tuple(step for steps in self._sends.values() for step in steps)
            return (*self._patches(self.patch_needs), Program(to_send))
        incoming, outgoing = self._incoming, self._outgoing
        receives = {
            value: receive_step(e, self.rank, self.graph.axes[value], self.graph.dtype_of(value))
            for value, e in incoming.items()
        }
        foreign = {e.value for e in outgoing if HOST in e.target.ranks}
        foreign |= {value for value, e in incoming.items() if e.source is not self.stage.team}
        tile = _Tile(
            needs=self.needs,
            position=self._position,
            receives=receives,
            sends=self._sends,
            foreign=foreign,
            moved={*incoming, *(e.value for e in outgoing)},
        )
        return (Program(tuple(self._steps(tile))),)

    @cached_property
    def _position(self) -> tuple[int, ...]:
        return self.stage.team.position(self.rank)

    @cached_property
    def _incoming(self) -> dict[str, Exchange]:
        """Exchanges to the stage, by value."""
        return {e.value: e for e in self.exchanges if e.target is self.stage.team}

    @cached_property
    def _outgoing(self) -> list[Exchange]:
        return [e for e in self.exchanges if e.source is self.stage.team]

    @cached_property
    def _sends(self) -> dict[str, list[Step]]:
        """By value, the messages that the rank sends of it."""
        sends: dict[str, list[Step]] = {}
        for e in self._outgoing:
            if transfers := e.sends(self.rank):
                step = Send(e.tag, e.value, e.kind, transfers, self.graph.axes[e.value])
                sends.setdefault(e.value, []).append(step)
        return sends

    # --- patches ----------------------------------------------------------------------------

    def _patches(self, needs: StageNeeds) -> Iterator[Program]:
        """A program for each patch: from its region of the image to its regions of the tile."""
        pairs = zip(self._position, self.stage.patches, strict=True)
        ranges = [range(k * n, (k + 1) * n) for k, n in pairs]
        sent = list(self._sends)
        for number, patch in enumerate(itertools.product(*ranges), 1):
            tile = _Tile(
                needs=needs,
                position=patch,
                receives={v: self._patch_input(e, needs, patch) for v, e in self._incoming.items()},
                sends={},
                foreign=sent,
                moved=self._incoming,
                held=sent,
            )
            is_last = number == self.stage.num_patches
            keeps = [self._keep(value, needs, patch, is_last) for value in sent]
            yield Program((*self._steps(tile), *keeps))

    def _patch_input(self, exchange: Exchange, needs: StageNeeds, patch: Sequence[int]) -> Receive:
        """The step that reads a patch's region of the image, halo included."""
        value, region = exchange.value, region_at(needs.need[exchange.value], patch)
        return Receive(
            tag=exchange.tag,
            value=value,
            kind="input",
            region=region,
            retained=None,
            transfers=(Transfer(HOST, self.rank, region),),
            axes=self.graph.axes[value],
            dtype=self.graph.dtype_of(value),
        )

    def _keep(self, value: str, needs: StageNeeds, patch: Sequence[int], is_last: bool) -> Keep:
        """The step that copies a patch's region of a value to its place in the tile."""
        return Keep(
            value=value,
            own=region_at(needs.own[value], patch),
            whole=region_at(self.needs.own[value], self._position),
            axes=self.graph.axes[value],
            dtype=self.graph.dtype_of(value),
            last=is_last,
        )

    # --- steps ------------------------------------------------------------------------------

    def _steps(self, tile: _Tile) -> list[Step]:
        """Steps that compute the stage on a tile."""
        live = [node for node in self.stage.nodes if node.name in tile.needs.computed]
        last_use = {value: node.name for node in live for value in node.operands}
        receives = dict(tile.receives)
        steps: list[Step] = []
        for node in live:
            operands = list(dict.fromkeys(node.operands))
            steps += [receives.pop(value) for value in operands if value in receives]
            steps.append(self._compute(node, tile, live, last_use))
            steps += tile.sends.get(node.name, ())
            done = [value for value in operands if last_use[value] == node.name]
            if node.name not in last_use:
                done.append(node.name)
            if freed := tuple(value for value in done if value not in tile.held):
                steps.append(Free(freed))
        return widened(steps, self.stage.nodes) if self.widens else steps

    @cached_property
    def _number(self) -> dict[str, int]:
        """Number of each call in the stage."""
        return {node.name: k for k, node in enumerate(self.stage.nodes)}

    def _compute(
        self, node: Node, tile: _Tile, live: Sequence[Node], last_use: Mapping[str, str]
    ) -> Compute:
        region = region_at(tile.needs.computed[node.name], tile.position)
        needs = self.regions.read_by(node, region)
        clipped = tuple(
            need & Region.whole(extent_in(self.graph, operand, self.images))
            for need, operand in zip(needs, node.operands, strict=True)
        )
        over = self._overwritten(node, live, tile)
        overwrites = (
            over is not None
            and last_use[over] == node.name
            and tile.needs.computed[over] == tile.needs.computed[node.name]
        )
        return Compute(self._number[node.name], region, needs, clipped, overwrites)

    def _overwritten(self, node: Node, live: Sequence[Node], tile: _Tile) -> str | None:
        """The operand added to a convolution, if the result may overwrite it after its last use.

        That is safe if this rank computed the operand, if it is held nowhere else (nor a view of
        it), and if the convolution does not read a value that is moved: when the halo of such a
        value arrives, a part of the result is computed a second time.
        """
        if not isinstance(rule_of(node), Fused) or node.args["other"] is None:
            return None
        value, made = node.args["other"].value, self.graph.by_name
        if value not in made or value in tile.foreign or node.operands[0] in tile.moved:
            return None
        readers = (reader for reader in live if value in reader.operands)
        calls = [made[value], *readers]
        read_once = node.operands.count(value) == 1
        return value if read_once and all(rule_of(call).allocates for call in calls) else None
