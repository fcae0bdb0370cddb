"""Runs one rank's program: a loop over compute, send, receive and free."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .axes import Axes
from .exchange import HOST, Exchange, region_at
from .machine import CORE
from .node import Node
from .program import Compute, Free, Part, Receive, Send, receive_step
from .region import Region
from .rules import rule_of
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
        self.part, self.weights, self.transport = part, weights, transport
        self.rules = [rule_of(node) for node in part.nodes]
        self.paths = {node.name: node.path for node in part.nodes}
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
            self.transport.flush()
        return run.held[exchange.value][0]

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
        with self.recorder.span("compute", node.path, node.kind):
            self.held[node.name] = (self._value(step, node), step.region)

        self.told(0, self.worker.costs[step.node])

    def told(self, done: int, cost: float = 0.0) -> None:
        """Note work that is done, and tell of it."""
        self.done, self.cost_done = self.done + done, self.cost_done + cost
        finished = self.done == len(self.worker.part.batches)
        self.tell(self.done, 1.0 if finished else self.cost_done / self.cost_of_all)

    def _value(self, step: Compute, node: Node) -> Any:
        if step.region.empty:  # only padding is read here further on, or nothing at all
            empty = torch.empty(node.axes.local_shape(step.region), dtype=node.dtype)
            return (empty,) * len(node.parts) if node.parts else empty
        tensors = [
            cut(*self.held[value], region, axes)
            for value, region, axes in zip(
                node.operands, step.clipped, node.operand_axes, strict=True
            )
        ]
        rule = self.worker.rules[step.node]
        return rule.apply(tensors, step.needs, step.region, self.worker.weights)

    def send(self, step: Send) -> None:
        self.at = layer = self.worker.paths.get(step.value, step.value)
        tensor, held = self.held[step.value]
        for transfer in step.transfers:
            piece = cut(tensor, held, transfer.region, step.axes)
            if transfer.target == HOST:
                region = self._in_batch(transfer.region, step.axes)
                self.pieces.append(Piece(step.value, region, piece))
                continue
            with self.recorder.span("pack", layer, step.kind, _nbytes(piece)):
                # A piece in one run of memory is still a view of a value that is freed: safe,
                # since the transport keeps it until it is sent, and values are never rewritten.
                self.transport.send(transfer.target, step.tag, piece.contiguous())

    def receive(self, step: Receive) -> None:
        self.at = layer = self.worker.paths.get(step.value, step.value)
        from_host = [t for t in step.transfers if t.source == HOST]
        if from_host:
            size = math.prod(step.axes.local_shape(step.region)) * step.dtype.itemsize
            with self.recorder.span("read", layer, step.kind, size):
                image = self.read(step.value, self._in_batch(step.region, step.axes))
            self.held[step.value] = (image, step.region)
            return
        arrivals, buffers = [], []
        for transfer in step.transfers:
            shape = step.axes.local_shape(transfer.region)
            buffers.append(torch.empty(shape, dtype=step.dtype))
            arrivals.append(self.transport.receive(transfer.source, step.tag, buffers[-1]))
        size = sum(map(_nbytes, buffers))
        filled = (
            torch.empty if step.transfers else torch.zeros
        )  # nothing comes: see without_exchange
        whole = filled(step.axes.local_shape(step.region), dtype=step.dtype)
        if step.kept:
            with self.recorder.span("unpack", layer, step.kind):
                tensor, held = self.held[step.value]
                own = cut(tensor, held, step.kept, step.axes)
                step.axes.put(whole, step.region, step.kept, own)
        with self.recorder.span("wait", layer, step.kind, size):
            self.transport.wait(arrivals)
        with self.recorder.span("unpack", layer, step.kind, size):
            for transfer, buffer in zip(step.transfers, buffers, strict=True):
                step.axes.put(whole, step.region, transfer.region, buffer)
        self.held[step.value] = (whole, step.region)

    def free(self, step: Free) -> None:
        for value in step.values:
            self.held.pop(value, None)

    def _in_batch(self, region: Region, axes: Axes) -> Region:
        """A region of a micro-batch's value, of that of the whole batch."""
        images, batch = axes.extent[0], sum(self.worker.part.batches)
        return region.moved(0 if images % batch else self.first_image * (images // batch))


def cut(value: Any, held: Region, region: Region, axes: Axes) -> Any:
    """The part of a value that covers a region; of each part where the value is a tuple."""
    if held == region:
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(axes.piece(part, held, region) for part in value)
    return axes.piece(value, held, region)


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
