"""A rank's program made ready to run: a list of calls in which only the numbers are missing.

Every region, slice and argument is known from the plan, so all of it is worked out once, when the
plan is loaded; a step of a run is little more than the operator's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from .axes import Axes, is_image
from .buffers import Place, kept_by_host, rows_beside, scratch_name, spot_names
from .exchange import HOST
from .node import Node
from .part import Part
from .patchwork import (
    Framed,
    Patchwork,
    Pieces,
    channels_last,
    in_order,
    nothing,
    packed,
    putter,
    room,
    taker,
)
from .placement import Arena, Pool
from .program import Compute, Free, Keep, Program, Receive, Send
from .region import Region
from .rules import Rule
from .rules.base import Alone, Call
from .rules.fused import Fused
from .rules.windows import Window
from .run import Action, Piece, Run

NOTHING = Region(((0, 0),))

LARGE = 1 << 20
"""Bytes of an output that lies in memory of its own."""


class Routine:
    """A program with all worked out but the numbers.

    Parameters
    ----------
    program
        The rank's steps.
    part
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
    left
        Regions of values that are at hand after.
    """

    def __init__(
        self,
        program: Program,
        part: Part,
        rules: Sequence[Rule],
        weights: Sequence[Mapping[str, torch.Tensor]],
        held: Mapping[str, Region] | None = None,
        places: Mapping[str, Place] | None = None,
        arena: Arena | None = None,
    ):
        self.part, self.rules, self.weights = part, rules, weights
        self._places, self._arena, self._pool = places or {}, arena, Pool()
        self._held: dict[str, Region] = dict(held or {})
        self._kept = set(kept_by_host(program, part.nodes))
        self._apart: dict[str, Patchwork] = {}  # values whose halo lies beside them
        self._awaited: dict[str, Action] = {}  # halos that nobody has waited for
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
        node, rule = self.part.nodes[step.node], self.rules[step.node]
        if step.region.empty:  # only padding is read here further on, or nothing at all
            action = self._store(node, lambda: nothing(node, step.region))
        else:
            action = self._before_the_halo(step, node, rule) or self._whole(step, node, rule)
        self._held[node.name] = step.region
        number = step.node

        def compute(run: Run) -> None:
            run.at = node.label
            action(run)
            run.told(number)

        return compute

    def _store(self, node: Node, make: Callable[[], Any]) -> Action:
        def store(run: Run) -> None:
            run.values[node.name] = make()

        return store

    def _whole(self, step: Compute, node: Node, rule: Rule) -> Action:
        given = self._given(step, node, rule)
        if step.overwrites and self._in_one_run(node, given[-1]):
            rule = replace(rule, overwrites=True)
        operands = self._operands(node, given)
        weights = self.weights[step.node]
        if step.padding is not None:
            call = rule.bound_alone(Alone(list(step.padding), []), weights)
        else:
            scratch = self._scratch(rule, given, step.region)
            call = rule.bound(given, step.needs, step.region, weights, scratch)
        call = self._placed(call, node, rule, step.region)
        name, path, kind, any_layout = node.name, node.path, node.kind, rule.any_layout

        def apply(run: Run) -> None:
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
        if isinstance(rule, Window) and not fixed and node.operands[0] not in self._apart:
            longer = rule.left_over(self._held[node.operands[0]], given[0])
            if not rule.scratch(longer, step.region):  # what is copied is cut as well
                given[0] = longer
        return given

    def _scratch(self, rule: Rule, given: Sequence[Region], region: Region) -> torch.Tensor | None:
        """Memory for what a call writes on the way, if it has a place."""
        found = rule.scratch(given[0], region) if given else None
        place = self._places.get(scratch_name(rule))
        return self._piece(place, *found, rule.node.dtype) if found and place else None

    def _in_one_run(self, node: Node, region: Region) -> bool:
        """Whether a region of the last operand is one run of memory, which may be written into."""
        value, axes = node.operands[-1], node.operand_axes[-1]
        apart = self._apart.get(value)
        held = apart.own if apart else self._held[value]
        return held == region or rows_beside(held, region, axes)

    def _before_the_halo(self, step: Compute, node: Node, rule: Rule) -> Action | None:
        """Compute from what is here, and anew what reads the halo, once that has come."""
        value = node.operands[0] if node.operands else ""
        apart = self._apart.get(value)
        if apart is None or step.padding is not None:
            return None
        if not (alone := rule.alone(apart.own, step.region)):
            return None
        others = self._operands(node, step.clipped, first=1)
        weights = self.weights[step.node]
        main = self._placed(rule.bound_alone(alone, weights), node, rule, step.region)
        strips = []
        for strip in alone.wrong:
            needs, clipped = _needs(rule, strip, step.clipped)
            strips.append(
                (
                    apart.assembly(clipped[0]),
                    self._operands(node, clipped, first=1),
                    rule.bound(clipped, needs, strip, weights),
                    putter(node.axes, step.region, strip),
                )
            )
        arrive = self.arrival(value) if strips else None
        name, path, kind = node.name, node.path, node.kind
        layer = self.part.paths.get(value, value)

        def apply(run: Run) -> None:
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

    def _placed(self, call: Call, node: Node, rule: Rule, region: Region) -> Call:
        """A call whose result lies where it has a place, if it has one."""
        if node.name in self._places:
            spots = [
                self._piece(self._places[name], node.axes, region, dtype)
                for name, dtype in zip(spot_names(rule), rule.spots, strict=True)
            ]
            return rule.into(call, spots)
        size = node.axes.local_bytes(region, node.dtype.itemsize)
        fused = isinstance(rule, Fused) and rule.spots and not rule.overwrites
        if not (self._arena and fused and node.name in self._kept and size > LARGE):
            return call

        def by_itself(*operands: torch.Tensor) -> torch.Tensor:
            return rule.into(call, [self._own_memory(node.axes, region, node.dtype)])(*operands)

        return by_itself

    def _piece(self, place: Place, axes: Axes, region: Region, dtype: torch.dtype) -> torch.Tensor:
        """The part of a place that covers a region."""
        whole = self._arena.tensor(place.offset, axes.local_shape(place.region), dtype)
        return axes.piece(whole, place.region, region)

    # --- operands ---------------------------------------------------------------------------

    def _operands(self, node: Node, regions: Sequence[Region], first: int = 0) -> list[Action]:
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
        take = taker(axes, apart.region, region)
        layer = self.part.paths.get(value, value)
        # From now on, and for whoever reads it later, the value is in one piece.
        del self._apart[value]
        self._held[value] = apart.region

        def assembled(run: Run) -> torch.Tensor:
            arrive(run)
            start = run.recorder.now()
            whole = run.values[value] = assemble(run.values[value].tensors)
            run.recorder.note(start, "unpack", layer, apart.kind)
            return take(whole)

        return assembled

    def arrival(self, value: str) -> Action:
        """What waits for the halo of a value, the first time."""
        return self._awaited.pop(value, lambda run: None)

    # --- moving -----------------------------------------------------------------------------

    def send(self, step: Send) -> Action:
        """What sends regions of a value to other ranks, or keeps them for the host."""
        layer = self.part.paths.get(step.value, step.value)
        parts = [
            (t.target, t.region, self.operand(step.value, t.region, step.axes))
            for t in step.transfers
        ]

        def send(run: Run) -> None:
            run.at = layer
            for target, region, take in parts:
                if target == HOST:
                    region = self.part.in_batch(region, step.axes, run.first_image)
                    run.pieces.append(Piece(step.value, region, take(run)))
                    continue
                start = run.recorder.now()
                piece = packed(take(run), step.axes)
                run.transport.send(target, step.tag, piece)
                run.recorder.note(start, "pack", layer, step.kind, piece.nbytes)

        return send

    def receive(self, step: Receive) -> Action:
        """What reads a value of the image, or receives what other ranks send of it."""
        layer = self.part.paths.get(step.value, step.value)
        own = self._held.get(step.value, NOTHING)
        self._held[step.value] = step.region
        if any(t.source == HOST for t in step.transfers):
            size = step.axes.local_bytes(step.region, step.dtype.itemsize)

            def read(run: Run) -> None:
                run.at, start = layer, run.recorder.now()
                region = self.part.in_batch(step.region, step.axes, run.first_image)
                image = run.read(step.value, region)
                run.values[step.value] = channels_last(image, step.axes)
                run.recorder.note(start, "read", layer, step.kind, size)

            return read
        halo = tuple(t.region for t in step.transfers)
        facts = (step.region, own, halo, step.axes, step.dtype, step.kind)
        place, whole = self._places.get(step.value), None
        if place and rows_beside(step.region, own, step.axes) and step.region in place.region:
            whole = self._piece(place, step.axes, step.region, step.dtype)
        self._apart[step.value] = apart = (
            Framed(*facts, whole) if whole is not None else Patchwork(*facts)
        )

        def receive(run: Run) -> None:
            run.at = layer
            pieces = Pieces([run.values.get(step.value)])
            for t in step.transfers:
                buffer, piece = apart.message(t.region)
                pieces.arrivals.append(run.transport.receive(t.source, step.tag, buffer))
                pieces.tensors.append(piece)
            run.values[step.value] = pieces

        def arrive(run: Run) -> None:
            pieces, start = run.values[step.value], run.recorder.now()
            run.transport.wait(pieces.arrivals)
            size = sum(tensor.nbytes for tensor in pieces.tensors[1:])
            run.recorder.note(start, "wait", layer, step.kind, size)

        if halo:
            self._awaited[step.value] = arrive
        return receive

    def _free(self, step: Free) -> Action:
        # A halo that nobody read must come first: a later receive might take it for its own.
        arrivals = [self._awaited.pop(v) for v in step.values if v in self._awaited]
        for value in step.values:
            self._apart.pop(value, None)

        def free(run: Run) -> None:
            for arrive in arrivals:
                arrive(run)
            for value in step.values:
                run.values.pop(value, None)

        return free

    def _keep(self, step: Keep) -> Action:
        layer = self.part.paths.get(step.value, step.value)
        take = self.operand(step.value, step.own, step.axes)
        put = putter(step.axes, step.whole, step.own)
        size = step.axes.local_bytes(step.own, step.dtype.itemsize)
        if step.last:
            self.left[step.value] = step.whole

        def keep(run: Run) -> None:
            run.at = layer
            if step.value not in run.tiles:
                run.tiles[step.value] = self._own_memory(step.axes, step.whole, step.dtype)
            patch = take(run)
            start = run.recorder.now()
            put(run.tiles[step.value], patch)
            run.recorder.note(start, "unpack", layer, "patch", size)
            del run.values[step.value]
            if step.last:
                run.values[step.value] = run.tiles.pop(step.value)

        return keep

    def _own_memory(self, axes: Axes, region: Region, dtype: torch.dtype) -> torch.Tensor:
        """Memory for what others may keep as long as they like; on the heap it leaves a hole."""
        size = axes.local_bytes(region, dtype.itemsize)
        if size <= LARGE or not is_image(axes) or self._arena is None:
            return room(axes, region, dtype)
        return self._pool.arena(size).tensor(0, axes.local_shape(region), dtype)


def _needs(rule: Rule, strip: Region, held: Sequence[Region]) -> tuple[list[Region], list[Region]]:
    """What a part of a result reads of each operand; of the same images as the whole."""
    needs, clipped = [], []
    for number, (axes, region) in enumerate(zip(rule.node.operand_axes, held, strict=True)):
        need = Region(tuple(rule.need(number, axis, s) for axis, s in enumerate(strip.spans)))
        needs.append(need)
        clipped.append(need & Region((region.spans[0], *((0, n) for n in axes.extent[1:]))))
    return needs, clipped
