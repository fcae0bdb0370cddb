"""The calls of a session to its ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..engine.service import Call, RankService, RankWeights
from ..io.datasets.examples import Examples
from ..ir.rank_plan import RankPlan
from ..ir.value_range import ValueRange
from ..job.job_plan import JobPlan
from ..runtime.output_samples import OutputSample, OutputWindow
from ..runtime.state import Piece
from ..training.epoch import EpochReport, Steps

T = TypeVar("T")


class RankCalls(ABC):
    """Calls of the ranks on which a plan is loaded.

    A subclass says how a plan is loaded on the ranks (`_load`) and how they are called (`_ask`).

    Attributes
    ----------
    plan
        The plan that is loaded.
    """

    plan: JobPlan

    @abstractmethod
    def _load(self, plan: JobPlan, shares: Sequence[tuple[RankPlan, Path]]) -> None:
        """Give each rank its share of a plan, and the file of its stage's weights."""

    @abstractmethod
    def _ask(self, calls: Sequence[Call[T] | None]) -> list[T]:
        """Have each rank of the plan carry out its call; results in rank order.

        A rank with ``None`` in place of a call does nothing, and has no result.
        """

    def _ask_some(self, ranks: Collection[int], call: Call[T]) -> list[T]:
        """Have some ranks carry out a call; results in the order in which they are given."""
        every = range(self.plan.num_ranks)
        found = self._ask([call if rank in ranks else None for rank in every])
        result_of = dict(zip([rank for rank in every if rank in ranks], found, strict=True))
        return [result_of[rank] for rank in ranks]

    def _fetch(self, run: int, ranks: Sequence[int]) -> list[list[Piece]]:
        """The outputs of a run that stayed on these ranks."""
        return self._ask_some(ranks, Call.to(RankService.outputs_of, run))

    def _sample(
        self, run: int, ranks: Sequence[int], window: OutputWindow
    ) -> list[list[OutputSample]]:
        """A part of an output of a run, as far as it stayed on these ranks."""
        return self._ask_some(ranks, Call.to(RankService.outputs_sampled, run, window))

    def _range(self, run: int, ranks: Sequence[int], value: str) -> ValueRange:
        """The range of the numbers of an output that stayed on these ranks."""
        call = Call.to(RankService.output_range, run, value)
        return ValueRange.joined(self._ask_some(ranks, call))

    def train_epoch(
        self, shares: Sequence[Examples], epoch: int, steps: Steps | None = None
    ) -> list[EpochReport]:
        """Train on all examples once; `train` calls it for each epoch.

        Parameters
        ----------
        shares
            The examples in a form that each rank can read.
        epoch
            Number of the epoch, from 0.
        steps
            The steps to take, if not all of the epoch are taken in one call.

        Returns
        -------
        list of EpochReport
            The report of each rank, in rank order: losses and seconds of its steps.
        """
        return self._ask([Call.to(RankService.train_epoch, each, epoch, steps) for each in shares])

    def end_epoch(self, validation_loss: float | None) -> dict[str, Any]:
        """Step the scheduler of every rank; `train` calls it after an epoch.

        Parameters
        ----------
        validation_loss
            The loss of the validation after the epoch; None without one.

        Returns
        -------
        dict
            The progress of the optimizers' groups and schedulers, the same on all ranks.
        """
        found = self._ask([Call.to(RankService.end_epoch, validation_loss)] * self.plan.num_ranks)
        return next((progress for progress in found if progress), {})

    def weights_of(self, ranks: Collection[int]) -> list[RankWeights]:
        """Fetch the weights of some ranks, and the state of their optimizers.

        Parameters
        ----------
        ranks
            Numbers of the ranks.

        Returns
        -------
        list of RankWeights
            For each of these ranks, its parameters and buffers by name, the optimizer's state by
            parameter, and the progress of the optimizer's groups and of the scheduler.
        """
        return self._ask_some(ranks, Call.to(RankService.weights))
