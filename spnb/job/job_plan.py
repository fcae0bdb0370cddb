"""From a job to its plan, to look at and to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..analysis import summary
from ..analysis.memory import PROCESS, TRAINER, memory
from ..analysis.simulate import Simulation, simulate
from ..analysis.traffic import Totals, totals, traffic
from ..display.cards import Card, Shown
from ..errors import PlanError
from ..io.open import open_source
from ..io.sources import RowSource, Source
from ..ir.cost import CORE, Machine
from ..ir.rank_plan import RankPlan
from ..ir.region import in_patches, shape_text
from ..kernels.half_conv import HALVES
from ..planner.balance import stage_blocks
from ..planner.plan import Plan
from .job import Job
from .plan_pictures import PlanPictures
from .validation import check_training


class JobPlan(PlanPictures, Shown, Plan):
    """The plan of a job: stages, tiles, transfers and every rank's program.

    Parameters
    ----------
    job
        What to plan; kept as ``plan.job``.
    training
        Whether to train the network, rather than to run it.

    Raises
    ------
    PlanError
        If the split cannot be exact, naming stage, layer, operator, extent and a way out.
    CaptureError
        If the network cannot be captured.
    """

    def __init__(self, job: Job, training: bool = False):
        tilings, sizes, patches = job.tilings, job.input_shape[2:], job.patch_grid
        cuts = in_patches(tilings, patches)
        for stage, tiling in enumerate(cuts):
            if any(n > size for n, size in zip(tiling.grid[1:], sizes, strict=True)):
                raise PlanError(
                    f"stage {stage}: an image of {shape_text(sizes)} pixels cannot be cut into"
                    f" {shape_text(tiling.grid[1:])} {'patches' if job.patches > 1 else 'tiles'}:"
                    " use fewer or a larger image"
                )
        if training:
            check_training(job)
        graph = job.network.graph(job.shapes, job.dtype, training)
        cut_batch = job.num_micro_batches > 1 or job.local_DP > 1
        balance = stage_blocks(
            graph, cuts, cut_batch, job.balance, job.allow_gather, patches=job.patches
        )
        super().__init__(
            graph,
            tilings,
            balance,
            parts=job.parts,
            fused=job.fused,
            network_module=job.network.module_name,
            patches=patches,
            schedule=job.schedule,
            recompute=job.recompute,
            replicas=job.replicas,
            times=job.times if job.gems else 0,
            overlapped=job.enable_master_comm_opt or not job.gems,
        )
        self.job, self.training = job, training
        self._change: Callable[[RankPlan], RankPlan] | None = None
        if training:
            _require_statistics(self)

    def rank_plan(self, rank: int) -> RankPlan:
        """Return a rank's share of the plan, as plain picklable data.

        Parameters
        ----------
        rank
            A rank of the world.
        """
        rank_plan = replace(super().rank_plan(rank), device=self.job.device_kind)
        return rank_plan if self._change is None else self._change(rank_plan)

    def derived(self, change: Callable[[RankPlan], RankPlan]) -> JobPlan:
        """Return the same plan with a change to the share of every rank.

        Parameters
        ----------
        change
            Returns the changed share; it is called for each rank whose share is asked for.
        """
        plan = copy(self)
        plan._change = change
        return plan

    @cached_property
    def per_rank(self) -> pd.DataFrame:
        """Place, messages and bytes that each rank sends in a pass, and its foreseen memory."""
        rows = []
        for rank in range(self.num_ranks):
            stage, region = self.stage_of(rank).index, self.tile_region(rank)
            tile, spans = self.tile_of(rank), " × ".join(f"{a}:{b}" for a, b in region.spans[1:])
            rows.append((rank, stage, tile, spans, *traffic(self, rank), self.memory_bytes[stage]))
        names = ["rank", "stage", "tile", "region", "messages", "bytes", "memory_bytes"]
        return pd.DataFrame(rows, columns=names)

    @cached_property
    def totals(self) -> Totals:
        """Exchanges, messages, bytes and work of all ranks in one pass over the batch."""
        return totals(self)

    @property
    def module(self) -> nn.Module:
        """The network with its weights; training needs no checkpoint that exists already."""
        return self.job.network.module(self.weights_dtype, self._weights_file)

    def build_module(self) -> None:
        """Build `module` now, so that a bad checkpoint is refused before ranks start.

        Raises
        ------
        WeightsError
            If the checkpoint or the factory cannot be used.
        """
        self.job.network.module(self.weights_dtype, self._weights_file)

    @module.setter
    def module(self, trained: nn.Module) -> None:
        self.job.network.keep(trained, self.weights_dtype, self._weights_file)

    @property
    def weights_dtype(self) -> torch.dtype:
        """Training in half precision has its weights in fp32."""
        half = self.training and self.job.dtype in HALVES
        return torch.float32 if half else self.job.dtype

    @property
    def _weights_file(self) -> Path | None:
        file = self.job.weights_file
        return None if self.training and file is not None and not file.exists() else file

    @cached_property
    def memory_bytes(self) -> tuple[int, ...]:
        """Most bytes that an engine of each stage takes: the process, weights, values at once."""
        process = PROCESS + TRAINER * self.training
        return tuple(process + weights + values for weights, values in memory(self))

    def open(self, image: Any = None) -> Source:
        """An image as a source that fits the plan: see `spnb.io.open.open_source`.

        A picture that is named by file or sample is resized to the plan's size; what is passed as
        an array must have it.

        Raises
        ------
        ValueError, FileNotFoundError
            If it cannot be read or does not fit.
        """
        batch, channels, *size = self.job.input_shape
        return open_source(
            image,
            batch_size=batch,
            channels=channels,
            size=tuple(size),
            seed=self.job.seed,
            resize=isinstance(image, (str, Path)),
        )

    def open_inputs(self, inputs: Any = None) -> dict[str, Source]:
        """What a network is run on, as a source for each of its inputs, by name.

        Parameters
        ----------
        inputs
            What `open` takes; of a network with several inputs a list of such, in the order of
            its arguments, or a dict by the names in ``input_shapes``.  None for synthetic ones.

        Raises
        ------
        ValueError
            If their number or names are others than the network's.
        """
        names, shapes = list(self.graph.inputs), self.job.shapes
        if len(names) == 1 and not isinstance(inputs, Mapping):
            return {names[0]: self.open(inputs)}
        if inputs is None:
            inputs = [None] * len(names)
        if isinstance(inputs, (list, tuple)) and isinstance(shapes, Mapping):
            arguments = signature(self.job.network.skeleton.forward).parameters
            ordered = [name for name in arguments if name in shapes]
            if len(ordered) == len(shapes) == len(inputs):
                inputs = dict(zip(ordered, inputs, strict=True))
        if isinstance(inputs, Mapping):
            wanted = list(shapes if isinstance(shapes, Mapping) else names)
            if set(inputs) != set(wanted):
                raise ValueError(f"the inputs are named {list(inputs)}, but {wanted} are planned")
            inputs = [inputs[name] for name in wanted]
        if not isinstance(inputs, (list, tuple)) or len(inputs) != len(names):
            given = len(inputs) if isinstance(inputs, (list, tuple)) else 1
            raise ValueError(
                f"{given} inputs, but the network takes {len(names)}: {', '.join(names)}"
            )
        found = {names[0]: self.open(inputs[0])}
        for number, (name, given) in enumerate(zip(names[1:], inputs[1:], strict=True), 1):
            shape = self.graph.shape(name)
            if len(shape) == len(self.job.input_shape):
                batch, channels, *size = shape
                options = {"batch_size": batch, "channels": channels, "size": tuple(size)}
                found[name] = open_source(given, seed=self.job.seed + number, **options)
            else:
                found[name] = RowSource.of(given, shape, self.job.seed + number)
        return found

    def simulate(self, machine: Machine = CORE) -> Simulation:
        """Run the plan on a clock: what it would take on such a machine, with no rank started.

        Examples
        --------
        >>> job = Job("resnet29_v2", image_size=2048, batch_size=1, num_spatial_parts=64)
        >>> JobPlan(job).simulate().speedup > 8
        True
        """
        return simulate(self, machine)

    @property
    def card(self) -> Card:
        """Stages, grids, messages, bytes, work and memory."""
        return summary.describe(self, self.job.name)


def _require_statistics(plan: JobPlan) -> None:
    """Refuse batch norms that have one value for each channel, whose variance is not known."""
    images = min(plan.micro_batch_sizes)
    for node in plan.captured.nodes:
        if node.kind == "batch_norm" and node.args["training"]:
            batch, channels, *space = node.shape
            if math.prod(space) * batch // plan.captured.batch * images < 2:
                raise PlanError(
                    f"stage {plan.maker_of(node.name).index}, {node.label}: a micro-batch of"
                    f" {images} image has one value for each of {channels} channels, and its"
                    f" statistics need 2 or more: use fewer than {plan.job.parts} parts, or a"
                    " larger batch"
                )


def plan(job: Job, training: bool = False) -> JobPlan:
    """Plan a job, to run its network or to train it; nothing is started.

    See `JobPlan` for what is refused.

    Examples
    --------
    >>> plan(Job("resnet20_v1", image_size=64, batch_size=1)).num_ranks
    5
    """
    return JobPlan(job, training)
