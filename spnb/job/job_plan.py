"""From a job to its plan: figures to look at, inputs to open, and what each rank is given.

The module is longer than others since every public member has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from torch import nn

from ..analysis.segments import refuse_too_little_memory, segments_of
from ..capture.losses import OwnLoss, of_micro_batches, with_loss
from ..capture.tiled_inputs import with_tiled_inputs
from ..errors import PlanError
from ..ir.graph import Graph
from ..ir.rank_plan import RankPlan
from ..ir.schedule import micro_batches
from ..ir.tiling import in_patches
from ..planner.balance import stage_blocks
from ..planner.plan import DependentPatches
from .job import Job, job_of
from .options import LeftOut
from .plan_figures import PlanFigures
from .plan_pictures import PlanPictures
from .plan_refusals import (
    refuse_gpu_casts,
    refuse_several_types,
    refuse_slow_int8,
    refuse_small_images,
    require_statistics,
)
from .plan_weights import PlanWeights
from .validation import check_training


class JobPlan(PlanPictures, PlanFigures, PlanWeights):
    """The plan of a job: stages, tiles, transfers and every rank's program.

    A plan starts nothing and holds no weights until `module` is read.  `spnb.plan` makes it.

    Parameters
    ----------
    job
        What to plan; kept as ``plan.job``.
    training
        Whether to train the network, rather than to run it.
    loss
        A loss of the user's own, which the plan computes after the network.
    given_tiles
        Whether ranks are given their tiles of the inputs, rather than read regions of them.
    own_modes
        In training, whether each layer is in its own mode, although the module is in evaluation
        mode.

    Attributes
    ----------
    job, training, loss
        The first arguments.
    num_ranks
        Number of MPI ranks that the plan needs.
    stages
        Runs of consecutive blocks, each with its ranks and tiles.
    graph
        The network as calls of operators.
    extent
        Spatial size of the image, in pixels.

    Raises
    ------
    PlanError
        If the split cannot be exact; the message names stage, layer, operator, extent and what
        to change.
    CaptureError
        If the network cannot be captured.

    Examples
    --------
    >>> found = plan(Job("resnet20_v1", image_size=64, batch_size=1))
    >>> found.num_ranks, found.extent, len(found.stages)
    (5, (64, 64), 2)
    """

    def __init__(
        self,
        job: Job,
        training: bool = False,
        loss: OwnLoss | None = None,
        given_tiles: bool = False,
        own_modes: bool = False,
    ):
        cuts = in_patches(job.tilings, job.patch_grid)
        refuse_small_images(job, cuts)
        if training:
            check_training(job)
        if training:
            refuse_several_types(job)
        graph = job.network.graph(
            job.shapes, job.dtype, training, job.weights_dtype is None, own_modes
        )
        graph = replace(graph, training=training)
        refuse_gpu_casts(job, graph)
        refuse_slow_int8(job, graph)
        self._network_graph = graph
        if loss is not None:
            graph = _with_loss(graph, loss, job)
        if given_tiles:
            graph = with_tiled_inputs(graph)
        blocks = stage_blocks(
            graph,
            cuts,
            job.num_micro_batches > 1 or job.local_DP > 1,
            job.balance,
            job.allow_gather,
            patches=job.patches,
        )
        exchange = job.patches > 1 and (training or not (job.halo_D2 and job.fused_layers == "all"))
        try:
            self._plan(job, graph, blocks, patches_exchange=exchange)
        except DependentPatches:
            self._plan(job, graph, blocks, patches_exchange=True)
        self.job, self.training, self.loss = job, training, loss
        self._structure = job.network.structure(training)
        self._change: Callable[[RankPlan], RankPlan] | None = None
        if training:
            require_statistics(self, job.parts)
            if job.recompute_memory is not None:
                refuse_too_little_memory(self)

    def _plan(self, job: Job, graph: Graph, blocks: Sequence[int], patches_exchange: bool) -> None:
        """Plan a graph in stages, as the job says."""
        if patches_exchange and job.device_kind != "cpu":
            raise PlanError(
                f"the {job.patches} patches of a tile exchange halos or figures of the image, and"
                " wait on disk meanwhile, which is for CPUs: leave out patches, or use device cpu"
            )
        super().__init__(
            graph,
            job.tilings,
            blocks,
            parts=job.parts,
            fused=job.fused,
            network_module=job.network.module_name,
            patches=job.patch_grid,
            patches_exchange=patches_exchange,
            schedule=job.schedule,
            recompute=job.recompute or job.recompute_memory is not None,
            recompute_memory=job.recompute_memory,
            replicas=job.replicas,
            times=job.times if job.gems else 0,
            overlapped=job.enable_master_comm_opt or not job.gems,
        )

    def rank_plan(self, rank: int) -> RankPlan:
        """Return a rank's share of the plan, as plain picklable data.

        Parameters
        ----------
        rank
            A rank of the world, from 0.

        Returns
        -------
        RankPlan
            Its programs, tile, transfers and device.

        Examples
        --------
        >>> plan(Job("resnet20_v1", image_size=64, batch_size=1)).rank_plan(4).rank
        4
        """
        found, job = super().rank_plan(rank), self.job
        rank_plan = replace(found, device=job.device_kind, slow_link=job.link)
        return rank_plan if self._change is None else self._change(rank_plan)

    def _rank_plan(self, plan_rank: int, replica: int) -> RankPlan:
        """The share of a rank, with what it computes again in the backward pass."""
        found = super()._rank_plan(plan_rank, replica)
        if not (self.training and self.recompute) or self.finer is not None:
            return found
        sizes = set(self.micro_batch_sizes)
        return replace(found, segments={n: segments_of(self, plan_rank, n) for n in sizes})

    def derived(self, change: Callable[[RankPlan], RankPlan]) -> JobPlan:
        """Return the same plan with a change to the share of every rank.

        Parameters
        ----------
        change
            Returns the changed share; it is called for each rank whose share is asked for.

        Returns
        -------
        JobPlan
            The other plan; this one stays unchanged.

        Examples
        --------
        >>> found = plan(Job("resnet20_v1", image_size=64, batch_size=1))
        >>> found.derived(lambda share: replace(share, threads=1)).rank_plan(0).threads
        1
        """
        plan = copy(self)
        plan._change = change
        return plan

    def refuse_if_outdated(self) -> None:
        """Refuse to run a plan whose network has other layers, or other settings, by now.

        Weights may change: a session loads them again.

        Raises
        ------
        PlanError
            With a way out.

        Examples
        --------
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.LeakyReLU(0.1))
        >>> found = plan(Job(net, image_size=16, batch_size=1, num_spatial_parts=2, split_size=1))
        >>> net[1].negative_slope = 0.2
        >>> found.refuse_if_outdated()
        Traceback (most recent call last):
        spnb.errors.PlanError: Sequential has other layers or settings than it was planned with: ...
        """
        structure = self.job.network.structure(self.training)
        if structure == self._structure:
            return
        job = self.job
        graph = job.network.graph(job.shapes, job.dtype, self.training, job.weights_dtype is None)
        if not graph.is_same_as(self._network_graph):
            raise PlanError(
                f"{job.name} has other layers or settings than it was planned with: load a new"
                " plan, as cluster.load(spnb.plan(job))"
            )
        self._structure = structure

    def with_loss(self, loss: OwnLoss | None) -> JobPlan:
        """Return the plan for training with a loss of the user's own, which tiles compute.

        Parameters
        ----------
        loss
            The loss, and the shapes of its targets; None for one of spnb's own, by name.

        Returns
        -------
        JobPlan
            The other plan; this one stays unchanged.

        Raises
        ------
        CaptureError, PlanError
            If the loss cannot be captured, or tiles cannot compute it.

        Examples
        --------
        >>> import torch
        >>> from torch import nn
        >>> from spnb.capture.losses import TargetShape
        >>> job = Job(nn.Conv2d(1, 1, 3, padding=1), image_size=8, batch_size=2, split_size=1)
        >>> loss = OwnLoss(nn.L1Loss(), (TargetShape((2, 1, 8, 8), torch.float32),))
        >>> [node.kind for node in plan(job, training=True).with_loss(loss).captured.nodes]
        ['conv2d', 'sub', 'abs', 'mean']
        """
        found = JobPlan(self.job, self.training, loss)
        found._change = self._change
        return found

    def for_evaluation(self, job: Job | None = None, loss: OwnLoss | None = None) -> JobPlan:
        """Return the plan that evaluates the network, with all layers in evaluation mode.

        Parameters
        ----------
        job
            Another job, which differs in the batch; by default that of this plan.
        loss
            A loss of the user's own, and metrics, which the plan computes after the network.

        Returns
        -------
        JobPlan
            A plan for inference; this one stays unchanged.

        Raises
        ------
        CaptureError, PlanError
            If tiles cannot compute the network or the loss in evaluation mode.

        Examples
        --------
        >>> found = plan(Job("resnet20_v1", image_size=64, batch_size=1), training=True)
        >>> found.for_evaluation().training
        False
        """
        found = JobPlan(job or self.job, loss=loss)
        found._change = self._change
        return found

    def is_of(self, job: Job) -> bool:
        """Whether this is the plan that runs a job's network.

        Parameters
        ----------
        job
            A job; what its plan would be is not computed.

        Returns
        -------
        bool
            True if the network is the same, with the same value of every option.

        Examples
        --------
        >>> found = plan(Job("resnet20_v1", image_size=64, batch_size=1))
        >>> found.is_of(found.job.replace(tiles=4)), found.is_of(found.job.replace(tiles=9))
        (True, False)
        """
        same = job.network.is_same_as(self.job.network) and job.values() == self.job.values()
        return same and not self.training

    def for_images(self, count: int) -> JobPlan:
        """Return the plan for a number of images, where the job leaves the batch size out.

        Parameters
        ----------
        count
            Images that the network shall be run on.

        Returns
        -------
        JobPlan
            This plan, if it is for so many images already or the job names a batch size.

        Raises
        ------
        PlanError, OptionError
            If the job cannot be planned for so many images.

        Examples
        --------
        >>> found = plan(Job("resnet20_v1", image_size=64))
        >>> found.job.batch_size, found.for_images(1).job.batch_size
        (32, 1)
        """
        if count == self.job.batch_size or not isinstance(self.job.batch_size, LeftOut):
            return self
        changed = JobPlan(self.job.replace(batch_size=LeftOut(count)), self.training)
        changed._change = self._change
        return changed


def _with_loss(graph: Graph, loss: OwnLoss, job: Job) -> Graph:
    """The graph with a loss, which computes with the number of images in a micro-batch."""
    found = with_loss(graph, loss)
    counts = sorted(set(micro_batches(graph.batch, job.num_micro_batches)), reverse=True)
    if counts == [graph.batch]:
        return found
    own_types, smaller = job.weights_dtype is None, []
    for count in counts:
        fewer = tuple((count, *shape[1:]) for shape in job.shapes)
        of_count = job.network.graph(fewer, job.dtype, graph.training, own_types)
        smaller.append(with_loss(of_count, loss.with_images(count)))
    return of_micro_batches(found, smaller)


def plan(job: Job | str | nn.Module, training: bool = False, **options: Any) -> JobPlan:
    """Plan a job, to run its network or to train it; nothing is started.

    Parameters
    ----------
    job
        A network, an image size and a split; or only the network, as `Job` takes it.
    training
        Whether to train the network, rather than to run it.
    **options
        Options of the job, which may be another than the given one in these.

    Returns
    -------
    JobPlan
        Stages, tiles, transfers and every rank's program; it draws and simulates itself.

    Raises
    ------
    PlanError
        If the split cannot be exact; the message names stage, layer, operator, extent and what
        to change.
    CaptureError
        If the network cannot be captured.
    OptionError
        If the job has an option that training cannot have.

    Examples
    --------
    >>> plan(Job("resnet20_v1", image_size=64, batch_size=1)).num_ranks
    5
    >>> plan("unet", image_size=64, batch_size=1, tiles=6).stages[0].team.tiling.grid
    (1, 2, 3)
    """
    return JobPlan(job_of(job, **options), training)
