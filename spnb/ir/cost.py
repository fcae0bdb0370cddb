"""What ranks compute with and what connects them, as a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from .node import Node


@dataclass(frozen=True)
class Machine:
    """A rank's device, and the links between ranks; the default is a core of a laptop's CPU.

    An operator takes the time of its operations and the time of its memory traffic (no overlap);
    a message its latency and its bytes on the sender's link, one after another there.

    Attributes
    ----------
    flops
        Operations in a second, of fp32.
    memory
        Bytes in a second between the device and its memory; storage is read as fast.
    link
        Bytes in a second from a rank to others.
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
        """Estimated seconds of a call, or of a share of its positions, on one rank."""
        return (
            self.launch + share * node.flops / self.flops + share * node.bytes_touched / self.memory
        )


CORE = Machine()
GPU = Machine(flops=1e13, memory=1.2e12, link=2e10, latency=10e-6, launch=8e-6)
"""A GPU of a data centre, its ranks on a fast network."""
