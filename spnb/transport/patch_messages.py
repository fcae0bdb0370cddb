"""Messages between patches: each rank has several, which are ranks of a finer plan.

Patches of one rank put their messages into boxes in its memory.  Between two ranks, messages of one
tag arrive in order, but patches come to an exchange in any order.  So both ranks know the messages
of each tag in advance, and number them by the patches that send and receive::

    rank 0   patch 1 sends first, and waits for patch 0  ─┐
             patch 0 sends                                ├─►  0→4, 1→5   ──►  rank 1
                                                          ┘    in this order

A message that waits for an earlier one keeps no patch waiting: patches that have sent go on.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..ir.exchange import HOST
from ..ir.program import Receive, Send
from ..ir.rank_plan import Patches
from ..ir.tags import backward
from .base import Arrival, Messages

Pair = tuple[int, int]
"""The patch that sends, and the one that receives."""


class PatchMessages:
    """The messages of one pass over a micro-batch, of all patches of a rank.

    Parameters
    ----------
    carrier
        Carries the messages to other ranks.
    patches
        The rank's patches.
    images
        Images in the micro-batch.
    goes_back
        Whether it is the backward pass, in which each message goes in the opposite direction.
    """

    def __init__(self, carrier: Messages, patches: Patches, images: int, goes_back: bool):
        self.carrier, self.owners = carrier, patches.owners
        self.boxes: dict[tuple[int, int, int], deque[torch.Tensor]] = defaultdict(deque)
        sent, received = _streams(patches, carrier.rank, images)
        if goes_back:
            sent, received = _backward(received), _backward(sent)
        self._outgoing = {
            key: _Outgoing(carrier, key, [message.pair for message in sorted(messages)])
            for key, messages in sent.items()
        }
        self._incoming = {
            key: _Incoming(carrier, key, sorted(messages)) for key, messages in received.items()
        }

    def of(self, patch: int) -> MessagesOfPatch:
        """The messages of a patch, by its rank in the finer plan."""
        return MessagesOfPatch(self, patch)

    def send(self, pair: Pair, tag: int, tensor: torch.Tensor) -> None:
        """Send a tensor from one patch to another."""
        owner = self.owners[pair[1]]
        if owner == self.carrier.rank:
            self.boxes[(*pair, tag)].append(tensor)
        else:
            self._outgoing[tag, owner].send(pair, tensor)

    def receive(self, pair: Pair, tag: int, buffer: torch.Tensor) -> Arrival:
        """Start to receive a tensor that one patch sends to another."""
        owner = self.owners[pair[0]]
        if owner == self.carrier.rank:
            return _InBox(pair[0], self.boxes[(*pair, tag)], buffer)
        return self._incoming[tag, owner].receive(pair, buffer)

    def finish(self, arrivals: Sequence[Arrival]) -> None:
        """Let the carrier know that messages which are here were awaited."""
        found = [a.stream.arrival(a.number) for a in arrivals if isinstance(a, _InStream)]
        self.carrier.wait(found)

    def wait_for_any(self, awaited: Sequence[Sequence[Arrival]]) -> None:
        """Wait until all messages of one of several patches are here."""
        self.carrier.wait([_AllOfOne(awaited)])


class MessagesOfPatch:
    """The messages of one patch: what a tape needs of a carrier."""

    def __init__(self, messages: PatchMessages, patch: int):
        self.messages, self.rank = messages, patch

    def send(self, target: int, tag: int, tensor: torch.Tensor) -> None:
        self.messages.send((self.rank, target), tag, tensor)

    def receive(self, source: int, tag: int, buffer: torch.Tensor) -> Arrival:
        return self.messages.receive((source, self.rank), tag, buffer)

    def wait(self, arrivals: Sequence[Arrival]) -> None:
        self.messages.wait_for_any([arrivals])
        self.messages.finish(arrivals)


# --- streams between two ranks ------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class _Message:
    pair: Pair
    size: int


_Streams = dict[tuple[int, int], list[_Message]]
"""By tag and by the other rank: the messages of this tag, to it or from it."""


def _streams(patches: Patches, rank: int, images: int) -> tuple[_Streams, _Streams]:
    """What a rank sends to others, and receives from others, in a forward pass."""
    sent: _Streams = defaultdict(list)
    received: _Streams = defaultdict(list)
    for patch in patches.rank_plans:
        (program,) = patch.programs[images]
        for step in program.steps:
            if isinstance(step, Send):
                others = [(t, t.target, (patch.rank, t.target)) for t in step.transfers]
                streams = sent
            elif isinstance(step, Receive):
                others = [(t, t.source, (t.source, patch.rank)) for t in step.transfers]
                streams = received
            else:
                continue
            for transfer, other, pair in others:
                if other != HOST and patches.owners[other] != rank:
                    size = step.axes.local_bytes(transfer.region, 1)
                    streams[step.tag, patches.owners[other]].append(_Message(pair, size))
    return sent, received


def _backward(streams: _Streams) -> _Streams:
    """The gradients of messages: they go to the patch from which the message came."""
    return {
        (backward(tag), rank): [_Message((m.pair[1], m.pair[0]), m.size) for m in messages]
        for (tag, rank), messages in streams.items()
    }


class _Outgoing:
    """The messages of one tag to another rank, sent in order."""

    def __init__(self, carrier: Messages, key: tuple[int, int], pairs: Sequence[Pair]):
        self._carrier, (self._tag, self._rank), self._pairs = carrier, key, pairs
        self._numbers = _numbers(pairs)
        self._waiting: dict[int, torch.Tensor] = {}
        self._next = 0

    def send(self, pair: Pair, tensor: torch.Tensor) -> None:
        self._waiting[self._numbers[pair].popleft()] = tensor.view(-1)
        while self._next in self._waiting:
            self._carrier.send(self._rank, self._tag, self._waiting.pop(self._next))
            self._next += 1


class _Incoming:
    """The messages of one tag from another rank, received in order."""

    def __init__(self, carrier: Messages, key: tuple[int, int], messages: Sequence[_Message]):
        self._carrier, (self._tag, self._rank), self._messages = carrier, key, messages
        self._numbers = _numbers([message.pair for message in messages])
        self._begun: list[tuple[Arrival, torch.Tensor]] = []
        self._arrived = 0

    def receive(self, pair: Pair, buffer: torch.Tensor) -> Arrival:
        number = self._numbers[pair].popleft()
        while len(self._begun) <= number:
            own = len(self._begun) == number
            memory = (
                buffer.view(-1) if own else buffer.new_empty(self._messages[len(self._begun)].size)
            )
            arrival = self._carrier.receive(self._rank, self._tag, memory)
            self._begun.append((arrival, memory))
        return _InStream(pair[0], self, number, buffer)

    def memory(self, number: int) -> torch.Tensor | None:
        """The memory of a message that has arrived; None if it has not.

        They are tested in order: a carrier gives the next message to the arrival tested first.
        """
        while self._arrived <= number and self._begun[self._arrived][0].done():
            self._arrived += 1
        return self._begun[number][1] if number < self._arrived else None

    def arrival(self, number: int) -> Arrival:
        """The carrier's arrival of a message."""
        return self._begun[number][0]


def _numbers(pairs: Sequence[Pair]) -> Mapping[Pair, deque[int]]:
    """By pair, the places of its messages in a stream."""
    found: dict[Pair, deque[int]] = defaultdict(deque)
    for number, pair in enumerate(pairs):
        found[pair].append(number)
    return found


# --- arrivals -----------------------------------------------------------------------------------


@dataclass
class _InBox:
    """A message from another patch of this rank."""

    source: int
    box: deque[torch.Tensor]
    buffer: torch.Tensor
    arrived: bool = False

    def done(self) -> bool:
        if not self.arrived and self.box:
            self.buffer.copy_(self.box.popleft())
            self.arrived = True
        return self.arrived


@dataclass
class _InStream:
    """A message from a patch of another rank; it may arrive in other memory than its own."""

    source: int
    stream: _Incoming
    number: int
    buffer: torch.Tensor
    copied: bool = False

    def done(self) -> bool:
        if not self.copied and (memory := self.stream.memory(self.number)) is not None:
            if memory.data_ptr() != self.buffer.data_ptr():
                self.buffer.view(-1).copy_(memory)
            self.copied = True
        return self.copied


class _AllOfOne:
    """Arrives when all messages of one of several patches have arrived."""

    def __init__(self, awaited: Sequence[Sequence[Arrival]]):
        self.awaited = awaited
        self.source = next(self._sources(), -1)

    def _sources(self) -> Iterator[int]:
        return (arrival.source for arrivals in self.awaited for arrival in arrivals)

    def done(self) -> bool:
        return any(all(a.done() for a in arrivals) for arrivals in self.awaited)
