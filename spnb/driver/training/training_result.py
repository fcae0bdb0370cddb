"""The result of training: the network, the loss of each step, and the memory of each rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from ...capture.export import rebuilt
from ...display.cards import Card, Shown, Table, size_text
from ...ir.module_state import set_training_modes
from ...job.job import Job
from ...job.job_plan import JobPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SHOWN = {
    "loss": "{:.4f}",
    "accuracy": "{:.1%}",
    "validation_loss": "{:.4f}",
    "validation_accuracy": "{:.1%}",
    "learning_rate": "{:.3g}",
    "seconds": "{:.3g} s",
}
"""The columns of an epoch that the card shows, and how."""


def _text(value: float, form: str) -> str:
    return "–" if pd.isna(value) else form.format(value)


@dataclass(frozen=True, eq=False, repr=False)
class Training(Shown):
    """The result of training: the network, the loss of each step, and the memory of each rank.

    The examples of the methods go on from this one.

    Attributes
    ----------
    plan
        The plan that was run.
    module
        The trained network, in evaluation mode.
    history
        A row for each step since the first epoch: ``epoch``, ``step``, ``loss`` (the mean over the
        batch), ``accuracy`` (of classes; else NaN), ``learning_rate``, ``seconds``; metrics by
        name; and, in the last step of each epoch, ``validation_loss`` and other figures of the
        validation, if there is one.
    checkpoint
        The checkpoint file, if one was written.
    peak_memory_bytes
        Peak memory of each rank in training, above that of an idle engine; 0 if not known.
    best
        The network after the epoch with the smallest validation loss, in evaluation mode; None
        without a validation.
    best_epoch
        Number of that epoch.

    Examples
    --------
    >>> import spnb
    >>> import torch
    >>> job = spnb.Job(torch.nn.Conv2d(1, 2, 3, padding=1), image_size=8, batch_size=2,
    ...                split_size=1, num_spatial_parts=2)
    >>> images, labels = torch.rand(4, 1, 8, 8), torch.ones(4, 8, 8, dtype=torch.long)
    >>> session = spnb.InProcess(spnb.plan(job, training=True), progress=False)
    >>> training = session.train(images, labels)
    >>> list(training.history.columns)
    ['epoch', 'step', 'loss', 'accuracy', 'learning_rate', 'seconds']
    """

    plan: JobPlan
    module: nn.Module
    history: pd.DataFrame
    checkpoint: Path | None = None
    peak_memory_bytes: tuple[int, ...] = field(default=())
    best: nn.Module | None = None
    best_epoch: int | None = None

    @property
    def job(self) -> Job:
        """The same job with the trained network, to run it or to train it on.

        Returns
        -------
        Job
            Its model is `module`, and it names no file.

        Examples
        --------
        >>> session.load(spnb.plan(training.job))
        >>> session.infer(images[:2]).check().passed
        True
        """
        module = rebuilt(self.module, torch.Tensor.detach)
        own = dict(self.module.named_parameters())
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(own[name].requires_grad)
        set_training_modes(module, self.plan.job.network.skeleton)
        return self.plan.job.replace(model=module, weights=None, checkpoint=None)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row for each epoch: means over its steps, and the sum of their seconds.

        Returns
        -------
        pandas.DataFrame
            The columns ``loss``, ``accuracy``, ``learning_rate`` and ``seconds``, by ``epoch``;
            then the metrics, and the figures of the validation.

        Examples
        --------
        >>> training.epochs.index.tolist()
        [0]
        """
        groups = self.history.drop(columns="step").groupby("epoch")
        return groups.mean().assign(seconds=groups["seconds"].sum())

    def plot(self, ax: Axes | None = None, **line: Any) -> Axes:
        """Draw the loss of each step: see `spnb.display.plots.loss`.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.
        **line
            Properties of the line: arguments of `matplotlib.axes.Axes.plot`.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> training.plot().has_data()
        True
        """
        from ...display import plots

        return plots.loss(self.history, ax, **line)

    def report(self) -> dict[str, Any]:
        """Every figure of the training, as plain data for JSON.

        Returns
        -------
        dict
            ``job`` (every option), ``ranks``, ``epochs`` and ``steps`` (the rows of the tables
            `epochs` and `history`), ``best_epoch`` (None without a validation), and for each rank
            ``peak_memory_bytes`` and ``planned_memory_bytes``.

        Examples
        --------
        >>> training.report()["ranks"]
        2
        """
        return {
            "job": {**self.plan.job.values(), "model": self.plan.job.name},
            "ranks": self.plan.num_ranks,
            "epochs": self.epochs.reset_index().to_dict("records"),
            "steps": self.history.to_dict("records"),
            "best_epoch": self.best_epoch,
            "peak_memory_bytes": list(self.peak_memory_bytes),
            "planned_memory_bytes": list(self.plan.memory_bytes),
        }

    @property
    def card(self) -> Card:
        """Loss, accuracy and time of each epoch, for display.

        Examples
        --------
        >>> len(training.card.body[0].rows)
        1
        """
        shown = [name for name in SHOWN if name in self.history]
        rows = [
            (str(epoch), *(_text(row[name], SHOWN[name]) for name in shown))
            for epoch, row in self.epochs.iterrows()
        ]
        ranks = self.plan.num_ranks
        title = f"{self.plan.job.name} trained for {len(rows)} epochs on {ranks} ranks"
        headings = ["took" if name == "seconds" else name.replace("_", " ") for name in shown]
        table = Table(("epoch", *headings), rows)
        if not (peak := max(self.peak_memory_bytes, default=0)):
            return Card(title, [table])
        planned = max(self.plan.memory_bytes)
        memory = f"memory of a rank: at most {size_text(peak)}, planned {size_text(planned)}"
        return Card(title, [table, memory])
