"""Evaluates a network on a data set of any length, on the ranks of a session.

Each rank counts what it computes where it lies, so no output is gathered.  A loss by name is summed
over images, and the filling of the last batch is left out.  A loss or metric that is a function is
captured into the plan; the last images, if they fill no batch, have a plan of their own then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from ...capture.losses import LossFunction, OwnLoss
from ...errors import OptionError, PlanError
from ...io.datasets.examples import Examples
from ...ir.rank_plan import RankPlan
from ...job import checkpoint_io
from ...job.job import Job
from ...job.job_plan import JobPlan
from ...training.evaluation import EvaluationReport, EvaluationTask
from ..rank_loading import PlanBeside
from .batch_stream import stream_of
from .evaluation_result import Evaluation
from .training_examples import (
    examples_for_loss,
    examples_of,
    loss_of,
    several_targets,
    tells_classes,
)
from .training_state import loss_name_for

FUNCTIONS: Mapping[str, LossFunction] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
}
"""The losses of `spnb.training.losses.LOSSES` as functions of a micro-batch."""


class EvaluatingRanks(Protocol):
    """The calls of an evaluation to ranks with a loaded plan.

    Attributes
    ----------
    plan
        The plan.
    """

    plan: JobPlan

    def share(
        self, examples: Examples, rank_plans: Sequence[RankPlan | None] | None = None
    ) -> list[Examples]:
        """The examples as each rank can read them, in the loaded plan or in another."""

    def evaluate_shares(
        self,
        shares: Sequence[Examples],
        task: EvaluationTask,
        beside: PlanBeside | None = None,
        module: nn.Module | None = None,
    ) -> list[EvaluationReport]:
        """Sum loss and metrics over examples; the report of each rank."""


@dataclass(frozen=True)
class _Pass:
    """Examples that are evaluated with one plan.

    Attributes
    ----------
    task
        What is computed of which examples.
    shares
        The examples as each rank reads them.
    beside
        The plan; None for the loaded one.
    """

    task: EvaluationTask
    shares: Sequence[Examples]
    beside: PlanBeside | None


class DataSetEvaluation:
    """A data set, ready to be evaluated on ranks, once or after each epoch of a training.

    Parameters
    ----------
    ranks
        The ranks.
    images, targets, loss, metrics
        As of `spnb.driver.session.Session.evaluate`.
    say
        Prints a line.

    Raises
    ------
    ValueError
        If they do not fit the plan.
    CaptureError, PlanError
        If tiles cannot compute a loss or a metric.
    """

    def __init__(
        self,
        ranks: EvaluatingRanks,
        images: Any,
        targets: Any,
        loss: str | LossFunction | None,
        metrics: Mapping[str, LossFunction] | None,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.ranks, self.metrics = ranks, dict(metrics or {})
        loaded = ranks.plan
        self.plan = loaded.for_evaluation() if loaded.training else loaded
        stream = stream_of(self.plan.job, images, targets)
        if stream is not None:
            images, targets = stream.gathered()
        if callable(loss):
            examples = examples_for_loss(self.plan, images, targets, any_number=True)
        elif isinstance(images, Examples):
            examples = images
        else:
            examples = examples_of(self.plan, images, targets, evaluation=True, any_number=True)
        if examples.synthetic:
            say("no images are given: these are synthetic")
        self.examples = examples
        several = several_targets(targets)
        self.classes = 0 if several else _classes(self.plan, examples)
        self.passes = self._passes(loss, several)

    def _passes(self, loss: str | LossFunction | None, several: bool) -> list[_Pass]:
        function = loss if callable(loss) else None
        name = None if callable(loss) else loss_name_for(self.examples, loss)
        if function is None and self.metrics:
            function = FUNCTIONS[name or ""]
        count = len(self.examples)
        if function is None:
            return [self._pass(self.plan, 0, count, name)]
        own = loss_of(self.plan, self.examples, function, self.metrics, several)
        own = replace(own, with_outputs=True)
        whole = count - count % self.plan.job.batch_size
        found = []
        if whole:
            found.append(self._pass(self.plan.for_evaluation(loss=own), 0, whole, None))
        if whole < count:
            found.append(self._pass(self._plan_of_rest(own, count - whole), whole, count, None))
        return found

    def _plan_of_rest(self, own: OwnLoss, count: int) -> JobPlan:
        """The plan of the last images, which a function must see without filling."""
        job = job_of_fewer(self.plan.job, count, max(self.plan.micro_batch_sizes))
        try:
            return self.plan.for_evaluation(job, own.with_images(count))
        except (PlanError, OptionError) as error:
            total, batch = len(self.examples), self.plan.job.batch_size
            raise PlanError(
                f"the last {count} of {total} images fill no batch of {batch}, and cannot be"
                f" planned as a batch of their own, which a function needs ({error}): give a"
                f" number of images that {batch} divides"
            ) from error

    def _pass(self, plan: JobPlan, first: int, stop: int, name: str | None) -> _Pass:
        beside = None if plan is self.ranks.plan else PlanBeside.of(plan, self.ranks.plan)
        numbers = 0 if name else 1 + len(self.metrics)
        returned = [leaf.value for leaf in plan.graph.returned]
        task = EvaluationTask(
            first=first,
            stop=stop,
            batch=plan.job.batch_size,
            output=returned[numbers] if name or self.classes else None,
            loss=name,
            numbers=tuple(returned[:numbers]),
            classes=self.classes,
            num_workers=plan.job.num_workers,
        )
        shares = self.ranks.share(self.examples, beside.rank_plans if beside else None)
        return _Pass(task, shares, beside)

    def run(self, module: nn.Module) -> Evaluation:
        """Evaluate a network with the weights that it has now.

        Parameters
        ----------
        module
            The network; where the plan is the loaded one, ranks have its weights already.
        """
        ready = checkpoint_io.ready(module, self.plan.weights_dtype)
        reports = [
            self.ranks.evaluate_shares(each.shares, each.task, each.beside, ready)
            for each in self.passes
        ]
        count = len(self.examples)
        sums = [0.0] * (1 + len(self.metrics))
        for each, found in zip(self.passes, reports, strict=True):
            for number, value in enumerate(each.task.numbers):
                sums[number] += sum(report.numbers.get(value, 0.0) for report in found)
            sums[0] += sum(report.loss for report in found)
        classes = torch.stack([report.classes for found in reports for report in found]).sum(0)
        return Evaluation(
            plan=self.plan,
            num_images=count,
            loss=sums[0] / count,
            metrics={n: total / count for n, total in zip(self.metrics, sums[1:], strict=True)},
            class_counts=tuple(map(tuple, classes.tolist())),
            per_position=self.examples.known_targets.ndim > 1,
            batches=tuple(
                (each.task.counted(number), max(report.seconds[number] for report in found))
                for each, found in zip(self.passes, reports, strict=True)
                for number in range(len(each.task.batches))
            ),
            peak_memory_bytes=tuple(
                max(report.peak_memory_bytes for report in of_rank)
                for of_rank in zip(*reports, strict=True)
            ),
        )


def _classes(plan: JobPlan, examples: Examples) -> int:
    """The number of classes that the output has scores of at each target; 0 if it has none."""
    graph, targets = plan.graph, examples.known_targets
    if len(graph.outputs) != 1 or len(graph.returned) != 1 or targets.dtype.kind != "i":
        return 0
    axes, shape = graph.axes[graph.outputs[0]], graph.shape(graph.outputs[0])
    batch = plan.job.batch_size
    by_image = shape[:1] == (batch,) and axes.axes_of(0) == (0,) * (batch > 1)
    fits = targets.shape == (len(examples), *shape[2:])
    return shape[1] if by_image and fits and shape[1] > 1 and tells_classes(plan) else 0


def job_of_fewer(job: Job, count: int, most: int) -> Job:
    """A job for fewer images, on no more ranks.

    Parameters
    ----------
    job
        The job.
    count
        Images in a batch.
    most
        Most images in a micro-batch.

    Examples
    --------
    >>> job_of_fewer(Job("resnet", batch_size=32, parts=4, replicas=2), 5, 4)
    Job('resnet', batch_size=5, parts=2)
    """
    shapes: Any = job.input_shapes
    if isinstance(shapes, dict):
        shapes = {name: (count, *shape[1:]) for name, shape in shapes.items()}
    elif shapes is not None:
        shapes = tuple((count, *shape[1:]) for shape in shapes)
    return job.replace(
        batch_size=count,
        input_shapes=shapes,
        parts=-(-count // most),
        replicas=1,
        gems=False,
        times=1,
        enable_master_comm_opt=False,
    )
