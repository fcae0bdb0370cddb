"""Runs one rank's program: a loop over compute, send, receive and free."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from .axes import Axes
from .exchange import HOST, Exchange, region_at
from .machine import CORE
from .node import Node
from .patchwork import NOTHING, Patchwork, channels_last, cut, in_order, message, packed, room
from .program import Compute, Free, Part, Receive, Send, receive_step
from .region import Region
from .rules import Rule, rule_of
from .rules.windows import Alone, Convolution
from .trace import Event, Recorder
from .transport import PeerFailed, Transport

Read = Callable[[str, Region], torch.Tensor]
"""Reads a region, over the batch and space of the whole batch, of one of the network's inputs."""


Tell = Callable[[int, float], None]


class RankError(RuntimeError):
    """A rank failed; the message names rank, stage and layer."""


@dataclass(frozen=True)
class Piece:
    """A region of one of the network's outputs, held by the rank that computed it."""

    value: str
    region: Region
    tensor: torch.Tensor


@dataclass(frozen=True)
class Outcome:
    """What a rank has to show for one pass over the batch."""

    pieces: list[Piece]
    events: list[Event]


class Strips(NamedTuple):
    """How a step is done before the halo is here, and what is computed anew when it is.

    ``strips`` has regions of the result, with the need of each operand, and what of it is inside.
    """

    alone: Alone
    strips: list[tuple[Region, list[Region], list[Region]]]


class Worker:
    """One rank, ready to run.

    Parameters
    ----------
    part
        Its share of the plan.
    weights
        The parameters and buffers that its stage reads, in the plan's dtype.
    transport
        Its end of the carrier.
    """

    def __init__(self, part: Part, weights: Mapping[str, torch.Tensor], transport: Transport):
        self.part, self.transport = part, transport
        self.rules = [rule_of(node) for node in part.nodes]
        self.weights = [{w.name: weights[w.name] for w in node.weights} for node in part.nodes]
        self._strips: dict[tuple[int, Region, Region], Strips | None] = {}
        for step in part.programs[max(part.batches)].steps:
            if isinstance(step, Compute) and not step.region.empty:
                shape = part.nodes[step.node].operand_axes[0].local_shape(step.clipped[0])
                rule = self.rules[step.node]
                self.weights[step.node] = rule.prepare(self.weights[step.node], shape)
                if step.overwrites:
                    self.rules[step.node] = replace(rule, overwrites=True)
        self.costs = [CORE.seconds(node) for node in part.nodes]

    @torch.inference_mode()
    def infer(self, read: Read, tell: Tell = lambda done, share: None) -> Outcome:
        """Run the stage over all micro-batches.

        Parameters
        ----------
        read
            Where the image comes from.
        tell
            Called after each operator with the micro-batches done, and the share of all work done.

        Raises
        ------
        RankError
            If an operator fails here; the other ranks are told.
        PeerFailed
            If another rank fails.
        """
        run = _Run(self, read, tell)
        with self._heard(run):
            self.transport.barrier()
            run.recorder.start()
            for number in self.part.order:
                run.micro_batch(number)
                run.told(1)
            self.transport.flush()
        return Outcome(run.pieces, run.recorder.events)

    def alone(self, step: Compute, own: Region) -> Strips | None:
        """How to do a step from what was computed here of its first operand, before the halo."""
        key = (step.node, step.region, own)
        if key not in self._strips:
            self._strips[key] = _strips(self.rules[step.node], step, own)
        return self._strips[key]

    @torch.inference_mode()
    def exchange(self, exchange: Exchange, x: torch.Tensor, axes: Axes) -> torch.Tensor:
        """Take part in an exchange of a tensor that this rank's tile covers; what it then needs."""
        rank, run = self.part.rank, _Run(self, None)
        own = region_at(exchange.has, exchange.source.position(rank))
        run.held[exchange.value] = (x, own)
        sends = exchange.sends(rank)
        with self._heard(run):
            run.send(Send(exchange.tag, exchange.value, exchange.kind, sends, axes))
            run.receive(receive_step(exchange, rank, axes, x.dtype))
            whole = run._cut(exchange.value, exchange.need(rank), axes)
            self.transport.flush()
        return whole

    @contextmanager
    def _heard(self, run: _Run) -> Iterator[None]:
        """Begin with no memory of earlier failures, and let the other ranks hear of one here."""
        self.transport.hear()
        try:
            yield
        except PeerFailed:
            raise
        except BaseException as error:
            place = f"rank {self.part.rank}, stage {self.part.stage}, {run.at}"
            text = f"{place}: {type(error).__name__}: {error}"
            self.transport.fail(text)
            if isinstance(error, Exception):
                raise RankError(text) from error
            raise


class _Run:
    """State of one pass: the values in hand, each with the region it covers."""

    def __init__(self, worker: Worker, read: Read | None, tell: Tell = lambda done, share: None):
        self.worker, self.read, self.transport = worker, read, worker.transport
        self.tell, self.done, self.cost_done = tell, 0, 0.0
        self.cost_of_all = sum(worker.costs) * len(worker.part.batches) or 1.0
        self.recorder = Recorder()
        self.held: dict[str, tuple[Any, Region]] = {}
        self.pieces: list[Piece] = []
        self.at = "start"
        self.first_image = 0

    def micro_batch(self, number: int) -> None:
        batches = self.worker.part.batches
        self.recorder.micro_batch, self.first_image = number, sum(batches[:number])
        actions = {Compute: self.compute, Send: self.send, Receive: self.receive, Free: self.free}
        for step in self.worker.part.programs[batches[number]].steps:
            actions[type(step)](step)

    def compute(self, step: Compute) -> None:
        node = self.worker.part.nodes[step.node]
        self.at = node.label
        halo, plan = self.held.get(node.operands[0], (None,))[0], None
        if isinstance(halo, Patchwork):
            plan = self.worker.alone(step, halo.own)
        if plan:
            value = self._before_the_halo(step, node, plan)
        else:
            value = self._apply(step, node, step.region, step.needs, step.clipped)
        self.held[node.name] = (value, step.region)
        self.told(0, self.worker.costs[step.node])

    def _before_the_halo(self, step: Compute, node: Node, plan: Strips) -> Any:
        """Compute from what is here, and anew what reads the halo, once that has come."""
        halo = self.held[node.operands[0]][0]
        others = self._operands(node, step.clipped, first=1)
        rule, weights = self.worker.rules[step.node], self.worker.weights[step.node]
        with self.recorder.span("compute", node.path, node.kind):
            result = rule.apply_alone([halo.tensor, *others], plan.alone, weights)
        halo.arrive()
        layer = self.worker.part.paths.get(node.operands[0], node.operands[0])
        with self.recorder.span("unpack", layer, halo.kind):
            pieces = [self._operands(node, clipped) for _, _, clipped in plan.strips]
        with self.recorder.span("compute", node.path, node.kind):
            for (strip, needs, _), tensors in zip(plan.strips, pieces, strict=True):
                anew = rule.apply(tensors, needs, strip, weights)
                node.axes.put(result, step.region, strip, anew)
        return result

    def _apply(
        self,
        step: Compute,
        node: Node,
        region: Region,
        needs: Sequence[Region],
        clipped: Sequence[Region],
    ) -> Any:
        if region.empty:  # only padding is read here further on, or nothing at all
            empty = room(node.axes, region, node.dtype)
            return (empty,) * len(node.parts) if node.parts else empty
        tensors = self._operands(node, clipped)
        with self.recorder.span("compute", node.path, node.kind):
            rule, weights = self.worker.rules[step.node], self.worker.weights[step.node]
            if not rule.any_layout:
                tensors = [in_order(tensor) for tensor in tensors]
            return rule.apply(tensors, needs, region, weights)

    def _operands(self, node: Node, clipped: Sequence[Region], first: int = 0) -> list[Any]:
        """What a call reads, from an operand on: put together where it came in pieces."""
        operands = list(zip(node.operands, clipped, node.operand_axes, strict=True))
        return [self._cut(*operand) for operand in operands[first:]]

    def _cut(self, value: str, region: Region, axes: Axes) -> Any:
        found, held = self.held[value]
        if not isinstance(found, Patchwork) or found.has(region):
            return cut(found, held, region, axes)
        found.arrive()
        with self.recorder.span("unpack", self.worker.part.paths.get(value, value), found.kind):
            return found.piece(region)

    def told(self, done: int, cost: float = 0.0) -> None:
        """Note work that is done, and tell of it."""
        self.done, self.cost_done = self.done + done, self.cost_done + cost
        finished = self.done == len(self.worker.part.batches)
        self.tell(self.done, 1.0 if finished else self.cost_done / self.cost_of_all)

    def send(self, step: Send) -> None:
        self.at = layer = self.worker.part.paths.get(step.value, step.value)
        for transfer in step.transfers:
            piece = self._cut(step.value, transfer.region, step.axes)
            if transfer.target == HOST:
                region = self._in_batch(transfer.region, step.axes)
                self.pieces.append(Piece(step.value, region, piece))
                continue
            with self.recorder.span("pack", layer, step.kind, _nbytes(piece)):
                # A piece in one run of memory is still a view of a value that is freed: safe,
                # since the transport keeps it until it is sent, and what is sent stays unchanged.
                self.transport.send(transfer.target, step.tag, packed(piece, step.axes))

    def receive(self, step: Receive) -> None:
        self.at = layer = self.worker.part.paths.get(step.value, step.value)
        from_host = [t for t in step.transfers if t.source == HOST]
        if from_host:
            size = math.prod(step.axes.local_shape(step.region)) * step.dtype.itemsize
            with self.recorder.span("read", layer, step.kind, size):
                image = self.read(step.value, self._in_batch(step.region, step.axes))
            self.held[step.value] = (channels_last(image, step.axes), step.region)
            return
        arrivals, halo = [], []
        for transfer in step.transfers:
            buffer, piece = message(step.axes, transfer.region, step.dtype)
            arrivals.append(self.transport.receive(transfer.source, step.tag, buffer))
            halo.append((transfer.region, piece))
        size = sum(_nbytes(piece) for _, piece in halo)

        def arrive() -> None:
            if arrivals:
                with self.recorder.span("wait", layer, step.kind, size):
                    self.transport.wait(arrivals)
                arrivals.clear()

        own = self.held.get(step.value, (None, NOTHING))
        value = Patchwork(step.region, *own, step.axes, step.dtype, step.kind, halo, arrive)
        self.held[step.value] = (value, step.region)

    def free(self, step: Free) -> None:
        for value in step.values:
            found, _ = self.held.pop(value, (None, None))
            if isinstance(found, Patchwork):
                found.arrive()  # else a later receive might take what was meant for this one

    def _in_batch(self, region: Region, axes: Axes) -> Region:
        """A region of a micro-batch's value, of that of the whole batch."""
        images, batch = axes.extent[0], sum(self.worker.part.batches)
        return region.moved(0 if images % batch else self.first_image * (images // batch))


def _strips(rule: Rule, step: Compute, own: Region) -> Strips | None:
    alone = rule.alone(own, step.region) if isinstance(rule, Convolution) else None
    if alone is None:
        return None
    strips = []
    for strip in alone.wrong:
        needs, clipped = [], []
        for number, (axes, held) in enumerate(
            zip(rule.node.operand_axes, step.clipped, strict=True)
        ):
            need = Region(tuple(rule.need(number, axis, s) for axis, s in enumerate(strip.spans)))
            needs.append(need)
            clipped.append(need & Region((held.spans[0], *((0, n) for n in axes.extent[1:]))))
        strips.append((strip, needs, clipped))
    return Strips(alone, strips)


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
