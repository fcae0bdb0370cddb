"""The methods of a rank that a session may call, with their types, and calls as data.

A session makes a `Call` for each rank and sends it there, by threads, MPI or ipyparallel.  The
rank's `spnb.engine.rank.Rank` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import torch

from ..io.datasets.examples import Examples
from ..io.sources import Source
from ..io.writing.writers import Store
from ..ir.rank_plan import RankPlan
from ..ir.value_range import ValueRange
from ..runtime.output_samples import OutputSample, OutputWindow
from ..runtime.state import Piece
from ..training.epoch import EpochReport, Steps
from ..training.evaluation import EvaluationReport, EvaluationTask
from ..training.start import TrainingStart
from .report import Report

P = ParamSpec("P")
T = TypeVar("T")

RankWeights = tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]], dict[str, Any]]
"""A rank's parameters and buffers by name, its optimizer's state by parameter, and the progress of
the optimizer's groups and of the scheduler."""


@dataclass(frozen=True)
class RankShare:
    """A rank's share of a plan that is run beside the loaded one, with its own weights.

    Attributes
    ----------
    rank_plan
        The share; None if the plan does not need the rank.
    weights
        The weights of its stage by name, or the file that has them.
    """

    rank_plan: RankPlan | None
    weights: Path | Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class InferTask:
    """What a rank is told of a run, besides its images.

    Attributes
    ----------
    run
        Number of the run, for `RankService.outputs_of`.
    released
        Earlier runs whose outputs are freed first.
    check_finite
        Whether to look through every value for numbers that are not finite.
    """

    run: int = 0
    released: tuple[int, ...] = ()
    check_finite: bool = False


BY_ITSELF = InferTask()
"""The task of a run that no other runs are beside."""


class RankService(Protocol):
    """The methods that a session may call on a rank with a loaded plan."""

    def infer(self, sources: Mapping[str, Source], task: InferTask = BY_ITSELF) -> Report:
        """Run the network. Collective."""

    def begin_training(self, start: TrainingStart) -> None:
        """Prepare to train, from the weights that were loaded."""

    def train_epoch(
        self, examples: Examples, epoch: int, steps: Steps | None = None
    ) -> EpochReport:
        """Train on all examples once, in whole batches, or take some steps. Collective."""

    def end_epoch(self, validation_loss: float | None) -> dict[str, Any]:
        """Step the scheduler after an epoch; the progress of the optimizer."""

    def evaluate(
        self, examples: Examples, task: EvaluationTask, share: RankShare | None = None
    ) -> EvaluationReport:
        """Sum loss and metrics over examples, with the loaded plan or another. Collective."""

    def weights(self) -> RankWeights:
        """The current parameters and buffers, and the optimizer's state."""

    def outputs_of(self, run: int) -> list[Piece]:
        """The regions of a run's outputs that this rank computed."""

    def outputs_sampled(self, run: int, window: OutputWindow) -> list[OutputSample]:
        """What this rank has of a part of a run's output, at every n-th position."""

    def output_range(self, run: int, value: str) -> ValueRange:
        """The range of the numbers of an output, as far as this rank computed it."""

    def save(self, run: int, value: str, store: Store) -> None:
        """Write this rank's regions of an output to a file; every rank that has one is called."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A method of `RankService` with its arguments, which can be sent to a rank.

    Examples
    --------
    >>> call = Call.to(RankService.outputs_of, 3)
    >>> call.method, call.args
    ('outputs_of', (3,))
    """

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def to(
        cls, method: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Call[T]:
        """A call of a method; the method is a member of `RankService`."""
        return cls(method.__name__, args, kwargs)

    def answer(self, rank: RankService) -> T:
        """Carry out the call on a rank."""
        return getattr(rank, self.method)(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The result of a rank's method, which may be ``None``."""

    value: T


def answer_of(rank: RankService, call: Call[T] | None) -> Answer[T] | None:
    """Carry out a call on a rank; return ``None`` if the rank has no call."""
    return None if call is None else Answer(call.answer(rank))


def answered(answers: Iterable[Answer[T] | None]) -> list[T]:
    """The results of the ranks that had a call, in the order of the answers.

    Examples
    --------
    >>> answered([Answer(3), None, Answer(5)])
    [3, 5]
    """
    return [answer.value for answer in answers if answer is not None]
