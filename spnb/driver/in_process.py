"""All ranks of a plan as threads of this process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..engine.here import Here
from ..engine.report import Report
from ..engine.service import Answer, Call, InferTask, RankWeights, answer_of, answered
from ..io.sources import Source
from ..io.stage_weights import read_weights
from ..ir.rank_plan import RankPlan
from ..job.job_plan import JobPlan
from ..transport.local import LocalTransport, World
from .session import Session

T = TypeVar("T")


class InProcess(Session):
    """All ranks of a plan as threads of this process, to try a plan and for tests.

    Parameters
    ----------
    plan
        As `spnb.plan` returns it, for one replica or more; its job's backend must be ``"mpi"``, the
        default, since threads exchange tensors in memory.
    deadline
        Seconds that a rank waits for another rank's message before it fails.
    progress
        Whether texts and bars are shown.

    Raises
    ------
    ValueError
        If the job asks for another backend.
    WeightsError
        If the job's checkpoint cannot be read.

    Examples
    --------
    The examples of the methods go on from this one.

    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size="33x47", batch_size=1, num_spatial_parts=2)
    >>> session = spnb.InProcess(spnb.plan(job), progress=False)
    >>> session.infer().check().passed
    True
    """

    def __init__(self, plan: JobPlan, deadline: float = 3600.0, progress: bool = True):
        super().__init__(plan)
        self.deadline, self.progress = deadline, progress
        self._ranks: list[Here] = []
        self.load(plan)

    def load(self, plan: JobPlan) -> None:
        """Load another plan: every rank receives its share and its stage's weights.

        Parameters
        ----------
        plan
            As `spnb.plan` returns it.

        Raises
        ------
        ValueError
            If the job asks for a backend other than ``"mpi"``.

        Examples
        --------
        >>> session.load(spnb.plan(job.replace(num_spatial_parts=4)))
        >>> session.plan.num_ranks
        5
        """
        if plan.job.backend != "mpi":
            raise ValueError(
                f"backend is {plan.job.backend}, but threads of one process need no carrier: leave"
                " it out, or use spnb.Cluster"
            )
        super().load(plan)

    def _load(self, plan: JobPlan, shares: Sequence[tuple[RankPlan, Path]]) -> None:
        self._ranks = [Here() for _ in shares]
        for number, (here, (rank_plan, path)) in enumerate(zip(self._ranks, shares, strict=True)):
            here.load(rank_plan, read_weights(path), transport=None, local_rank=number)

    def _ask(self, calls: Sequence[Call[T] | None]) -> list[T]:
        def answer(here: Here) -> Answer[T] | None:
            assert here.rank is not None  # `_load` gave every rank its share
            return answer_of(here, calls[here.rank])

        return answered(self.run(answer))

    def _infer(self, sources: dict[str, Source], task: InferTask) -> list[Report]:
        reports = super()._infer(sources, task)
        # All ranks share this process's memory, so outputs are returned and not left on ranks.
        return [
            replace(report, pieces=here.outputs_of(task.run), peak_memory_bytes=0)
            for report, here in zip(reports, self._ranks, strict=True)
        ]

    def weights_of(self, ranks: Collection[int]) -> list[RankWeights]:
        """Copy the weights of some ranks, and the state of their optimizers.

        Parameters
        ----------
        ranks
            Numbers of the ranks.

        Returns
        -------
        list of RankWeights
            As `spnb.driver.rank_calls.RankCalls.weights_of` returns them.
        """
        # The optimizers of threads go on with the same tensors, which the next step would change.
        return copy.deepcopy(super().weights_of(ranks))

    def run(self, work: Callable[[Here], T]) -> list[T]:
        """Call a function with every rank, each in its own thread.

        Parameters
        ----------
        work
            Called with each rank's `spnb.engine.here.Here`, the object that is `spnb.here` on an
            engine.

        Returns
        -------
        list
            The results in rank order.

        Raises
        ------
        Exception
            The first exception that a rank raised.

        Examples
        --------
        >>> session.run(lambda here: here.neighbours)
        [{'right': 1}, {'left': 0}, {}]
        """

        def at_rank(transport: LocalTransport) -> T:
            here = self._ranks[transport.rank]
            here.connect(transport)
            return work(here)

        return World(self.plan.num_ranks, self.deadline).run(at_rank)
