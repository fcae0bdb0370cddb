"""One micro-batch on a rank in training: what was computed, and the way back.

Each call is differentiated by itself, and what moved between ranks moves back: the same transfers,
reversed, summed.  So the backward pass is the program read from its end::

    forward     compute x    send x ──►     receive x (grown by its halo)    compute y of x
    backward    of x's call  ◄── + what     what lies in others' tiles ──►   of y's call: x's
                             comes back     goes back to them                gradient, halo too
                                            (and the own part stays)

A tape that recomputes holds only what arrived, of image and halos; before it goes back it runs the
program once more, with no message (Chen et al., *Training deep nets with sublinear memory cost*,
2016).

Messages of the backward pass are awaited in the reversed order of the forward pass; since that had
an order in which no two ranks wait for each other, so has this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.axes import Axes
from ..ir.exchange import HOST, Transfer
from ..ir.node import Node, map_leaves
from ..ir.program import Compute, Free, Program, Receive, Send
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.tags import backward
from ..rules import Rule
from ..runtime.halo_tile import HaloTile, cut, in_order, message, nothing, packed
from ..runtime.state import Piece, Read
from ..transport import Transport


@dataclass
class _Call:
    """A call that was computed, with what it takes to differentiate it."""

    inputs: list[list[torch.Tensor]]
    results: list[torch.Tensor]


Gradient = list[torch.Tensor | None]
"""Of a value, of each part of it, as far as it is summed up."""


class Tape:
    """A program in training, for one micro-batch.

    Parameters
    ----------
    rank_plan, rules
        The rank's part of the plan, and the rules of its nodes.
    program
        What it runs.
    weights
        Parameters, buffers and constants by name; of those that require one, a gradient is taken.
    transport
        Its end of the carrier.
    first_image
        Of the micro-batch, in the batch.
    recompute
        Whether to compute values anew on the way back, in place of holding them.

    Attributes
    ----------
    pieces
        The regions of the network's outputs that this rank computed.
    gradients
        Of values, as far as they are summed up on the way back.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        rules: Sequence[Rule],
        program: Program,
        weights: Mapping[str, torch.Tensor],
        transport: Transport,
        first_image: int = 0,
        recompute: bool = False,
    ):
        self.rank_plan, self.rules, self.program, self.weights = rank_plan, rules, program, weights
        self.transport, self.first_image = transport, first_image
        self.recompute = recompute
        self.pieces: list[Piece] = []
        self.at = "start"
        self._values: dict[str, Any] = {}
        self._held: dict[str, Region] = {}
        self._shapes: dict[str, list[tuple[int, ...]]] = {}
        self._calls: dict[str, _Call] = {}
        self._own: dict[int, Region] = {}  # what each receiving step had before
        self._arrived: dict[int, list[torch.Tensor]] = {}  # in each receiving step, to recompute
        self.gradients: dict[str, Gradient] = {}

    # --- forward ----------------------------------------------------------------------------

    def forward(
        self, read: Read, computed: Callable[[Node, Sequence[Any]], None] = lambda node, given: None
    ) -> None:
        """Run the program.

        Parameters
        ----------
        read
            Where the image comes from.
        computed
            Called after each call with its operands.
        """
        for number, step in enumerate(self.program.steps):
            if isinstance(step, Compute):
                self._compute(step, computed, recorded=not self.recompute)
            elif isinstance(step, Send):
                self._send(step)
            elif isinstance(step, Receive):
                arrived = self._receive(number, step, read)
                self._assemble(number, step, arrived)
                if self.recompute:
                    self._arrived[number] = arrived
            elif isinstance(step, Free):
                self._free(step)
        if self.recompute:
            self._values.clear()

    def _forward_again(self) -> None:
        """Run the program once more, from what arrived; nothing is sent."""
        self._held.clear()
        for number, step in enumerate(self.program.steps):
            if isinstance(step, Compute):
                self._compute(step, lambda node, given: None, recorded=True)
            elif isinstance(step, Receive):
                self._assemble(number, step, self._arrived.pop(number))
            elif isinstance(step, Free):
                self._free(step)

    def _free(self, step: Free) -> None:
        for value in step.values:
            self._values.pop(value, None)

    def hold(self, value: str, region: Region, tensor: Any) -> None:
        """Have a value, or a tuple of them, over a region."""
        self._values[value], self._held[value] = tensor, region
        self._shapes[value] = [tuple(part.shape) for part in _parts(tensor)]

    def piece(self, value: str, region: Region, axes: Axes) -> Any:
        """A region of a value at hand."""
        return cut(self._values[value], self._held[value], region, axes)

    def _compute(
        self, step: Compute, computed: Callable[[Node, Sequence[Any]], None], recorded: bool
    ) -> None:
        node, rule = self.rank_plan.nodes[step.node], self.rules[step.node]
        self.at = node.label
        if step.region.empty:
            self.hold(node.name, step.region, nothing(node, step.region))
            return
        operands = zip(node.operands, step.clipped, node.operand_axes, strict=True)
        given = [map_leaves(_leaf, self.piece(*operand)) for operand in operands]
        tensors = [leaf if rule.any_layout else in_order(leaf) for leaf in given]
        with torch.set_grad_enabled(recorded):
            known = {w.name: self.weights[w.name] for w in node.weights}
            result = rule.apply(tensors, step.needs, step.region, known)
        computed(node, given)
        if recorded:
            self._calls[node.name] = _Call([_parts(leaf) for leaf in given], _parts(result))
        self.hold(node.name, step.region, map_leaves(torch.Tensor.detach, result))

    def _send(self, step: Send) -> None:
        for t in step.transfers:
            piece = self.piece(step.value, t.region, step.axes)
            if t.target == HOST:
                region = self.rank_plan.in_batch(t.region, step.axes, self.first_image)
                self.pieces.append(Piece(step.value, region, piece))
            else:
                self.transport.send(t.target, step.tag, packed(piece, step.axes))

    def _receive(self, number: int, step: Receive, read: Read) -> list[torch.Tensor]:
        """What a step reads of the image, or what others send for it."""
        if any(t.source == HOST for t in step.transfers):
            region = self.rank_plan.in_batch(step.region, step.axes, self.first_image)
            return [read(step.value, region)]
        own = self._held.get(step.value)
        self._own[number] = own or Region(((0, 0),) * len(step.region.spans))
        arrivals, pieces = [], []
        for t in step.transfers:
            buffer, piece = message(step.axes, t.region, step.dtype)
            arrivals.append(self.transport.receive(t.source, step.tag, buffer))
            pieces.append(piece)
        self.at = f"{step.kind} of {self.rank_plan.paths.get(step.value, step.value)}"
        self.transport.wait(arrivals)
        return pieces

    def _assemble(self, number: int, step: Receive, arrived: list[torch.Tensor]) -> None:
        """Hold a value: what was here of it, and what arrived."""
        if number not in self._own:
            self.hold(step.value, step.region, arrived[0])
            return
        halo = tuple(t.region for t in step.transfers)
        facts = (step.axes, step.dtype, step.kind)
        patchwork = HaloTile(step.region, self._own[number], halo, *facts)
        pieces = [self._values.get(step.value), *arrived]
        self.hold(step.value, step.region, patchwork.assembly(step.region)(pieces))

    # --- backward ---------------------------------------------------------------------------

    def backward(
        self,
        outputs: Sequence[torch.Tensor | None],
        learn: Callable[[str, torch.Tensor], None],
        passed: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Run the program from its end.

        Parameters
        ----------
        outputs
            Gradient of each of `pieces`.
        learn
            Called with the name of a weight and a gradient, once for each call that reads it.
        passed
            Called with the number of each step, after it.
        """
        if self.recompute:
            self._forward_again()
        left = list(zip(self.pieces, outputs, strict=True))
        for number, step in reversed(list(enumerate(self.program.steps))):
            if isinstance(step, Compute):
                self._compute_back(step, learn)
            elif isinstance(step, Send):
                self._send_back(step, left)
            elif isinstance(step, Receive) and number in self._own:
                self._receive_back(number, step)
            passed(number)

    def _compute_back(self, step: Compute, learn: Callable[[str, torch.Tensor], None]) -> None:
        node = self.rank_plan.nodes[step.node]
        self.at = f"the gradient of {node.label}"
        gradient, call = self.gradients.pop(node.name, None), self._calls.pop(node.name, None)
        if gradient is None or call is None:
            return
        pairs = zip(call.results, gradient, strict=True)
        known = [(r, g) for r, g in pairs if g is not None and r.requires_grad]
        if not known:
            return
        inputs = [x for leaf in call.inputs for x in leaf if x.requires_grad]
        names = [w.name for w in node.weights if self.weights[w.name].requires_grad]
        found = torch.autograd.grad(
            [r for r, _ in known],
            [*inputs, *(self.weights[name] for name in names)],
            [g for _, g in known],
            allow_unused=True,
        )
        of_input = dict(zip(map(id, inputs), found, strict=False))
        operands = zip(node.operands, step.clipped, node.operand_axes, call.inputs, strict=True)
        for value, region, axes, leaf in operands:
            self._add(value, axes, region, [of_input.get(id(x)) for x in leaf])
        for name, gradient in zip(names, found[len(inputs) :], strict=True):
            if gradient is not None:
                learn(name, gradient)

    def _send_back(self, step: Send, left: list[tuple[Piece, torch.Tensor | None]]) -> None:
        arriving: list[tuple[Transfer, torch.Tensor]] = []
        arrivals = []
        for t in reversed(step.transfers):
            if t.target == HOST:
                _, gradient = left.pop()
                self._add(step.value, step.axes, t.region, [gradient])
                continue
            buffer, piece = message(step.axes, t.region, self._dtype(step.value))
            arrivals.append(self.transport.receive(t.target, backward(step.tag), buffer))
            arriving.append((t, piece))
        self.at = (
            f"the gradient of {self.rank_plan.paths.get(step.value, step.value)} from its readers"
        )
        self.transport.wait(arrivals)
        for t, piece in arriving:
            self._add(step.value, step.axes, t.region, [piece])

    def _receive_back(self, number: int, step: Receive) -> None:
        gradient = self.gradients.pop(step.value, None)
        whole = gradient and gradient[0]
        for t in step.transfers:
            if whole is None:
                piece = torch.zeros(step.axes.local_shape(t.region), dtype=step.dtype)
            else:
                piece = step.axes.piece(whole, step.region, t.region)
            self.transport.send(t.source, backward(step.tag), packed(piece, step.axes))
        own = self._own[number]
        if own.empty:
            return
        self._held[step.value] = own
        self._shapes[step.value] = [step.axes.local_shape(own)]
        inside = own & step.region
        if whole is not None and not inside.empty:
            self._add(step.value, step.axes, inside, [step.axes.piece(whole, step.region, inside)])

    def _add(
        self, value: str, axes: Axes, region: Region, parts: Sequence[torch.Tensor | None]
    ) -> None:
        """Add to the gradient of a value, if anything depends on it."""
        if all(part is None for part in parts) or value not in self._shapes:
            return
        held = self._held[value]
        known = self.gradients.setdefault(value, [None] * len(parts))
        for k, part in enumerate(parts):
            if part is None:
                continue
            if known[k] is None:
                known[k] = torch.zeros(self._shapes[value][k], dtype=part.dtype)
            whole = known[k]
            axes.put(whole, held, region, axes.piece(whole, held, region) + part)

    def _dtype(self, value: str) -> torch.dtype:
        return next(node.dtype for node in self.rank_plan.nodes if node.name == value)


def _parts(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that gradients are taken of, if it has floating numbers."""
    return tensor.detach().requires_grad_(tensor.is_floating_point())
