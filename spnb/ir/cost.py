"""The speed of a rank's device and of the links between ranks, as a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from .node import Node


@dataclass(frozen=True)
class Machine:
    """A rank's device, and the links between ranks; the default is a core of a laptop's CPU.

    The time of an operator is the sum of its launch, its operations and its memory traffic: they
    do not overlap.  The time of a message is its latency, and its bytes on the sender's link, which
    sends one message after another.

    Attributes
    ----------
    flops
        Operations per second, in fp32.
    memory
        Bytes per second between the device and its memory; storage is read at the same speed.
    link
        Bytes per second from a rank to all others together.
    latency
        Seconds from the sending of a message to the arrival of its first byte.
    launch
        Seconds that an operator takes at least.
    """

    flops: float = 5e10
    memory: float = 1e10
    link: float = 5e9
    latency: float = 20e-6
    launch: float = 10e-6

    def seconds(self, node: Node, share: float = 1.0) -> float:
        """Estimated seconds of a call on one rank; ``share`` is the computed part of its result."""
        return (
            self.launch + share * node.flops / self.flops + share * node.bytes_touched / self.memory
        )


CORE = Machine()
GPU = Machine(flops=1e13, memory=1.2e12, link=2e10, latency=10e-6, launch=8e-6)
"""A GPU of a data centre, with a fast network between ranks."""
