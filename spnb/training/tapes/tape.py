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

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch

from ...ir.exchange import HOST
from ...ir.node import Node, map_leaves
from ...ir.program import Free, Segments
from ...runtime.halo_tile import in_order, nothing
from ...runtime.pipeline_stage import PipelineStage
from ...runtime.state import Piece, Read
from ...transport import Arrival, Messages
from .differentiated import values_with_gradient
from .recorded_call import RecordedCall, entering
from .saved_pieces import SavedPieces
from .tape_values import HeldValues, TapedValues
from .taped_call import TapedCall
from .taped_exchange import OwnRegion, TapedReceive, TapedSend
from .taped_program import TapedProgram, TapedPrograms
from .value_store import InMemory, Store

Waits = Iterator[Sequence[Arrival]]
"""A pass that stops at each wait, and gives the messages that it waits for."""


class Tape:
    """A program in training, for one micro-batch.

    Parameters
    ----------
    shared
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
        shared: TapedProgram,
        weights: Mapping[str, torch.Tensor],
        transport: Messages,
        first_image: int = 0,
        segments: Segments | None = None,
        store: Store | None = None,
        of_inputs: bool = False,
    ):
        self.shared, self.rank_plan, self.program = shared, shared.rank_plan, shared.program
        self.weights, self.transport, self.first_image = weights, transport, first_image
        self.segments, self.store = segments or Segments(), store or InMemory()
        self.pieces: list[Piece] = []
        self.at, self.layer = "start", ""
        self.values = TapedValues()
        self.of_inputs = of_inputs
        self._calls: dict[str, RecordedCall] = {}
        self._own: dict[int, OwnRegion] = {}  # what the rank had before a receiving step
        self._held: dict[int, HeldValues] = {}  # by the first step of a segment
        self._arrived: dict[int, list[Any]] = {}  # by receiving step of a segment
        self._postponed: list[Callable[[], None]] = []

    @classmethod
    def of(
        cls,
        programs: TapedPrograms,
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
        programs
            The programs of the rank.
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
        shared = programs.of(stage, number)
        segments = rank_plan.segments.get(images)
        return cls(
            shared=shared,
            weights=weights,
            transport=transport,
            first_image=rank_plan.first_image(number),
            segments=segments if recorded else Segments.dropped(shared.program),
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
        for number, step in enumerate(self.shared.steps):
            if number in self.segments.starts:
                self._held[number] = self.values.held(self.store)
            again = number < self.segments.stop
            if isinstance(step, TapedCall):
                self._compute(step, computed, recorded=not again)
            elif isinstance(step, TapedSend):
                self._send(step)
            elif isinstance(step, TapedReceive):
                arrived = yield from self._receive(number, step, read)
                if again and self.segments.starts:
                    self._arrived[number] = [self.store.put(piece) for piece in arrived]
            else:
                self.values.free(step.values)
        if self.segments.stop:
            self.values.free_all()

    def _record_again(self, first: int, stop: int) -> None:
        """Run a segment once more, from the values held at its beginning; nothing is sent."""
        with self.values.held_again(self._held.pop(first), self.store):
            for number, step in enumerate(self.shared.steps[first:stop], first):
                if isinstance(step, TapedCall):
                    self._compute(step, lambda node, operands: None, recorded=True)
                elif isinstance(step, TapedReceive):
                    arrived = [self.store.take(piece) for piece in self._arrived.pop(number)]
                    self._assemble(number, step, self._begun(number, step), arrived)
                elif isinstance(step, Free):
                    self.values.free(step.values)

    def _compute(
        self, call: TapedCall, computed: Callable[[Node, Sequence[Any]], None], recorded: bool
    ) -> None:
        self.at, self.layer = call.label, call.path
        if call.empty:
            self.values.hold(call.name, call.region, nothing(call.node, call.region))
            return
        padded = recorded and call.padding is not None
        readers = call.padded if padded else call.unpadded
        if padded:
            self.values.cover_padding(readers[0].value, readers[0].region, readers[0].axes)
        pieces = [reader.read(self.values) for reader in readers]
        operator = call.operator(self.weights, padded)
        if not recorded:
            with torch.no_grad():
                operands = [call.ordered(piece) for piece in pieces]
                result = operator(*operands)
            computed(call.node, operands)
            self.values.hold(call.name, call.region, result)
            return
        references = [reader.saved(self.values) for reader in readers]
        saved = SavedPieces(list(zip(references, pieces, strict=True)))
        with torch.enable_grad(), saved:
            operands = [
                map_leaves(entering, piece) if value in self.differentiated else piece
                for value, piece in zip(call.operands, pieces, strict=True)
            ]
            result = operator(*map(call.ordered, operands))
        computed(call.node, operands)
        self.values.hold(call.name, call.region, map_leaves(torch.Tensor.detach, result))
        self._calls[call.name] = RecordedCall.of(call, padded, operands, self.weights, result)
        saved.refer_to(call.result.saved(self.values))

    def _send(self, step: TapedSend) -> None:
        for transfer, piece in step.pieces:
            if transfer.target == HOST:
                region = self.rank_plan.in_batch(transfer.region, step.axes, self.first_image)
                tensor = piece.read(self.values)
                self.pieces.append(Piece(step.value, region, tensor, self.first_image))
        step.send(self.values, self.transport)

    def _receive(
        self, number: int, step: TapedReceive, read: Read
    ) -> Generator[Sequence[Arrival], None, list[torch.Tensor]]:
        """Receive a value: read a region of the image, or the pieces that other ranks send.

        The rank's own piece is copied to its place while the others are on their way, unless this
        tape is put away while it waits.
        """
        if step.from_host:
            region = self.rank_plan.in_batch(step.region, step.axes, self.first_image)
            arrived = [read(step.value, region)]
            self._assemble(number, step, None, arrived)
            return arrived
        self._own[number] = step.own(self.values.regions.get(step.value))
        arrivals, arrived = step.receive(self.transport)
        self.at = f"{step.step.kind} of {step.name}"
        begun = None if self.store.frees_memory else self._begun(number, step)
        if arrivals:
            yield arrivals
        if self.store.frees_memory:
            begun = self._begun(number, step)
        self._assemble(number, step, begun, arrived)
        return arrived

    def _begun(self, number: int, step: TapedReceive) -> torch.Tensor | None:
        """The memory of a received value, with the rank's own piece in it."""
        if number not in self._own:
            return None
        own = self._own[number]
        piece = own.reader.read(self.values) if step.value in self.values.tensors else None
        return own.assembly.begin(piece)

    def _assemble(
        self,
        number: int,
        step: TapedReceive,
        begun: torch.Tensor | None,
        arrived: list[torch.Tensor],
    ) -> None:
        """Hold a value with the pieces that arrived."""
        if number not in self._own:
            self.values.hold(step.value, step.region, in_order(arrived[0]))
            return
        self.values.cover(step.value, step.whole, self._own[number].assembly.end(begun, arrived))
        self.values.expect(step.value, step.region, [step.shape])

    def take_pieces(self) -> list[Piece]:
        """The regions of the outputs, which the tape holds no longer."""
        taken, self.pieces = self.pieces, []
        return taken

    # --- backward ---------------------------------------------------------------------------

    def backward(
        self,
        outputs: list[torch.Tensor | None],
        add: Callable[[str, torch.Tensor], None],
        passed: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Run the program backward, from its end.

        Parameters
        ----------
        outputs
            The gradient of each region of the outputs; emptied, so that each is freed once it is
            used.
        add
            Called with the name of a weight and its gradient, once for each call that reads it.
        passed
            Called after each step with its number.
        """
        for arrivals in self.backward_waits(outputs, add, passed):
            self.transport.wait(arrivals)

    @torch.no_grad()
    def backward_waits(
        self,
        outputs: list[torch.Tensor | None],
        add: Callable[[str, torch.Tensor], None],
        passed: Callable[[int], None] = lambda number: None,
    ) -> Waits:
        """Run the program backward as `backward` does; go on when the messages have arrived."""
        steps = self.shared.steps
        for number in reversed(range(len(steps))):
            step = steps[number]
            if isinstance(step, TapedCall):
                self._compute_back(number, step, add)
            elif isinstance(step, TapedSend):
                yield from self._send_back(step, outputs)
            elif isinstance(step, TapedReceive) and number in self._own:
                self._receive_back(step, self._own[number])
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
        self, number: int, step: TapedCall, add: Callable[[str, torch.Tensor], None]
    ) -> None:
        self._catch_up()
        self.at = f"the gradient of {step.label}"
        gradient = self.values.gradients.pop(step.name, None)
        segment = self.segments.of(number)
        if gradient is not None and segment is not None and segment[0] in self._held:
            self._record_again(*segment)
        call = self._calls.pop(step.name, None)
        if gradient is None or call is None:
            return
        found = call.differentiate(gradient)
        for reader, parts in zip(step.unpadded, found.operands, strict=True):
            self.values.add_gradient(
                reader.value, reader.axes, reader.region, parts, found.new_memory
            )

        def add_weights() -> None:
            for name, of_weight in found.weights().items():
                add(name, of_weight)

        self._postponed.append(add_weights)

    def _send_back(self, step: TapedSend, outputs: list[torch.Tensor | None]) -> Waits:
        for region in reversed(step.to_host):
            self.values.add_gradient(step.value, step.axes, region, [outputs.pop()])
        arrivals, arriving = step.receive_gradients(self.transport)
        if arrivals:
            self._catch_up()
        self.at = f"the gradient of {step.name} from its readers"
        if arrivals:
            yield arrivals
        for region, piece in arriving:
            self.values.add_gradient(step.value, step.axes, region, [piece])

    def _receive_back(self, step: TapedReceive, own: OwnRegion) -> None:
        gradient = self.values.gradients.pop(step.value, None)
        whole = gradient[0] if gradient else None
        step.send_gradients(whole, self.transport)
        if own.region.empty:
            return
        self.values.expect(step.value, own.region, [own.shape])
        if whole is not None and not own.inside.empty:
            self.values.add_gradient(step.value, step.axes, own.inside, [own.take(whole)])
