"""The figures of a training step, summed over the ranks, and those of an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...job.job_plan import JobPlan
from ...training.epoch import EpochReport
from ...training.losses import positions

COLUMNS = ("epoch", "step", "loss", "accuracy", "learning_rate", "seconds")
"""The columns that each row of a history has."""

Row = dict[str, float]
"""The figures of a step by name."""


class StepFigures:
    """Makes the rows of a history from the reports of the ranks.

    Parameters
    ----------
    plan
        The plan that is trained.
    classes
        Whether targets are classes, whose accuracy is known.
    """

    def __init__(self, plan: JobPlan, classes: bool):
        self.plan, self.classes = plan, classes

    def row(self, reports: Sequence[EpochReport], index: int, epoch: int, step: int) -> Row:
        """The figures of a step: sums over the ranks.

        Parameters
        ----------
        reports
            The report of each rank.
        index
            Number of the step in these reports.
        epoch, step
            Its numbers in the training.
        """
        graph, own = self.plan.graph, self.plan.loss
        accuracy = float("nan")
        if self.classes:
            count = positions(graph.shape(graph.outputs[0]))
            accuracy = sum(report.right[index] for report in reports) / count
        metrics = {}
        values = graph.returned[1:] if own else ()
        for name, value in zip(own.metrics if own else (), values, strict=True):
            metrics[name] = sum(report.metrics[index].get(value.value, 0.0) for report in reports)
        return {
            "epoch": epoch,
            "step": step,
            "loss": sum(report.losses[index] for report in reports),
            "accuracy": accuracy,
            "learning_rate": next((r.learning_rate for r in reports if r.learning_rate), 0.0),
            "seconds": max(report.seconds[index] for report in reports),
            **metrics,
        }


def epoch_figures(rows: Sequence[Row]) -> Row:
    """The figures of an epoch: means over its steps, and the sum of their seconds.

    Parameters
    ----------
    rows
        Its steps.  Figures that a row lacks, or that are NaN, are left out of the mean.

    Examples
    --------
    >>> epoch_figures([{"loss": 3.0, "seconds": 1.0}, {"loss": 1.0, "seconds": 2.0, "other": 5.0}])
    {'loss': 2.0, 'seconds': 3.0, 'other': 5.0}
    """
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if name in ("epoch", "step"):
            continue
        values = [row[name] for row in rows if not math.isnan(row.get(name, math.nan))]
        if values:
            found[name] = sum(values) / (1 if name == "seconds" else len(values))
    return found


def in_words(figures: Mapping[str, float]) -> str:
    """Loss and accuracy, and those of validation, in words.

    >>> in_words({"loss": 0.5, "accuracy": 0.25, "validation_loss": 0.75})
    'loss 0.5000, accuracy 25.0%, validation loss 0.7500'
    """
    shown = {"loss": ".4f", "accuracy": ".1%"}
    return ", ".join(
        f"{(prefix + name).replace('_', ' ')} {figures[prefix + name]:{form}}"
        for prefix in ("", "validation_")
        for name, form in shown.items()
        if prefix + name in figures
    )
