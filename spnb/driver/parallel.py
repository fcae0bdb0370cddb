"""Makes a network parallel in a program of the user's own: ``spnb.parallel``."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..engine import remote
from ..errors import OptionError, PlanError
from ..ir.weights import named
from ..job.job import Job
from ..job.options import training_options
from ..kernels.devices import CPU, compute_exactly, device_of
from ..kernels.half_conv import HALVES
from ..training.own_loop.parallel_network import ParallelNetwork
from ..transport import Transport
from ..transport.host_staging import staged_for
from ..transport.slow_link import slowed
from .network_planner import NetworkPlanner, send_weights

OF_OTHER_LOOPS = ("weights", "checkpoint", "gems", "times", "force")
"""Options, beside those of training, that say nothing of a program of the user's own."""


def parallel(module: nn.Module, job: Job, transport: Transport | None = None) -> ParallelNetwork:
    """Run a network over the ranks of this program, in a training loop of your own.

    Every rank calls it: a script under ``mpiexec`` or ``srun``, a ``%%px`` cell, or a function of
    `spnb.InProcess.run`.  Rank 0 plans.  The weights of its module become those of all ranks, when
    the module is made parallel for the first time.

    Parameters
    ----------
    module
        The network; every rank makes the same.  Its own parameters are trained, no copies.
    job
        Image size, batch size and split; the network that it names does not matter.
    transport
        Carries the messages: by default that of the engine, or MPI between all processes of the
        launcher; in a function of `spnb.InProcess.run` it is ``here.transport``.

    Returns
    -------
    spnb.training.own_loop.parallel_network.ParallelNetwork
        An `nn.Module` that takes and gives this rank's tiles.

    Raises
    ------
    OptionError
        If the job has an option that a loop of your own decides, as its learning rate.
    PlanError
        On every rank, if the split cannot be exact, or if there are fewer ranks than it needs.
    CaptureError
        On every rank, if the network cannot be captured.

    Examples
    --------
    Two ranks, here threads of one process, train a network on halves of two images:

    >>> import spnb
    >>> import torch
    >>> from spnb.transport.local import World
    >>> job = spnb.Job("unet", image_size=8, batch_size=2, num_spatial_parts=2, split_size=1)
    >>> image, target = torch.ones(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    >>> def work(transport):
    ...     net = spnb.parallel(nn.Conv2d(3, 1, 3, padding=1), job, transport)
    ...     optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ...     y = net(net.scatter(image))
    ...     loss = net.mean((y - net.scatter_target(target)) ** 2)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return tuple(y.shape)
    >>> World(2).run(work)
    [(2, 1, 8, 4), (2, 1, 8, 4)]
    """
    job = _without_own_network(job, module)
    if isinstance(job.model, nn.Module):
        module = job.model  # without the wrapper of torch.compile
    transport = transport or remote.transport_of_program(job.backend, job.deadline)
    _require_ranks(job, transport)
    device = CPU
    if job.device_kind != "cpu":
        device = device_of(job.device_kind, getattr(transport, "local_rank", transport.rank))
        compute_exactly()
        module.to(device)
    carrier = staged_for(slowed(transport, job.link), device)
    planner = NetworkPlanner(module, job, carrier, num_ranks_of(job))
    send_weights(module, planner.transport, planner.num_ranks)
    return ParallelNetwork(
        module=module,
        planner=planner,
        transport=planner.transport,
        device=device,
        seed=job.seed,
    )


def num_ranks_of(job: Job) -> int:
    """Number of ranks that a job needs, without planning it."""
    return job.replicas * sum(math.prod(tiling.grid) for tiling in job.tilings)


def _without_own_network(job: Job, module: nn.Module) -> Job:
    """The job with a module; refused if options have no effect in a loop of the user's own."""
    own = set(training_options()) - {"recompute", "recompute_memory"} | set(OF_OTHER_LOOPS)
    if useless := [name for name in job.given() if name in own]:
        raise OptionError(
            f"{useless[0]} has no effect in a loop of your own, which has its weights, data,"
            " optimizer and order of passes itself: leave it out of the job"
        )
    if job.patches > 1:
        raise OptionError(
            f"patches is {job.patches}, but in a loop of your own a rank has the values of its"
            " whole tile: leave it out, or train with cluster.train"
        )
    job = job.replace(model=module)
    exact = torch.float32 if job.dtype in HALVES else job.dtype
    for name, weight in named(module).items():
        if weight.is_floating_point() and weight.dtype != exact:
            raise OptionError(
                f"{name} of the module is {weight.dtype}, but a loop with precision"
                f" {job.precision or job.dtype} trains {exact}: change one, as module.to({exact})"
            )
    return job


def _require_ranks(job: Job, transport: Transport) -> None:
    """Refuse a program with other ranks than the job needs."""
    needed, count = num_ranks_of(job), transport.size
    if count < needed:
        raise PlanError(
            f"the job needs {needed} ranks, but this program has {count}: start {needed}, as with"
            f" mpiexec -n {needed} python script.py, or in a %%px cell of as many engines"
        )
    if transport.rank >= needed:
        raise PlanError(
            f"the job needs {needed} ranks, but this is rank {transport.rank} of {count}: start"
            f" {needed}, or call spnb.parallel on ranks 0 to {needed - 1} alone"
        )
