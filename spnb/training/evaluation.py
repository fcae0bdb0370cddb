"""One rank's share of an evaluation: sums of the loss and metrics, and counts of classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..io.datasets.examples import Examples
from ..kernels.half_conv import HALVES
from ..runtime import process_memory
from ..runtime.state import Piece
from ..runtime.worker import Worker, share_failures
from .batch_reader import BatchReader
from .loss_shares import Wanted
from .losses import LOSSES


@dataclass(frozen=True)
class EvaluationTask:
    """What ranks compute of which examples.

    Attributes
    ----------
    first, stop
        Numbers of the first example, and of the one after the last.  The last batch is filled up
        with copies of the last example, which are not counted.
    batch
        Images in a batch.
    output
        Name of the output that is compared with the targets; None if there is none such.
    loss
        A key of `spnb.training.losses.LOSSES`; None if the plan computes the loss.
    numbers
        Names of the values of a loss and metrics that the plan computes.
    classes
        Number of classes that the output has scores of; 0 if they are not counted.
    num_workers
        Threads that read the next batch while one is computed.
    """

    first: int
    stop: int
    batch: int
    output: str | None
    loss: str | None
    numbers: tuple[str, ...] = ()
    classes: int = 0
    num_workers: int = 0

    @property
    def batches(self) -> list[np.ndarray]:
        """Numbers of the examples of each batch.

        >>> [each.tolist() for each in EvaluationTask(0, 3, 2, "output", "mse").batches]
        [[0, 1], [2, 2]]
        """
        starts = range(self.first, self.stop, self.batch)
        return [np.minimum(np.arange(k, k + self.batch), self.stop - 1) for k in starts]

    def counted(self, number: int) -> int:
        """How many images of a batch are no filling."""
        return min(self.batch, self.stop - self.first - number * self.batch)


@dataclass(frozen=True)
class EvaluationReport:
    """What a rank returns from an evaluation.

    Attributes
    ----------
    loss
        Its share of the sum of the loss over the images.
    numbers
        By value, its share of the sum over the images of what the plan computes.
    classes
        Three rows of a number for each class: the positions at which the class is found rightly,
        at which it is found, and at which it is wanted.  Targets that are no class, as 255 for
        positions to ignore, are not counted.
    seconds
        Seconds of each batch.
    peak_memory_bytes
        Growth of its process above its size before a network was loaded.
    """

    loss: float
    numbers: Mapping[str, float]
    classes: torch.Tensor
    seconds: list[float]
    peak_memory_bytes: int


class Evaluator:
    """A rank that sums what it computes of examples, each region where it lies.

    Parameters
    ----------
    worker
        Runs the plan.
    task
        What is computed.
    """

    def __init__(self, worker: Worker, task: EvaluationTask):
        self.worker, self.task = worker, task
        self.loss = 0.0
        self.numbers = dict.fromkeys(task.numbers, 0.0)
        self.classes = torch.zeros(3, task.classes, dtype=torch.int64)

    def run(
        self,
        examples: Examples,
        idle_bytes: int,
        after_batch: Callable[[int], None] = lambda done: None,
    ) -> EvaluationReport:
        """Run the plan on all batches; every rank must be called.

        Parameters
        ----------
        examples
            Images and their targets.
        idle_bytes
            Memory of the process before a network was loaded.
        after_batch
            Called after each batch with the number of batches that are done.

        Raises
        ------
        RankError
            If this rank fails; the other ranks receive the reason.
        PeerFailed
            If another rank fails.
        """
        transport = self.worker.transport
        assert transport is not None  # a session connects a rank before it calls it
        with share_failures(transport, lambda: f"stage {self.worker.rank_plan.stage}, evaluating"):
            return self._run(examples, idle_bytes, after_batch)

    def _run(
        self, examples: Examples, idle_bytes: int, after_batch: Callable[[int], None]
    ) -> EvaluationReport:
        device, seconds = self.worker.device, []
        reader = BatchReader(examples, self.task.batches, self.worker.rank_plan, device)
        process_memory.restart_peak(device)
        with reader.ahead.reading(self.task.num_workers):
            for number in range(len(self.task.batches)):
                start = time.perf_counter()
                pieces = self.worker.infer(reader.read(number)).pieces
                seconds.append(time.perf_counter() - start)
                self._add(pieces, reader.wanted(number), self.task.counted(number))
                after_batch(number + 1)
        peak = max(0, process_memory.peak_bytes(device) - idle_bytes)
        return EvaluationReport(self.loss, self.numbers, self.classes, seconds, peak)

    @torch.inference_mode()
    def _add(self, pieces: list[Piece], wanted: Wanted, counted: int) -> None:
        """Add what the rank has of a batch, of whose images the first ones are counted."""
        for piece in pieces:
            if piece.value in self.numbers:  # a mean over the images of a micro-batch
                images = self._images_from(piece.first_image)
                self.numbers[piece.value] += float(piece.tensor.double().sum()) * images
            if piece.value == self.task.output:
                first, stop = piece.region.spans[0]
                rows = max(0, min(stop, counted) - first)
                target = wanted(piece.value, piece.region).to(piece.tensor.device)
                self._compare(piece.tensor[:rows], target[:rows])

    def _images_from(self, first: int) -> int:
        """The number of images of the micro-batch that begins with an image."""
        sizes = self.worker.rank_plan.micro_batch_sizes
        starts = np.cumsum((0, *sizes))
        return sizes[int(np.flatnonzero(starts == first)[0])]

    def _compare(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Add the loss of a region of the output, and count its classes."""
        if not len(output):
            return
        if self.task.loss is not None:
            exact = output.float() if output.dtype in HALVES else output
            assert self.task.output is not None
            _, *one = self.worker.rank_plan.outputs[self.task.output]
            self.loss += float(LOSSES[self.task.loss](exact, target, (1, *one)))
        if self.task.classes:
            self.classes += class_counts(output.argmax(1), target, self.task.classes)


def class_counts(found: torch.Tensor, wanted: torch.Tensor, classes: int) -> torch.Tensor:
    """Count classes, as `EvaluationReport` has them.

    Parameters
    ----------
    found, wanted
        Class numbers at the same positions.
    classes
        Number of classes.

    Examples
    --------
    >>> class_counts(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 255]), 2).tolist()
    [[1, 1], [1, 1], [1, 1]]
    """
    known = (wanted >= 0) & (wanted < classes)
    found, wanted = found[known], wanted[known]
    each = (wanted[found == wanted], found, wanted)
    return torch.stack([torch.bincount(numbers, minlength=classes) for numbers in each])
