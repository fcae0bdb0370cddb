"""A rank's program made ready to run: a list of calls in which only the numbers are missing.

Every region, slice and argument is known from the plan, so all of it is worked out once, when the
plan is loaded; a step of a run is little more than the operator's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..ir.axes import rows_beside
from ..ir.exchange import HOST
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Program, Receive, Send, held_by_host
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..kernels.preallocated import Arena
from ..rules import Rule
from ..rules.base import CoreAndBoundary
from ..rules.windows import Window
from .arena import ResultPlaces
from .buffer_plan import Place
from .halo_tile import (
    FramedHaloTile,
    HaloTile,
    Pieces,
    channels_last,
    in_order,
    nothing,
    packed,
    putter,
)
from .local_values import LocalValues
from .state import Action, Piece, RunState


class CompiledProgram:
    """A program with all worked out but the numbers.

    Parameters
    ----------
    program
        The rank's steps.
    rank_plan
        The rank's part of the plan.
    rules, weights
        Of each of the part's nodes.
    held
        Regions of values that are at hand before.
    places, arena
        Where results lie that have a place, and the memory that it is in; without it, results lie
        where PyTorch puts them.

    Attributes
    ----------
    actions
        What is done, in order.
    local_values
        What is at hand after all of it.
    left
        Regions of values that are at hand after for other compiled_programs.
    """

    def __init__(
        self,
        program: Program,
        rank_plan: RankPlan,
        rules: Sequence[Rule],
        weights: Sequence[Mapping[str, torch.Tensor]],
        held: Mapping[str, Region] | None = None,
        places: Mapping[str, Place] | None = None,
        arena: Arena | None = None,
    ):
        self.rank_plan, self.rules, self.weights = rank_plan, rules, weights
        self.local_values = LocalValues(held or {}, rank_plan.paths)
        self._result_places = ResultPlaces(
            places or {}, arena, held_by_host(program, rank_plan.nodes)
        )
        prepare = {
            Compute: self._compute,
            Send: self.send,
            Receive: self.receive,
            Free: self._free,
            Keep: self._keep,
        }
        self.left: dict[str, Region] = {}
        self.actions: list[Action] = [prepare[type(step)](step) for step in program.steps]

    # --- computing --------------------------------------------------------------------------

    def _compute(self, step: Compute) -> Action:
        node, rule = self.rank_plan.nodes[step.node], self.rules[step.node]
        if step.region.empty:  # only padding is read here further on, or nothing at all
            action = self._store(node, lambda: nothing(node, step.region))
        else:
            action = self._before_the_halo(step, node, rule) or self._whole(step, node, rule)
        self.local_values.hold(node.name, step.region)
        number = step.node

        def compute(run: RunState) -> None:
            run.at = node.label
            action(run)
            run.told(number)

        return compute

    def _store(self, node: Node, make: Callable[[], Any]) -> Action:
        def store(run: RunState) -> None:
            run.values[node.name] = make()

        return store

    def _whole(self, step: Compute, node: Node, rule: Rule) -> Action:
        given = self._given(step, node, rule)
        if step.overwrites and self._may_write(node, given[-1]):
            rule = replace(rule, overwrites=True)
        operands = self.local_values.operands(node, given)
        weights = self.weights[step.node]
        if step.padding is not None:
            call = rule.bound_core(CoreAndBoundary(list(step.padding), []), weights)
        else:
            scratch = self._result_places.scratch(rule, given, step.region)
            call = rule.bound(given, step.needs, step.region, weights, scratch)
        call = self._result_places.placed(call, node, rule, step.region)
        name, path, kind, any_layout = node.name, node.path, node.kind, rule.any_layout

        def apply(run: RunState) -> None:
            tensors = [operand(run) for operand in operands]
            start = run.recorder.now()
            if not any_layout:
                tensors = map(in_order, tensors)
            run.values[name] = call(*tensors)
            run.recorder.note(start, "compute", path, kind)

        return apply

    def _given(self, step: Compute, node: Node, rule: Rule) -> list[Region]:
        """The region of each operand to hand over: what is needed, or a little more of it."""
        given = list(step.clipped)
        fixed = step.padding is not None
        if isinstance(rule, Window) and not fixed and not self.local_values.apart(node.operands[0]):
            longer = rule.left_over(self.local_values.whole(node.operands[0]), given[0])
            if not rule.scratch(longer, step.region):  # what is copied is cut as well
                given[0] = longer
        return given

    def _may_write(self, node: Node, region: Region) -> bool:
        """Whether a region of the last operand is one run of memory, which may be written into."""
        value, axes = node.operands[-1], node.operand_axes[-1]
        own = self.local_values.own(value)
        return own == region or rows_beside(own, region, axes)

    def _before_the_halo(self, step: Compute, node: Node, rule: Rule) -> Action | None:
        """Compute from what is here, and anew what reads the halo, once that has come."""
        value = node.operands[0] if node.operands else ""
        apart = self.local_values.apart(value)
        if apart is None or step.padding is not None:
            return None
        if not (alone := rule.core_and_boundary(apart.own, step.region)):
            return None
        others = self.local_values.operands(node, step.clipped, first=1)
        weights = self.weights[step.node]
        main = self._result_places.placed(rule.bound_core(alone, weights), node, rule, step.region)
        strips = []
        for strip in alone.boundary:
            needs, clipped = _needs(rule, strip, step.clipped)
            strips.append(
                (
                    apart.assembly(clipped[0]),
                    self.local_values.operands(node, clipped, first=1),
                    rule.bound(clipped, needs, strip, weights),
                    putter(node.axes, step.region, strip),
                )
            )
        arrive = self.local_values.arrival(value) if strips else None
        name, path, kind = node.name, node.path, node.kind
        layer = self.local_values.layer(value)

        def apply(run: RunState) -> None:
            recorder, held = run.recorder, run.values[value].tensors
            more = [other(run) for other in others]
            start = recorder.now()
            result = run.values[name] = main(held[0], *more)
            recorder.note(start, "compute", path, kind)
            if not strips:
                return
            arrive(run)
            start = recorder.now()
            pieces = [(assemble(held), *(o(run) for o in more)) for assemble, more, _, _ in strips]
            recorder.note(start, "unpack", layer, apart.kind)
            start = recorder.now()
            for tensors, (_, _, call, put) in zip(pieces, strips, strict=True):
                put(result, call(*tensors))
            recorder.note(start, "compute", path, kind)

        return apply

    # --- moving -----------------------------------------------------------------------------

    def send(self, step: Send) -> Action:
        """What sends regions of a value to other ranks, or keeps them for the host."""
        layer = self.local_values.layer(step.value)
        parts = [
            (t.target, t.region, self.local_values.operand(step.value, t.region, step.axes))
            for t in step.transfers
        ]

        def send(run: RunState) -> None:
            run.at = layer
            for target, region, take in parts:
                if target == HOST:
                    region = self.rank_plan.in_batch(region, step.axes, run.first_image)
                    run.pieces.append(Piece(step.value, region, take(run)))
                    continue
                start = run.recorder.now()
                piece = packed(take(run), step.axes)
                run.transport.send(target, step.tag, piece)
                run.recorder.note(start, "pack", layer, step.kind, piece.nbytes)

        return send

    def receive(self, step: Receive) -> Action:
        """What reads a value of the image, or receives what other ranks send of it."""
        layer = self.local_values.layer(step.value)
        if any(t.source == HOST for t in step.transfers):
            size = step.axes.local_bytes(step.region, step.dtype.itemsize)
            self.local_values.hold(step.value, step.region)

            def read(run: RunState) -> None:
                run.at, start = layer, run.recorder.now()
                region = self.rank_plan.in_batch(step.region, step.axes, run.first_image)
                image = run.read(step.value, region)
                run.values[step.value] = channels_last(image, step.axes)
                run.recorder.note(start, "read", layer, step.kind, size)

            return read
        apart = self._pieces(step)

        def receive(run: RunState) -> None:
            run.at = layer
            pieces = Pieces([run.values.get(step.value)])
            for t in step.transfers:
                buffer, piece = apart.message(t.region)
                pieces.arrivals.append(run.transport.receive(t.source, step.tag, buffer))
                pieces.tensors.append(piece)
            run.values[step.value] = pieces

        def arrive(run: RunState) -> None:
            pieces, start = run.values[step.value], run.recorder.now()
            run.transport.wait(pieces.arrivals)
            size = sum(tensor.nbytes for tensor in pieces.tensors[1:])
            run.recorder.note(start, "wait", layer, step.kind, size)

        self.local_values.hold_apart(step.value, apart, arrive if step.transfers else None)
        return receive

    def _pieces(self, step: Receive) -> HaloTile:
        """In which pieces a value comes, and whether they lie side by side from the start."""
        own, place = self.local_values.own(step.value), self._result_places.place(step.value)
        halo = tuple(t.region for t in step.transfers)
        facts = (step.region, own, halo, step.axes, step.dtype, step.kind)
        if place and rows_beside(step.region, own, step.axes) and step.region in place.region:
            return FramedHaloTile(
                *facts, self._result_places.piece(place, step.axes, step.region, step.dtype)
            )
        return HaloTile(*facts)

    def _free(self, step: Free) -> Action:
        # A halo that nobody read must come first: a later receive might take it for its own.
        arrivals = self.local_values.free(step.values)

        def free(run: RunState) -> None:
            for arrive in arrivals:
                arrive(run)
            for value in step.values:
                run.values.pop(value, None)

        return free

    def _keep(self, step: Keep) -> Action:
        layer = self.local_values.layer(step.value)
        take = self.local_values.operand(step.value, step.own, step.axes)
        put = putter(step.axes, step.whole, step.own)
        size = step.axes.local_bytes(step.own, step.dtype.itemsize)
        if step.last:
            self.left[step.value] = step.whole

        def keep(run: RunState) -> None:
            run.at = layer
            if step.value not in run.tiles:
                run.tiles[step.value] = self._result_places.own(step.axes, step.whole, step.dtype)
            patch = take(run)
            start = run.recorder.now()
            put(run.tiles[step.value], patch)
            run.recorder.note(start, "unpack", layer, "patch", size)
            del run.values[step.value]
            if step.last:
                run.values[step.value] = run.tiles.pop(step.value)

        return keep


def _needs(rule: Rule, strip: Region, held: Sequence[Region]) -> tuple[list[Region], list[Region]]:
    """What a part of a result reads of each operand; of the same images as the whole."""
    needs, clipped = [], []
    for number, (axes, region) in enumerate(zip(rule.node.operand_axes, held, strict=True)):
        need = Region(tuple(rule.need(number, axis, s) for axis, s in enumerate(strip.spans)))
        needs.append(need)
        clipped.append(need & Region((region.spans[0], *((0, n) for n in axes.extent[1:]))))
    return needs, clipped
