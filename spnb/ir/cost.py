"""The speed of a rank's device and of the links between ranks, as a few numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

from .node import Node


@dataclass(frozen=True)
class Speed:
    """The measured speed of an operator on one core.

    Attributes
    ----------
    kind
        The operator, as `spnb.ir.node.Node.kind`.
    taps, inputs, outputs
        Of a convolution: positions of its filter, channels that each result reads, and channels of
        the result; 1 for all others.
    size
        Bytes of its result.
    rate
        Operations per second of a convolution; bytes per second of others.
    """

    kind: str
    taps: int
    inputs: int
    outputs: int
    size: int
    rate: float


@dataclass(frozen=True)
class Machine:
    """A rank's device, and the links between ranks; the default is a core of a laptop's CPU.

    The time of an operator is the sum of its launch, its operations and its memory traffic: they
    do not overlap.  Where speeds of operators were measured, they stand for operations and traffic.
    The time of a message is its latency, and its bytes on the sender's link, which sends one
    message after another.

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
    cores
        Cores that all ranks share; None if each rank has a device of its own.
    recorded, backward
        In training: how many times as long as in inference a forward pass takes, and a backward
        pass.
    speeds
        Measured speeds of operators; of another one, the speed is that of the most similar ones.
    name
        Name of the machine and, if it was measured, the day.
    """

    flops: float = 5e10
    memory: float = 1e10
    link: float = 5e9
    latency: float = 20e-6
    launch: float = 10e-6
    cores: int | None = None
    recorded: float = 1.0
    backward: float = 2.0
    speeds: tuple[Speed, ...] = field(default=(), repr=False)
    name: str = "a core of a laptop's CPU"

    def seconds(self, node: Node, share: float = 1.0) -> float:
        """Estimated seconds of a call on one rank; ``share`` is the computed part of its result."""
        taps, inputs, outputs = _filter(node)
        bytes_written = math.prod(node.shape) * node.dtype.itemsize
        size = max(1, int(share * bytes_written)).bit_length()  # alike sizes have one speed
        rate = _rate(self.speeds, node.kind, taps, inputs, outputs, size)
        if rate is None:
            touched = share * node.bytes_touched
            return self.launch + share * node.flops / self.flops + touched / self.memory
        if _counts_operations(node.kind):
            of_weights = sum(math.prod(w.shape) for w in node.weights) * node.dtype.itemsize
            return self.launch + share * node.flops / rate + of_weights / self.memory
        return self.launch + share * node.bytes_touched / rate


def speed_of(node: Node, seconds: float) -> Speed:
    """The speed of a call that took so many seconds, its launch not counted.

    Parameters
    ----------
    node
        The call.
    seconds
        Seconds of its operations and its memory traffic.
    """
    work = node.flops if _counts_operations(node.kind) else node.bytes_touched
    size = math.prod(node.shape) * node.dtype.itemsize
    return Speed(node.kind, *_filter(node), size, work / seconds)


def _counts_operations(kind: str) -> bool:
    return kind.startswith(("conv", "linear"))


def _filter(node: Node) -> tuple[int, int, int]:
    """Positions of a filter, channels that it reads, and channels of the result."""
    if not _counts_operations(node.kind) or not node.weights:
        return 1, 1, 1
    outputs, inputs, *taps = (*node.weights[0].shape, 1)
    return math.prod(taps), inputs, outputs


@lru_cache(maxsize=1 << 14)
def _rate(
    speeds: tuple[Speed, ...], kind: str, taps: int, inputs: int, outputs: int, size: int
) -> float | None:
    """The mean of the rates of an operator's measured calls; alike ones count more.

    Parameters
    ----------
    size
        Number of binary digits of the bytes of the result.
    """
    found = [speed for speed in speeds if speed.kind == kind]
    weights = []
    for speed in found:
        distance = 2 * math.log2(taps / speed.taps) ** 2
        distance += math.log2(inputs / speed.inputs) ** 2 + math.log2(outputs / speed.outputs) ** 2
        distance += ((size - speed.size.bit_length()) / 2) ** 2
        weights.append(1 / (distance + 0.01) ** 2)
    if not found:
        return None
    logs = sum(w * math.log(s.rate) for w, s in zip(weights, found, strict=True))
    return math.exp(logs / sum(weights))


CORE = Machine()
GPU = Machine(
    flops=1e13,
    memory=1.2e12,
    link=2e10,
    latency=10e-6,
    launch=8e-6,
    name="a GPU of a data centre",
)
"""A GPU of a data centre, with a fast network between ranks."""
