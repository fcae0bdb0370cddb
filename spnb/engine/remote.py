"""The functions that a session calls in the process of a rank, over this process's `spnb.here`.

`spnb.driver.cluster` calls them on ipyparallel's engines, `spnb.driver.mpi_launch` on the processes
that mpiexec started.  The caller imports this module too, so MPI is imported where it is used, on
the ranks: a notebook's own process is no MPI rank.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from ..io.disk.file_mark import FileMark
from ..io.stage_weights import read_weights
from ..ir.rank_plan import RankPlan
from ..runtime.allocator import IN_INFERENCE, keep_blocks
from ..runtime.process_memory import give_back, set_modules_aside
from ..transport.mpi_environment import prepare_rank
from .cells import free_message
from .here import here
from .service import Answer, Call, answer_of
from .watches import (
    end_all_if_one_is_missing,
    ending_all,
    fail_if_one_is_missing,
    watched_elsewhere,
)

if TYPE_CHECKING:
    from ..transport.mpi import MPITransport
    from ..transport.mpi_library import PlaceOnHost

T = TypeVar("T")

_transport: MPITransport | None = None


def prepare(token: Path, deadline: float, caller: str, path: Sequence[str]) -> bool:
    """On an ipyparallel engine: connect it with all others, and watch its cells. Collective.

    Parameters
    ----------
    token
        A file of the caller's.
    deadline
        Seconds without a sign of life after which a rank counts as one that does not answer.
    caller
        The caller's host: it watches the ranks there itself.
    path
        The caller's ``sys.path``, so that the engine can import what the caller can.

    Returns
    -------
    bool
        Whether this engine sees the caller's files.
    """
    from ipyparallel.datapub import publish_data
    from IPython import get_ipython
    from mpi4py import MPI

    from ..transport.mpi import MPITransport
    from .cells import watch_cells
    from .on_host import remove_folder

    # ipyparallel's handler ends the engine's loop, and then MPI waits for ranks that still run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.path += [folder for folder in path if folder not in sys.path]
    if _transport is None:
        transport = MPITransport(MPI.COMM_WORLD)
        here_too = socket.gethostname() == caller
        watch = watched_elsewhere if here_too else fail_if_one_is_missing(transport, deadline)
        transport.watch = watch
        use_transport(transport)
        watch_cells(get_ipython(), transport)
        here.publish = publish_data
        remove_folder()
    return token.exists()


def sees(mark: FileMark) -> bool:
    """Whether this process sees a file of the caller's."""
    return mark.seen_here()


def use_transport(transport: MPITransport) -> None:
    """Let this process's rank exchange messages through a transport, from the next load on."""
    global _transport
    keep_blocks()
    set_modules_aside()
    _transport = transport
    transport.note_wait = here.note_wait


def load(rank_plan: RankPlan | None, weights: Path | Mapping[str, torch.Tensor]) -> None:
    """Load a rank's share of a plan, or none if the plan does not need this rank.

    Parameters
    ----------
    rank_plan
        The share; ``None`` for none.
    weights
        The weights of its stage by name, or the file that has them; empty where there is no share.
    """
    # Weights may be loaded again for the same plan: its results are still asked for.
    outputs = dict(here.outputs) if here.plan == rank_plan else {}
    here.unload()
    give_back()
    if rank_plan is None:
        return
    keep_blocks() if rank_plan.training else keep_blocks(below=IN_INFERENCE)
    transport = connected()
    transport.num_ranks = rank_plan.num_ranks
    share_cores(rank_plan, transport.place)
    torch.set_default_dtype(rank_plan.default_dtype)
    tensors = read_weights(weights) if isinstance(weights, Path) else weights
    here.load(rank_plan, tensors, transport, transport.local_rank)
    give_back()  # what weights took before they were in their memory order
    set_modules_aside()
    here.outputs.update(outputs)
    here.publish({"loaded": 1})


def share_cores(rank_plan: RankPlan, place: PlaceOnHost) -> None:
    """Let this process compute with its share of the host's cores, or as many as the plan says.

    Parameters
    ----------
    rank_plan
        Its share of the plan.
    place
        Its place among the ranks of the host.
    """
    share = place.threads(rank_plan.world_rank, rank_plan.num_ranks, rank_plan.at_once)
    torch.set_num_threads(rank_plan.threads or share)


def answer(call: Call[T] | None) -> Answer[T] | None:
    """Have this process's rank carry out a call; ``None`` if there is nothing for it to do."""
    try:
        return answer_of(here, call)
    finally:
        free_message()


def reset(backend: str) -> None:
    """Drop every message that is on its way; ``backend`` carries the next ones. Collective."""
    transport = connected()
    transport.backend = backend
    transport.reset()


def transport_of_program(backend: str, deadline: float) -> MPITransport:
    """The transport between the ranks that run one program: engines, or processes of a launcher.

    A process of ``mpiexec`` or ``srun`` connects at the first call, which is collective.  If its
    program fails after that, it ends all processes, which would wait for this one.

    Parameters
    ----------
    backend
        The library that carries tensors; a change of it is collective.
    deadline
        Seconds without a sign of life after which a process ends all; on engines, their driver
        watches them.
    """
    global _transport
    if _transport is None:
        prepare_rank()
        from mpi4py import MPI

        from ..transport.mpi import MPITransport

        use_transport(MPITransport(MPI.COMM_WORLD))
        assert _transport is not None  # it was just set
        if MPI.COMM_WORLD.size > 1:
            sys.excepthook = ending_all(sys.excepthook, MPI.COMM_WORLD.Abort)
            _transport.watch = end_all_if_one_is_missing(_transport, deadline)
    transport = connected()
    if transport.backend != backend:
        reset(backend)
    return transport


def connected() -> MPITransport:
    """The transport of this process's rank."""
    assert _transport is not None  # `prepare` or `use_transport` is the first call of a session
    return _transport
