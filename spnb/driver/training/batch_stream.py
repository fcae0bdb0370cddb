"""Batches of a torch Dataset, a DataLoader or an iterator, which the user's process reads.

Each image is read once in an epoch, here and not on the ranks: so its augmentation is the same for
the image and its target, and for all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ...errors import OptionError
from ...io.datasets.examples import order_of
from ...io.sources import NOT_GIVEN
from ...job.job import Job

Pair = tuple[Any, Any]
"""Images and targets of a batch."""


def is_stream(data: Any) -> bool:
    """Whether data is a Dataset, a DataLoader, an iterator, or a function that returns one.

    >>> is_stream(iter([])), is_stream([1, 2]), is_stream("retina")
    (True, False, False)
    """
    known = isinstance(data, (Dataset, DataLoader, Iterator))
    return known or (callable(data) and not hasattr(data, "shape"))


class BatchStream:
    """Batches that are read one by one, in each epoch anew.

    Parameters
    ----------
    job
        The job, which says how many images a batch has.
    data
        A Dataset of pairs of an image and a target, a DataLoader of such, an iterator of batches,
        or a function that returns one for each epoch.
    say
        Prints a line.
    """

    def __init__(self, job: Job, data: Any, say: Callable[[str], None] = lambda text: None):
        self.job, self.data, self.say = job, data, say
        self.name = getattr(data, "__name__", type(data).__name__)
        self._begun: Iterator[Any] | None = None  # its first batch was looked at
        self._said = False

    @property
    def _by_number(self) -> bool:
        """Whether items are taken by their numbers, in an order of the job's seed."""
        return isinstance(self.data, Dataset) and not isinstance(self.data, IterableDataset)

    def refuse_contradictions(self) -> None:
        """Refuse data that cannot be trained on as the job says.

        Raises
        ------
        ValueError
            Naming both numbers.
        """
        job, size = self.job, self.job.batch_size
        if job.num_workers:
            raise OptionError(
                f"num_workers is {job.num_workers}, but it is for images that ranks read: give a"
                " DataLoader with num_workers"
            )
        if isinstance(self.data, Iterator) and job.num_epochs > 1:
            raise OptionError(
                f"an iterator serves one epoch, but num_epochs is {job.num_epochs}: give a"
                " DataLoader, or a function that returns an iterator for each epoch"
            )
        given = self.data.batch_size if isinstance(self.data, DataLoader) else size
        if given not in (size, None):
            raise OptionError(
                f"the DataLoader has batches of {given}, but batch_size of the job is {size}: give"
                " both the same"
            )
        if self._by_number:
            if self.length < size:
                raise ValueError(
                    f"{self.length} images make no batch of {size}: use a smaller batch_size"
                )
            self._say_rest(self.length % size)

    @property
    def length(self) -> int:
        """Number of examples; 0 if it is not known."""
        data = self.data.dataset if isinstance(self.data, DataLoader) else self.data
        return len(data) if hasattr(data, "__len__") else 0

    def first(self) -> Pair:
        """Images and targets of a batch, or of one item, whose kinds and shapes all have.

        No image is left out of an epoch for it.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self._by_number:
            return self._pair(self._joined([0], 0, 0))
        batches = self._of_epoch(0)
        first = next(batches, None)
        if first is None:
            raise ValueError(f"{self.name} gives no batch: give one with examples")
        self._begun = chain([first], batches)
        return self._pair(first)

    def batches(self, epoch: int) -> Iterator[Pair]:
        """The whole batches of an epoch.

        Parameters
        ----------
        epoch
            Number of the epoch, from 0.

        Raises
        ------
        ValueError
            If there is no whole batch, or a batch has another number of images.
        """
        found, self._begun = self._begun or self._of_epoch(epoch), None
        count, size = 0, self.job.batch_size
        for batch in found:
            images, targets = self._pair(batch)
            if len(images) != size:
                if len(images) > size or next(found, None) is not None:
                    raise ValueError(
                        f"batch {count} of {self.name} has {len(images)} images, but batch_size is"
                        f" {size}: give batches of one size"
                    )
                self._say_rest(len(images))
                break
            count += 1
            yield images, targets
        if not count:
            raise ValueError(
                f"{self.name} gives no whole batch of {size} in epoch {epoch + 1}: give one that"
                " can be read again, with as many images"
            )

    def gathered(self) -> Pair:
        """All images and targets, to evaluate them: in order, the last ones too."""
        if self._by_number:
            starts = range(0, self.length, self.job.batch_size)
            stops = [min(k + self.job.batch_size, self.length) for k in starts]
            found: Iterable[Any] = (
                self._joined(range(a, b), 0, k)
                for k, (a, b) in enumerate(zip(starts, stops, strict=True))
            )
        else:
            found = self._of_epoch(0)
        pairs = [self._pair(batch) for batch in found]
        if not pairs:
            raise ValueError(f"{self.name} gives no batch: give one with examples")
        images, targets = zip(*pairs, strict=True)
        if isinstance(targets[0], (tuple, list)):
            joined: Any = tuple(map(_joined_tensors, zip(*targets, strict=True)))
        else:
            joined = _joined_tensors(targets)
        return _joined_tensors(images), joined

    def _of_epoch(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, as the user gives them."""
        data, size = self.data, self.job.batch_size
        if isinstance(data, IterableDataset):
            return iter(DataLoader(data, batch_size=size))
        if self._by_number:
            order = order_of(self.length, self.job.seed, epoch)
            steps = range(self.length // size)
            return (self._joined(order[k * size : (k + 1) * size], epoch, k) for k in steps)
        return iter(data() if callable(data) and not isinstance(data, DataLoader) else data)

    def _joined(self, chosen: Iterable[int], epoch: int, step: int) -> Any:
        """Items of a Dataset as a batch.

        PyTorch's random numbers, with which items are augmented, follow from the job's seed.
        """
        seed = (self.job.seed * 1_000_003 + epoch) * 1_000_003 + step
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % (1 << 63))
            items = [self.data[int(k)] for k in chosen]
        try:
            return default_collate(items)
        except (TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"items of {self.name} make no batch: {reason}") from None

    def _pair(self, batch: Any) -> Pair:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = type(batch).__name__
            count = f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else ""
            raise ValueError(
                f"{self.name} gives a {kind}{count}, but a batch is a pair of images and targets"
            )
        images, targets = batch
        return images, targets

    def _say_rest(self, count: int) -> None:
        """Say once that the last images are left out."""
        if count and not self._said:
            size = self.job.batch_size
            self.say(f"the last {count} images of an epoch fill no batch of {size}: left out")
            self._said = True


def stream_of(
    job: Job, images: Any, targets: Any, say: Callable[[str], None] = lambda text: None
) -> BatchStream | None:
    """The stream that data are; None for arrays and files, which ranks read.

    Parameters
    ----------
    job
        The job.
    images, targets
        As of `spnb.driver.session.Session.train`.
    say
        Prints a line.

    Raises
    ------
    OptionError
        If targets are given beside a stream, which has its own.
    """
    if not is_stream(images):
        return None
    if targets is not NOT_GIVEN:
        raise OptionError(f"{type(images).__name__} gives targets itself: leave targets out")
    return BatchStream(job, images, say)


def _joined_tensors(tensors: Iterable[Any]) -> torch.Tensor:
    return torch.cat([torch.as_tensor(each) for each in tensors])
