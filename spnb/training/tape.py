"""One micro-batch on a rank in training: the forward pass and the backward pass.

Each call is differentiated by itself.  Each transfer between ranks is repeated in the opposite
direction, and the arriving gradients are summed.  So the backward pass is the program, read from
its end::

    forward     compute x    send x    ──►  receive x (tile and halo)  ──►  compute y from x
    backward    gradient of  add what  ◄──  send the halo's gradient,  ◄──  gradient of x, halo
                x's operands arrives        keep the tile's                 included

A tape may compute segments of its program again, in place of holding their values (Chen et al.,
*Training deep nets with sublinear memory cost*, 2016).  Of such a segment it holds the values that
are alive at its beginning, and what the segment read or received.  In the backward pass it runs the
segment once more, without messages, before the gradients of its calls.

Both passes stop where they wait for messages, so that the tapes of several patches can share a
processor and its memory: a tape that waits puts its values into a store.

The backward pass waits for its messages in the reverse order of the forward pass.  In the order of
the forward pass no two ranks wait for each other; so they do not in the reverse order either.

The module is longer than others since each step and its reverse are read side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch

from ..ir.exchange import HOST, Transfer
from ..ir.node import Node, map_leaves
from ..ir.program import Compute, Free, Program, Receive, Segments, Send
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.tags import backward
from ..rules import Rule
from ..runtime.halo_tile import HaloTile, in_order, message, nothing, packed
from ..runtime.pipeline_stage import PipelineStage
from ..runtime.state import Piece, Read
from ..transport import Arrival, Messages
from .differentiated import values_with_gradient
from .recorded_call import RecordedCall, entering
from .saved_pieces import SavedPieces
from .tape_values import CHANNELS_LAST, HeldValues, TapedValues
from .value_store import InMemory, Store

Waits = Iterator[Sequence[Arrival]]
"""A pass that stops at each wait, and gives the messages that it waits for."""


class Tape:
    """A program in training, for one micro-batch.

    Parameters
    ----------
    rank_plan, rules
        The rank's share of the plan, and the rules of its nodes.
    program
        The program that it runs.
    weights
        Parameters, buffers and constants by name; those that require a gradient get one.
    transport
        Carries its messages.
    first_image
        Index in the batch of the micro-batch's first image.
    segments
        The parts of the program whose values are computed again in the backward pass.
    store
        Where values wait for the backward pass, and while other tapes compute.
    of_inputs
        Whether the network's inputs have a gradient.

    Attributes
    ----------
    pieces
        The regions of the network's outputs that this rank computed.
    values
        The values that it holds, and their gradients.
    at, layer
        The operation that it is at, for the message of an error; and the path of its latest layer.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        rules: Sequence[Rule],
        program: Program,
        weights: Mapping[str, torch.Tensor],
        transport: Messages,
        first_image: int = 0,
        segments: Segments | None = None,
        store: Store | None = None,
        of_inputs: bool = False,
    ):
        self.rank_plan, self.rules, self.program, self.weights = rank_plan, rules, program, weights
        self.transport, self.first_image = transport, first_image
        self.segments, self.store = segments or Segments(), store or InMemory()
        self.pieces: list[Piece] = []
        self.at, self.layer = "start", ""
        self.values = TapedValues()
        self.of_inputs = of_inputs
        self._calls: dict[str, RecordedCall] = {}
        self._own: dict[int, Region] = {}  # the region that the rank had before a receiving step
        self._held: dict[int, HeldValues] = {}  # by the first step of a segment
        self._arrived: dict[int, list[Any]] = {}  # by receiving step of a segment
        self._postponed: list[Callable[[], None]] = []

    @classmethod
    def of(
        cls,
        stage: PipelineStage,
        number: int,
        weights: Mapping[str, torch.Tensor],
        transport: Messages,
        recorded: bool = True,
        of_inputs: bool = False,
    ) -> Tape:
        """The tape of a micro-batch on a rank.

        Parameters
        ----------
        stage
            The stage that the rank works in.
        number
            Number of the micro-batch.
        weights, transport
            As above.
        recorded
            Whether a backward pass may follow.
        of_inputs
            Whether the network's inputs have a gradient.
        """
        rank_plan = stage.rank_plan
        images = rank_plan.micro_batch_sizes[number]
        (program,) = rank_plan.programs[images]
        return cls(
            rank_plan=rank_plan,
            rules=stage.rules,
            program=program,
            weights=weights,
            transport=transport,
            first_image=rank_plan.first_image(number),
            segments=rank_plan.segments.get(images) if recorded else Segments.dropped(program),
            of_inputs=of_inputs,
        )

    @cached_property
    def differentiated(self) -> frozenset[str]:
        """Names of the values that have a gradient."""
        nodes = self.rank_plan.nodes
        return values_with_gradient(self.program, nodes, self.weights, self.of_inputs)

    # --- forward ----------------------------------------------------------------------------

    def forward(
        self,
        read: Read,
        computed: Callable[[Node, Sequence[Any]], None] = lambda node, operands: None,
    ) -> None:
        """Run the program.

        Parameters
        ----------
        read
            Reads a region of the image.
        computed
            Called after each call with its operands.
        """
        for arrivals in self.forward_waits(read, computed):
            self.transport.wait(arrivals)

    def forward_waits(
        self,
        read: Read,
        computed: Callable[[Node, Sequence[Any]], None] = lambda node, operands: None,
    ) -> Waits:
        """Run the program as `forward` does; go on when the messages have arrived."""
        for number, step in enumerate(self.program.steps):
            if number in self.segments.starts:
                self._held[number] = self.values.held(self.store)
            again = number < self.segments.stop
            if isinstance(step, Compute):
                self._compute(step, computed, recorded=not again)
            elif isinstance(step, Send):
                self._send(step)
            elif isinstance(step, Receive):
                arrivals, arrived = self._receive(number, step, read)
                if arrivals:
                    yield arrivals
                self._assemble(number, step, arrived)
                if again and self.segments.starts:
                    self._arrived[number] = [self.store.put(piece) for piece in arrived]
            elif isinstance(step, Free):
                self.values.free(step.values)
        if self.segments.stop:
            self.values.free_all()

    def _record_again(self, first: int, stop: int) -> None:
        """Run a segment once more, from the values held at its beginning; nothing is sent."""
        with self.values.held_again(self._held.pop(first), self.store):
            for number, step in enumerate(self.program.steps[first:stop], first):
                if isinstance(step, Compute):
                    self._compute(step, lambda node, operands: None, recorded=True)
                elif isinstance(step, Receive):
                    arrived = [self.store.take(piece) for piece in self._arrived.pop(number)]
                    self._assemble(number, step, arrived)
                elif isinstance(step, Free):
                    self.values.free(step.values)

    def _compute(
        self, step: Compute, computed: Callable[[Node, Sequence[Any]], None], recorded: bool
    ) -> None:
        node, rule = self.rank_plan.nodes[step.node], self.rules[step.node]
        self.at, self.layer = node.label, node.path
        if step.region.empty:
            self.values.hold(node.name, step.region, nothing(node, step.region))
            return
        reads = list(zip(node.operands, step.clipped, node.operand_axes, strict=True))
        pieces = [self.values.piece(*read) for read in reads]
        padded = rule.padded(step.clipped[0], step.region) if recorded and reads else None
        if padded is not None:
            value, _, axes = reads[0]
            reads[0] = value, padded.region, axes
            pieces[0] = self.values.with_padding(value, padded.region, axes)
        saving = [self.values.saved(*read) for read in reads] if recorded else []
        saved = SavedPieces([piece for piece in saving if piece is not None])
        with torch.set_grad_enabled(recorded), saved.saving():
            operands = [
                map_leaves(entering, piece) if recorded and value in self.differentiated else piece
                for value, piece in zip(node.operands, pieces, strict=True)
            ]
            tensors = [leaf if rule.any_layout else in_order(leaf) for leaf in operands]
            weights = {w.name: self.weights[w.name] for w in node.weights}
            if padded is None:
                result = rule.apply(tensors, step.needs, step.region, weights)
            else:
                result = padded.apply(tensors, weights)
        computed(node, operands)
        self.values.hold(node.name, step.region, map_leaves(torch.Tensor.detach, result))
        if recorded:
            read = [region for _, region, _ in reads]
            self._calls[node.name] = RecordedCall.of(node, read, operands, weights, result)
            saved.refer_to(self.values.saved(node.name, step.region, node.axes))

    def _send(self, step: Send) -> None:
        for t in step.transfers:
            piece = self.values.piece(step.value, t.region, step.axes)
            if t.target == HOST:
                region = self.rank_plan.in_batch(t.region, step.axes, self.first_image)
                self.pieces.append(Piece(step.value, region, piece, self.first_image))
            else:
                self.transport.send(t.target, step.tag, packed(piece, step.axes, CHANNELS_LAST))

    def _receive(
        self, number: int, step: Receive, read: Read
    ) -> tuple[list[Arrival], list[torch.Tensor]]:
        """Read a region of the image, or begin to receive the pieces that other ranks send."""
        if any(t.source == HOST for t in step.transfers):
            region = self.rank_plan.in_batch(step.region, step.axes, self.first_image)
            return [], [read(step.value, region)]
        own = self.values.regions.get(step.value)
        self._own[number] = own or Region(((0, 0),) * len(step.region.spans))
        arrivals, pieces = [], []
        for t in step.transfers:
            buffer, piece = message(step.axes, t.region, step.dtype, CHANNELS_LAST)
            arrivals.append(self.transport.receive(t.source, step.tag, buffer))
            pieces.append(piece)
        self.at = f"{step.kind} of {self.rank_plan.paths.get(step.value, step.value)}"
        return arrivals, pieces

    def _assemble(self, number: int, step: Receive, arrived: list[torch.Tensor]) -> None:
        """Assemble a value from the rank's own region and the pieces that arrived, and hold it."""
        if number not in self._own:
            self.values.hold(step.value, step.region, in_order(arrived[0]))
            return
        halo = tuple(t.region for t in step.transfers)
        own = self._own[number]
        tile = HaloTile(step.region, own, halo, step.axes, step.dtype, step.kind, CHANNELS_LAST)
        pieces = [self.values.own(step.value, own, step.axes), *arrived]
        whole = self._with_room(number, step)
        self.values.cover(step.value, whole, tile.assembly(whole)(pieces))
        self.values.expect(step.value, step.region, [step.axes.local_shape(step.region)])

    def _with_room(self, number: int, step: Receive) -> Region:
        """The region of a value that arrives, with room for the padding that calls add to it."""
        whole = step.region
        for later in self.program.steps[number + 1 :]:
            if isinstance(later, Free) and step.value in later.values:
                break
            if isinstance(later, Compute) and not later.region.empty:
                first = self.rank_plan.nodes[later.node].operands[:1]
                if first == (step.value,):
                    padded = self.rules[later.node].padded(later.clipped[0], later.region)
                    whole = whole if padded is None else whole | padded.region
        return whole

    # --- backward ---------------------------------------------------------------------------

    def backward(
        self,
        outputs: Sequence[torch.Tensor | None],
        add: Callable[[str, torch.Tensor], None],
        passed: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Run the program backward, from its end.

        Parameters
        ----------
        outputs
            The gradient of each of `pieces`.
        add
            Called with the name of a weight and its gradient, once for each call that reads it.
        passed
            Called after each step with its number.
        """
        for arrivals in self.backward_waits(outputs, add, passed):
            self.transport.wait(arrivals)

    def backward_waits(
        self,
        outputs: Sequence[torch.Tensor | None],
        add: Callable[[str, torch.Tensor], None],
        passed: Callable[[int], None] = lambda number: None,
    ) -> Waits:
        """Run the program backward as `backward` does; go on when the messages have arrived."""
        left = list(zip(self.pieces, outputs, strict=True))
        for number, step in reversed(list(enumerate(self.program.steps))):
            if isinstance(step, Compute):
                self._compute_back(number, step, add)
            elif isinstance(step, Send):
                yield from self._send_back(step, left)
            elif isinstance(step, Receive) and number in self._own:
                self._receive_back(number, step)
            self._postponed.append(partial(passed, number))
        self._catch_up()

    def _catch_up(self) -> None:
        """Compute the gradients of weights that were postponed until messages were on their way.

        ::

            image     gradient ──► send the halo's ............ wait for the other's, add it
            filters                                 gradient
        """
        for each in self._postponed:
            each()
        self._postponed.clear()

    def _compute_back(
        self, number: int, step: Compute, add: Callable[[str, torch.Tensor], None]
    ) -> None:
        self._catch_up()
        node = self.rank_plan.nodes[step.node]
        self.at = f"the gradient of {node.label}"
        gradient = self.values.gradients.pop(node.name, None)
        segment = self.segments.of(number)
        if gradient is not None and segment is not None and segment[0] in self._held:
            self._record_again(*segment)
        call = self._calls.pop(node.name, None)
        if gradient is None or call is None:
            return
        found = call.differentiate(gradient, step.clipped)
        operands = zip(node.operands, node.operand_axes, step.clipped, found.operands, strict=True)
        for value, axes, region, parts in operands:
            self.values.add_gradient(value, axes, region, parts, found.new_memory)

        def add_weights() -> None:
            for name, of_weight in found.weights().items():
                add(name, of_weight)

        self._postponed.append(add_weights)

    def _send_back(self, step: Send, left: list[tuple[Piece, torch.Tensor | None]]) -> Waits:
        arriving: list[tuple[Transfer, torch.Tensor]] = []
        arrivals = []
        for t in reversed(step.transfers):
            if t.target == HOST:
                _, gradient = left.pop()
                self.values.add_gradient(step.value, step.axes, t.region, [gradient])
                continue
            buffer, piece = message(step.axes, t.region, self._dtype(step.value), CHANNELS_LAST)
            arrivals.append(self.transport.receive(t.target, backward(step.tag), buffer))
            arriving.append((t, piece))
        if arrivals:
            self._catch_up()
        self.at = (
            f"the gradient of {self.rank_plan.paths.get(step.value, step.value)} from its readers"
        )
        if arrivals:
            yield arrivals
        for t, piece in arriving:
            self.values.add_gradient(step.value, step.axes, t.region, [piece])

    def _receive_back(self, number: int, step: Receive) -> None:
        gradient = self.values.gradients.pop(step.value, None)
        whole = gradient[0] if gradient else None
        for t in step.transfers:
            if whole is None:
                piece = torch.zeros(step.axes.local_shape(t.region), dtype=step.dtype)
            else:
                piece = step.axes.piece(whole, step.region, t.region)
            self.transport.send(
                t.source, backward(step.tag), packed(piece, step.axes, CHANNELS_LAST)
            )
        own = self._own[number]
        if own.empty:
            return
        self.values.expect(step.value, own, [step.axes.local_shape(own)])
        inside = own & step.region
        if whole is not None and not inside.empty:
            piece = step.axes.piece(whole, step.region, inside)
            self.values.add_gradient(step.value, step.axes, inside, [piece])

    def _dtype(self, value: str) -> torch.dtype:
        return next(node.dtype for node in self.rank_plan.nodes if node.name == value)
