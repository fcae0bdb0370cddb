"""Sends objects of Python from rank 0 to the other ranks, by the messages of any carrier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cloudpickle
import torch

from ..ir.tags import OBJECT
from .base import Transport


def send_objects(objects: Sequence[Any], transport: Transport) -> None:
    """On rank 0: send one object to each rank; the first is its own, and is not sent.

    Parameters
    ----------
    objects
        One for each rank, in rank order.  Functions and classes of a notebook may be among them.
    transport
        The carrier.
    """
    for rank, each in enumerate(objects):
        if rank:
            content = torch.frombuffer(bytearray(cloudpickle.dumps(each)), dtype=torch.uint8)
            transport.send(rank, OBJECT.tag(), torch.tensor([len(content)]))
            transport.send(rank, OBJECT.tag(), content)
    transport.flush()


def receive_object(transport: Transport) -> Any:
    """On every other rank: receive the object that rank 0 sends it.

    Parameters
    ----------
    transport
        The carrier.

    Examples
    --------
    >>> from spnb.transport.local import World
    >>> def swap(transport):
    ...     return receive_object(transport) if transport.rank else send_objects("ab", transport)
    >>> World(2).run(swap)
    [None, 'b']
    """
    size = _received(torch.empty(1, dtype=torch.int64), transport)
    content = _received(torch.empty(int(size), dtype=torch.uint8), transport)
    return cloudpickle.loads(content.numpy().tobytes())


def _received(buffer: torch.Tensor, transport: Transport) -> torch.Tensor:
    transport.wait([transport.receive(0, OBJECT.tag(), buffer)])
    return buffer
