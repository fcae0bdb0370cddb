"""The actions that compute a program's calls, before or after the halo of their operand is here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..ir.axes import rows_beside
from ..ir.node import Node, leaves
from ..ir.program import Compute
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..kernels.nan_watch import FINITE, look
from ..rules import Rule
from ..rules.base import Call
from ..rules.core_first import CoreAndBoundary, CoreFirst
from ..rules.fused import Fused
from ..rules.windows import Window
from .finite import see
from .halo_tile import Assemble, HaloTile, Put, in_order, nothing, putter
from .local_values import LocalValues
from .prepared_weights import PreparedWeights
from .result_places import ResultPlaces
from .state import Action, RunState


@dataclass(frozen=True)
class BoundaryStrip:
    """How a strip of a result that reads the halo is computed, once the halo is here.

    Attributes
    ----------
    assemble
        Assembles the region of the first operand that the strip reads.
    others
        Each gives the region of one further operand that the strip reads.
    call
        Computes the strip.
    put
        Writes it into the result.
    """

    assemble: Assemble
    others: Sequence[Action]
    call: Call
    put: Put


class ComputeActions:
    """Makes the actions of a program's calls, in the order of its steps.

    Parameters
    ----------
    rank_plan
        The rank's share of the plan.
    rules, weights
        The rule and the weights of each node of the rank's stage.
    values
        The values that the rank holds at this point of the program; each action adds its result.
    places
        The memory of results.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        rules: Sequence[Rule],
        weights: PreparedWeights,
        values: LocalValues,
        places: ResultPlaces,
    ):
        self._nodes, self._rules, self._weights = rank_plan.nodes, rules, weights
        self._values, self._places = values, places

    def action(self, step: Compute) -> Action:
        """The action that computes a call and reports that it is done."""
        node, rule = self._nodes[step.node], self._rules[step.node]
        if step.region.empty:  # later calls read no position of the result, or only padding
            apply = self._nothing(step, node)
        else:
            apply = self._overlap_halo(step, node, rule) or self._whole(step, node, rule)
        self._values.hold(node.name, step.region)
        number, label = step.node, node.label

        numbers = (arg for arg in leaves(node.args) if isinstance(arg, float))
        makes_nan = node.kind not in FINITE or not all(map(math.isfinite, numbers))

        def compute(run: RunState) -> None:
            run.at = label
            apply(run)
            see(number, label, run.values[node.name])
            if makes_nan:
                look(run.values[node.name])
            run.report_node(number)

        return compute

    def _nothing(self, step: Compute, node: Node) -> Action:
        def store(run: RunState) -> None:
            run.values[node.name] = nothing(node, step.region)

        return store

    # --- all of the result at once ------------------------------------------------------------

    def _whole(self, step: Compute, node: Node, rule: Rule) -> Action:
        """Compute a call from operands that are each in one piece."""
        given = self._given(step, node, rule)
        if step.overwrites and isinstance(rule, Fused) and self._may_write(node, given[-1]):
            rule = replace(rule, overwrites=True)
        operands = self._values.operands(node, given)
        call = self._places.placed(self._call(step, rule, given), node, rule, step.region)
        name, path, kind, any_layout = node.name, node.path, node.kind, rule.any_layout

        def apply(run: RunState) -> None:
            tensors = [operand(run) for operand in operands]
            start = run.recorder.now()
            if not any_layout:
                tensors = [in_order(tensor) for tensor in tensors]
            run.values[name] = call(*tensors)
            run.recorder.note(start, "compute", path, kind)

        return apply

    def _call(self, step: Compute, rule: Rule, given: Sequence[Region]) -> Call:
        """The operator with its weights, for these regions of its operands."""
        weights = self._weights.of(step.node, step.needs)
        if step.padding is not None:
            assert isinstance(rule, CoreFirst)  # the planner widens convolutions only
            return rule.bound_core(CoreAndBoundary(list(step.padding), []), weights)
        scratch = self._places.scratch(rule, given, step.region)
        return rule.bound(given, step.needs, step.region, weights, scratch)

    def _given(self, step: Compute, node: Node, rule: Rule) -> list[Region]:
        """The region of each operand that the call is given: its need, or a little more."""
        given = list(step.clipped)
        if step.padding is not None or not isinstance(rule, Window):
            return given
        if self._values.halo_tile(node.operands[0]) is None:
            longer = rule.left_over(self._values.region(node.operands[0]), given[0])
            if not rule.scratch(longer, step.region):  # a copy into padding cuts it as well
                given[0] = longer
        return given

    def _may_write(self, node: Node, region: Region) -> bool:
        """Whether a region of the last operand is one run of memory, and may be overwritten."""
        value, axes = node.operands[-1], node.operand_axes[-1]
        own = self._values.own(value)
        return own == region or rows_beside(own, region, axes)

    # --- the core first, the boundary once the halo is here -------------------------------------

    def _overlap_halo(self, step: Compute, node: Node, rule: Rule) -> Action | None:
        """The action that computes the core before the halo is here, and the boundary afterwards.

        Returns
        -------
        Action or None
            None if the whole result is computed at once.
        """
        tile = self._values.halo_tile(node.operands[0]) if node.operands else None
        if tile is None or step.padding is not None or not isinstance(rule, CoreFirst):
            return None
        split = rule.core_and_boundary(tile.own, step.region)
        if split is None:
            return None
        others = self._values.operands(node, step.clipped, first=1)
        call = rule.bound_core(split, self._weights.of(step.node, step.needs))
        core = self._core(node, self._places.placed(call, node, rule, step.region), others)
        if not split.boundary:
            return core
        strips = [self._strip(step, rule, tile, region) for region in split.boundary]
        arrive = self._values.arrival(node.operands[0])
        boundary = self._boundary(node, tile, strips)

        def apply(run: RunState) -> None:
            held = run.values[node.operands[0]].tensors
            core(run)
            arrive(run)
            boundary(run, held)

        return apply

    def _core(self, node: Node, call: Call, others: Sequence[Action]) -> Action:
        """The action that computes the result from the tile without its halo; its boundary is
        wrong."""
        value, name, path, kind = node.operands[0], node.name, node.path, node.kind

        def compute_core(run: RunState) -> None:
            own = run.values[value].tensors[0]
            tensors = [other(run) for other in others]
            start = run.recorder.now()
            run.values[name] = call(own, *tensors)
            run.recorder.note(start, "compute", path, kind)

        return compute_core

    def _strip(self, step: Compute, rule: Rule, tile: HaloTile, region: Region) -> BoundaryStrip:
        """How to compute one strip of the boundary."""
        node = rule.node
        needs, clipped = _needs(rule, region, step.clipped)
        return BoundaryStrip(
            assemble=tile.assembly(clipped[0]),
            others=self._values.operands(node, clipped, first=1),
            call=rule.bound(clipped, needs, region, self._weights.of(step.node, needs)),
            put=putter(node.axes, step.region, region),
        )

    def _boundary(
        self, node: Node, tile: HaloTile, strips: Sequence[BoundaryStrip]
    ) -> Callable[[RunState, Sequence[torch.Tensor | None]], None]:
        """The action that computes the strips of the boundary again, and writes them."""
        name, path, kind = node.name, node.path, node.kind
        layer = self._values.layer(node.operands[0])

        def compute_boundary(run: RunState, held: Sequence[torch.Tensor | None]) -> None:
            recorder, result = run.recorder, run.values[name]
            start = recorder.now()
            operands = [
                (strip.assemble(held), *(other(run) for other in strip.others)) for strip in strips
            ]
            recorder.note(start, "unpack", layer, tile.kind)
            start = recorder.now()
            for strip, tensors in zip(strips, operands, strict=True):
                strip.put(result, strip.call(*tensors))
            recorder.note(start, "compute", path, kind)

        return compute_boundary


def _needs(rule: Rule, strip: Region, held: Sequence[Region]) -> tuple[list[Region], list[Region]]:
    """The region of each operand that a strip of a result reads, with its padding and without.

    Parameters
    ----------
    held
        The regions that the whole result reads; the strip reads the same images of the batch.
    """
    needs, clipped = [], []
    for number, (axes, region) in enumerate(zip(rule.node.operand_axes, held, strict=True)):
        need = Region(tuple(rule.need(number, axis, s) for axis, s in enumerate(strip.spans)))
        needs.append(need)
        clipped.append(need & Region((region.spans[0], *((0, n) for n in axes.extent[1:]))))
    return needs, clipped
