"""The figures of a plan: traffic and memory of its ranks, its totals, its simulation, its card."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from ..analysis import summary
from ..analysis.memory import memory
from ..analysis.simulate import Simulation, simulate
from ..analysis.traffic import Totals, totals, traffic
from ..analysis.weight_memory import PROCESS
from ..display.cards import Card, Shown
from ..planner.plan import Plan
from .job import Job
from .machines import MachineLike, machine_of


class PlanFigures(Shown, Plan):
    """A plan that computes its own costs, and shows them as a card; no rank is started.

    Attributes
    ----------
    job, training
        The job that is planned, and whether it is trained.
    """

    job: Job
    training: bool

    @cached_property
    def per_rank(self) -> pd.DataFrame:
        """A table of one pass over the batch, with a row for each rank.

        Columns: ``rank``, ``stage``, ``tile`` and its ``region`` in pixels; ``messages`` and
        ``bytes`` that the rank sends; ``memory_bytes``, the most that a rank of its stage is
        expected to hold.
        """
        rows = []
        for rank in range(self.num_ranks):
            stage, region = self.stage_of(rank).index, self.tile_region(rank)
            tile, spans = self.tile_of(rank), " × ".join(f"{a}:{b}" for a, b in region.spans[1:])
            rows.append((rank, stage, tile, spans, *traffic(self, rank), self.memory_bytes[stage]))
        names = ["rank", "stage", "tile", "region", "messages", "bytes", "memory_bytes"]
        return pd.DataFrame(rows, columns=names)

    @cached_property
    def totals(self) -> Totals:
        """Exchanges, messages, bytes and operations of all ranks in one pass over the batch."""
        return totals(self)

    @cached_property
    def memory_bytes(self) -> tuple[int, ...]:
        """Most bytes that an engine of each stage is expected to need.

        They include the process, its weights, and the values that it holds at one time.
        """
        return tuple(PROCESS + weights + values for weights, values in memory(self))

    def simulate(self, machine: MachineLike = None) -> Simulation:
        """Simulate the plan's programs; no rank is started.

        Parameters
        ----------
        machine
            The device of each rank, and the links: a `spnb.ir.cost.Machine`, or a name as of
            `spnb.job.machines.machine_of`.  By default the figures that `spnb.calibrate` measured,
            with a core for each rank; without them, a core of a laptop's CPU.

        Returns
        -------
        Simulation
            Seconds, the speedup over one rank, and every event of every rank.

        Examples
        --------
        >>> from spnb import Job, plan
        >>> job = Job("resnet29_v2", image_size=2048, batch_size=1, num_spatial_parts=64)
        >>> plan(job).simulate().speedup > 8
        True
        """
        found, link = machine_of(machine), self.job.link
        return simulate(self, found if link is None else link.on(found))

    @property
    def card(self) -> Card:
        """Stages, grids, messages, bytes, work and memory, for display."""
        return summary.describe(self, self.job.name)
