"""The result of an evaluation: loss, accuracy, overlap of classes, and images per second."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from ...display.cards import Card, Shown, Table
from ...job.job_plan import JobPlan

NAN = float("nan")


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Shown):
    """The result of an evaluation: loss, accuracy, overlap of classes, and images per second.

    `spnb.driver.session.Session.evaluate` returns it.  The examples of the methods go on from this
    one.

    Attributes
    ----------
    plan
        The plan for inference that was run.
    num_images
        Number of images; the filling of the last batch is not counted.
    loss
        The mean over the images.
    metrics
        The same of the user's own metrics, by name.
    class_counts
        Three rows of a number for each class: the positions at which the class is found rightly,
        at which it is found, and at which it is wanted; empty rows if targets are no classes.
    per_position
        Whether there is a class for each position, not one for each image.
    batches
        For each batch its number of images, without filling, and its seconds.
    peak_memory_bytes
        Peak memory of each rank, above that of an idle engine; 0 if not known.

    Examples
    --------
    >>> import spnb
    >>> import torch
    >>> job = spnb.Job(torch.nn.Conv2d(1, 2, 3, padding=1), image_size=8, batch_size=2,
    ...                split_size=1, num_spatial_parts=2)
    >>> images, classes = torch.rand(5, 1, 8, 8), torch.ones(5, 8, 8, dtype=torch.long)
    >>> session = spnb.InProcess(spnb.plan(job), progress=False)
    >>> evaluation = session.evaluate(images, classes)
    >>> evaluation.num_images, len(evaluation.batches)
    (5, 3)
    """

    plan: JobPlan
    num_images: int
    loss: float
    metrics: Mapping[str, float]
    class_counts: tuple[tuple[int, ...], ...]
    per_position: bool
    batches: tuple[tuple[int, float], ...]
    peak_memory_bytes: tuple[int, ...] = field(default=())

    @property
    def accuracy(self) -> float:
        """The share of images or positions whose class of the highest score is the wanted one.

        It is NaN if targets are no classes.  A target that is no class of the network, such as 255
        for positions to ignore, is not counted.

        Examples
        --------
        >>> 0 <= evaluation.accuracy <= 1
        True
        """
        right, _, wanted = self.class_counts
        return sum(right) / sum(wanted) if sum(wanted) else NAN

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """A table with a row for each class: its positions and its intersection over union.

        Returns
        -------
        pandas.DataFrame
            The columns ``wanted`` and ``found`` (positions), and ``iou``: positions that are both,
            divided by those that are one of them.  It is NaN for a class that does not occur.

        Examples
        --------
        >>> evaluation.per_class["wanted"].tolist()
        [0, 320]
        """
        right, found, wanted = self.class_counts
        counts = zip(right, found, wanted, strict=True)
        iou = [both / union if (union := f + w - both) else NAN for both, f, w in counts]
        return pd.DataFrame({"wanted": wanted, "found": found, "iou": iou})

    @property
    def mean_iou(self) -> float:
        """The mean intersection over union of the classes that occur, over the whole data set.

        It is NaN if there is no class for each position.

        Examples
        --------
        >>> 0 <= evaluation.mean_iou <= 1
        True
        """
        return float(self.per_class["iou"].mean()) if self.per_position else NAN

    @property
    def images_per_second(self) -> float:
        """All images, divided by the seconds of all batches.

        Examples
        --------
        >>> evaluation.images_per_second > 0
        True
        """
        return self.num_images / sum(seconds for _, seconds in self.batches)

    @property
    def median_images_per_second(self) -> float:
        """The median of the batches' images per second.

        A batch that is filled up takes the time of a whole one, and is left out if there are more.

        Examples
        --------
        >>> evaluation.median_images_per_second > 0
        True
        """
        most = max(images for images, _ in self.batches)
        return statistics.median(most / seconds for n, seconds in self.batches if n == most)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Loss, accuracy, mean IoU and metrics by name; those that are not known are left out.

        Examples
        --------
        >>> list(evaluation.figures)
        ['loss', 'accuracy', 'mean_iou']
        """
        known = {"accuracy": self.accuracy, "mean_iou": self.mean_iou}
        known = {name: value for name, value in known.items() if not math.isnan(value)}
        return {"loss": self.loss, **known, **self.metrics}

    def report(self) -> dict[str, Any]:
        """Every figure of the evaluation, as plain data for JSON.

        Returns
        -------
        dict
            ``job`` (every option), ``ranks``, ``images``, the figures by name,
            ``images_per_second`` and ``median_images_per_second``; for each class its ``iou``, None
            if it does not occur; for each batch its ``seconds``; and for each rank
            ``peak_memory_bytes``.

        Examples
        --------
        >>> evaluation.report()["images"]
        5
        """
        iou = [None if math.isnan(each) else each for each in self.per_class["iou"]]
        return {
            "job": {**self.plan.job.values(), "model": self.plan.job.name},
            "ranks": self.plan.num_ranks,
            "images": self.num_images,
            **self.figures,
            "images_per_second": self.images_per_second,
            "median_images_per_second": self.median_images_per_second,
            "iou": iou,
            "seconds": [seconds for _, seconds in self.batches],
            "peak_memory_bytes": list(self.peak_memory_bytes),
        }

    @property
    def card(self) -> Card:
        """Loss, accuracy, metrics and images per second, for display.

        Examples
        --------
        >>> print(evaluation.card.body[0].rows[0][0])
        loss
        """
        shares = {"accuracy": "accuracy", "mean_iou": "mean IoU"}
        rows = [
            (shares.get(name, name), f"{value:.1%}" if name in shares else f"{value:.4f}")
            for name, value in self.figures.items()
        ]
        mean, median = self.images_per_second, self.median_images_per_second
        rows.append(("images per second", f"{mean:.3g} (median {median:.3g})"))
        title = (
            f"{self.plan.job.name} evaluated on {self.num_images} images,"
            f" on {self.plan.num_ranks} ranks"
        )
        return Card(title, [Table(("", ""), rows)])
