"""Carriers of tensors between two ranks: gloo or NCCL, both through torch.distributed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from ..errors import DeviceError, PeerFailed
from ..kernels.compat import gloo_opener, nccl_opener
from ..kernels.devices import device_of


class Work:
    """A message on a channel, and whether it is complete.

    Attributes
    ----------
    peer
        The rank at the other end.
    buffer
        The tensor that is sent, or received into; it must live as long as this object.
    ready
        The GPU's event after which the memory may be used, as `Carrier.mark` gives it.
    """

    def __init__(self, peer: int, buffer: torch.Tensor, ready: Any):
        self.peer, self.buffer, self.ready = peer, buffer, ready
        self._finished = threading.Event()
        self._error: Exception | None = None

    def finish(self, error: Exception | None) -> None:
        """Record that it is complete, or has failed."""
        self._error = error
        self._finished.set()

    @property
    def finished(self) -> bool:
        """Whether it is complete, or has failed."""
        return self._finished.is_set()

    def done(self) -> bool:
        """Whether it is complete.

        Raises
        ------
        PeerFailed
            If the connection is lost.
        """
        if self.finished and self._error is not None:
            reason = str(self._error).splitlines()[0]
            raise PeerFailed(f"rank {self.peer} cannot be reached any more: {reason}")
        return self.finished


class Carrier(ABC):
    """Moves tensors between the two ranks of a group.

    Parameters
    ----------
    deadline
        Seconds to wait for the other rank.
    """

    def __init__(self, deadline: float):
        self.timeout = timedelta(seconds=deadline)

    @abstractmethod
    def open(self, store: distributed.Store, rank: int) -> distributed.ProcessGroup:
        """Make a group of two: rank 0 sends, rank 1 receives.  Both must call this."""

    @abstractmethod
    def carry(self, group: distributed.ProcessGroup, rank: int, work: Work) -> None:
        """Send or receive a message, and wait until that is done."""

    def close(self, group: distributed.ProcessGroup) -> None:
        """End a group; it carries no further message."""
        return None

    def mark(self) -> Any:
        """An event after which the memory of a message may be used, if the message is made now."""
        return None

    def memory(self, size: int) -> torch.Tensor:
        """Memory for a message of ``size`` bytes."""
        return torch.empty(size, dtype=torch.uint8, device="cpu")


class Gloo(Carrier):
    """Over TCP, for tensors in the host's memory.

    Parameters
    ----------
    address
        Address of this host for connections from other hosts.
    """

    def __init__(self, deadline: float, address: str):
        super().__init__(deadline)
        self._open = gloo_opener(address, self.timeout)

    def open(self, store: distributed.Store, rank: int) -> distributed.ProcessGroup:
        return self._open(store, rank)

    def carry(self, group: distributed.ProcessGroup, rank: int, work: Work) -> None:
        tensors = [work.buffer.reshape(-1).view(torch.uint8)]
        (group.send(tensors, 1, 0) if rank == 0 else group.recv(tensors, 0, 0)).wait()


class NCCL(Carrier):
    """Between GPUs, each channel in a stream of its own.

    Parameters
    ----------
    device
        This rank's GPU.
    """

    def __init__(self, deadline: float, device: torch.device):
        super().__init__(deadline)
        self.device, self._streams = device, threading.local()
        self._open = nccl_opener(self.timeout, blocks=2)  # channels share the GPU's blocks

    def open(self, store: distributed.Store, rank: int) -> distributed.ProcessGroup:
        with torch.cuda.device(self.device):
            self._streams.own = torch.cuda.Stream(self.device)
            return self._open(store, rank)

    def carry(self, group: distributed.ProcessGroup, rank: int, work: Work) -> None:
        stream, tensors = self._streams.own, [work.buffer.reshape(-1).view(torch.uint8)]
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            stream.wait_event(work.ready)
            (group.send(tensors, 1, 0) if rank == 0 else group.recv(tensors, 0, 0)).wait()
            stream.synchronize()

    def close(self, group: distributed.ProcessGroup) -> None:
        group.shutdown()

    def mark(self) -> Any:
        """An event in the stream that computes, after all that was queued before."""
        return torch.cuda.current_stream(self.device).record_event()

    def memory(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.device)


def nccl_device(local_rank: int) -> torch.device:
    """The GPU of a rank, which NCCL reads and writes.

    Raises
    ------
    DeviceError
        If there is no GPU, or PyTorch has no NCCL.
    """
    device = device_of("cuda", local_rank)
    if not distributed.is_nccl_available():
        raise DeviceError(f"PyTorch {torch.__version__} has no NCCL: use backend mpi or gloo")
    return device
