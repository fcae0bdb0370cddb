"""Plans a network on rank 0 of a program of the user's own, and sends every rank its share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import wraps
from itertools import zip_longest
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..capture.trainable import with_gradient
from ..engine.operators import import_operators
from ..engine.remote import share_cores
from ..errors import CaptureError, PlanError
from ..ir.node import Weight
from ..ir.tags import OBJECT
from ..ir.weights import named
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..runtime.worker import share_failures
from ..training.own_loop.network_share import Mode, NetworkShare
from ..transport import Transport
from ..transport.base import among
from ..transport.objects import receive_object, send_objects
from .weight_files import weight_names

_OWNERS: WeakKeyDictionary[nn.Module, dict[str, Sequence[int]]] = WeakKeyDictionary()
"""By a module that was made parallel: the ranks that have each weight up to date."""


class NetworkPlanner:
    """Gives each rank its share of a network in a mode.

    Parameters
    ----------
    module
        The network.
    job
        How it is split.
    transport
        Carries the shares.
    num_ranks
        Number of ranks that the job needs.
    """

    def __init__(self, module: nn.Module, job: Job, transport: Transport, num_ranks: int):
        self.module, self.job, self.transport = module, job, transport
        self.num_ranks = num_ranks
        self._balance: tuple[int, ...] | None = None  # of the first mode: stages keep their weights

    def share_of(self, mode: Mode) -> NetworkShare:
        """Return the share of this rank; every rank must call it, and gets rank 0's error.

        Parameters
        ----------
        mode
            How the network is captured.

        Raises
        ------
        PlanError, CaptureError
            If it cannot be planned, or its stages would have other weights than before.
        """
        transport, found = self.transport, None
        ranks = among(transport, self.num_ranks)
        with ranks, share_failures(transport, lambda: "spnb.parallel"):
            if transport.rank == 0:
                shares = self._shares_or_error(mode)
                send_objects(shares, transport)
                found = shares[0]
            else:
                found = receive_object(transport)
        if isinstance(found, Exception):
            raise found
        _require_same_owners(_OWNERS.setdefault(self.module, {}), found.owners)
        import_operators(found.rank_plan)
        if hasattr(transport, "place"):
            share_cores(found.rank_plan, transport.place)
        return found

    def of_copy(self, module: nn.Module) -> NetworkPlanner:
        """Return the planner of a copy of the module, whose stages stay as they are.

        Parameters
        ----------
        module
            The copy.
        """
        _OWNERS[module] = dict(_OWNERS[self.module])
        found = NetworkPlanner(
            module, self.job.replace(model=module), self.transport, self.num_ranks
        )
        found._balance = self._balance
        return found

    def _shares_or_error(self, mode: Mode) -> list[Any]:
        """The share of each rank; if planning fails, the error for each."""
        try:
            return self._shares(mode)
        except Exception as error:
            return [error] * self.num_ranks

    def _shares(self, mode: Mode) -> list[NetworkShare]:
        job = self.job.replace(balance=self.job.balance or self._balance)
        if mode.autocast is not None:
            job = job.replace(model=_casting(self.module, job, mode.autocast))
        plan = JobPlan(job, training=True, given_tiles=True, own_modes=True)
        self._balance = tuple(stop - start for start, stop in (s.blocks for s in plan.stages))
        return shares_of(plan)


def _require_same_owners(
    known: dict[str, Sequence[int]], owners: Mapping[str, Sequence[int]]
) -> None:
    """Refuse stages with other weights than before: a rank would have outdated ones.

    Parameters
    ----------
    known
        The ranks that have each weight so far; new weights are added.
    owners
        Those of a new plan.
    """
    for name, ranks in owners.items():
        if known.setdefault(name, ranks) != ranks:
            raise PlanError(
                f"{name} would be on ranks {ranks}, but it is trained on ranks {known[name]}, in"
                " another mode or in a network that was made of the same module before: give both"
                " the same stages (split_size, balance, num_spatial_parts), or make it of a copy of"
                " the module with net.state_dict()"
            )


def shares_of(plan: JobPlan) -> list[NetworkShare]:
    """Return the share of each rank in a plan whose ranks are given their tiles.

    Parameters
    ----------
    plan
        The plan.

    Raises
    ------
    CaptureError
        If the network returns a weight.
    """
    graph = plan.graph
    if any(isinstance(leaf, Weight) for leaf in graph.returned):
        raise CaptureError(f"{plan.job.name} returns a weight: return what it computes alone")
    every = dict(plan.job.network.skeleton.named_parameters(remove_duplicate=False))
    trainable = with_gradient(plan.captured, every)
    names_of: dict[tuple[int, ...], list[str]] = {}
    owners: dict[str, list[int]] = {}
    for rank in range(plan.num_ranks):
        stages = tuple(plan.stages_on(rank))
        if stages not in names_of:
            names_of[stages] = weight_names(plan, stages)
        for name in names_of[stages]:
            if name not in graph.literals:
                owners.setdefault(name, []).append(rank)
    return [
        NetworkShare(
            rank_plan=plan.rank_plan(rank),
            inputs={name: (axes, graph.dtype_of(name)) for name, axes in graph.inputs.items()},
            outputs={name: (graph.axes[name], graph.dtype_of(name)) for name in graph.outputs},
            returned=graph.returned,
            nested=graph.structure.unflatten(range(len(graph.returned))),
            names=tuple(name for name in names if name not in graph.literals),
            literals={name: graph.literals[name] for name in names if name in graph.literals},
            trainable=tuple(name for name in trainable if name in names),
            counted=plan.captured.counted,
            owners=owners,
        )
        for rank in range(plan.num_ranks)
        for names in [names_of[tuple(plan.stages_on(rank))]]
    ]


def send_weights(module: nn.Module, transport: Transport, num_ranks: int) -> None:
    """Copy the weights of rank 0's module into those of all ranks; every rank must call it.

    A module that was made parallel before is left as it is: its weights are those of the stages.

    Parameters
    ----------
    module
        This rank's module.
    transport
        Carries the weights.
    num_ranks
        Number of ranks.

    Raises
    ------
    PlanError
        If this rank's module has other weights than rank 0's.
    """
    if module in _OWNERS:
        return
    every = {name: tensor.detach() for name, tensor in named(module).items()}
    own = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in every.items()]
    with among(transport, num_ranks), share_failures(transport, lambda: "spnb.parallel"):
        if transport.rank == 0:
            send_objects([own] * num_ranks, transport)
            for rank in range(1, num_ranks):
                for tensor in every.values():
                    transport.send(
                        rank, OBJECT.tag(), tensor.clone(memory_format=torch.contiguous_format)
                    )
            transport.flush()
            return
        wanted = receive_object(transport)
        if wanted != own:
            name = next((w[0] for w, o in zip_longest(wanted, own) if w != o and w), "more weights")
            raise PlanError(
                f"rank {transport.rank} has another network than rank 0, which has {len(wanted)}"
                f" weights and not {len(own)}, or another {name}: make the same network on each"
            )
        for tensor in every.values():
            buffer = torch.empty_like(tensor, memory_format=torch.contiguous_format)
            transport.wait([transport.receive(0, OBJECT.tag(), buffer)])
            tensor.copy_(buffer)


def _casting(module: nn.Module, job: Job, dtype: torch.dtype) -> nn.Module:
    """The module as it runs inside ``torch.autocast``; both share layers and weights."""
    method = getattr(type(module), job.method)

    @wraps(method)
    def casting(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(job.device_kind, dtype):
            return method(self, *args, **kwargs)

    found = copy.copy(module)
    found.__class__ = type(type(module).__name__, (type(module),), {job.method: casting})
    return found
