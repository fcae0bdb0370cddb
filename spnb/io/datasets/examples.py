"""The examples that a network is trained on: images, and a target for each.

Each rank reads the region of an image that it needs, and the region of a target that it computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from ...ir.axes import Axes
from ...ir.region import Region
from ..disk.files import mapped
from ..disk.replacing import writing
from ..sources import Source, SyntheticSource, read_as

USUALLY_IGNORED = (-100, 255)
"""Class numbers that PyTorch's losses and data sets of masks give to positions without a class."""


def order_of(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the numbers of examples, shuffled for an epoch.

    >>> order_of(4, seed=0, epoch=1).tolist()
    [3, 0, 2, 1]
    """
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class Unread:
    """Images that a rank does not read; only their shape is known."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Examples:
    """Images, and a target for each.

    Attributes
    ----------
    images
        A source of all images, ``(examples, channels, *spatial)``.
    targets
        Class numbers ``(examples,)`` or ``(examples, *spatial)``, or numbers like the output
        ``(examples, channels, *spatial)``; or the ``.npy`` file that has them.
    further
        More targets, of any shape ``(examples, …)``, for a loss that takes several.
    seed
        Seed of the order in which examples are taken.
    """

    images: Source | Unread
    targets: np.ndarray | Path
    seed: int = 0
    further: tuple[np.ndarray | Path, ...] = ()

    def __len__(self) -> int:
        return self.images.shape[0]

    def order(self, epoch: int) -> np.ndarray:
        """Return the numbers of all examples, shuffled for an epoch; the same on every rank."""
        return order_of(len(self), self.seed, epoch)

    def filed(self, folder: Path) -> Examples:
        """Return the same examples with their targets in files, which ranks read by region."""
        paths = [folder / f"targets-{number}.npy" for number in range(1 + len(self.further))]
        for number, path in enumerate(paths):
            with writing(path):
                np.save(path, self.array_of_targets(number))
        return replace(self, targets=paths[0], further=tuple(paths[1:]))

    @property
    def known_targets(self) -> np.ndarray:
        """The targets as an array; a file is mapped, and read where the array is used."""
        return self.array_of_targets(0)

    def array_of_targets(self, number: int) -> np.ndarray:
        """Return the targets of a number, 0 being ``targets``, as `known_targets` does."""
        found = (self.targets, *self.further)[number]
        return mapped(found, "r") if isinstance(found, Path) else found

    @property
    def source(self) -> Source:
        """The images as a source; a rank that reads no images has none."""
        assert not isinstance(self.images, Unread), "only ranks that read images get a source"
        return self.images

    @property
    def synthetic(self) -> bool:
        """Whether the images, or those that some are chosen of, are synthetic."""
        return isinstance(getattr(self.images, "source", self.images), SyntheticSource)

    def read(
        self,
        chosen: Sequence[int] | np.ndarray,
        region: Region,
        dtype: DTypeLike = np.float32,
    ) -> np.ndarray:
        """Return a region of the batch of the ``chosen`` images."""
        source, rows = self.source, map(int, chosen[slice(*region.spans[0])])
        ones = [Region(((k, k + 1), *region.spans[1:])) for k in rows]
        return np.concatenate([read_as(source, one, dtype) for one in ones])

    def wanted(
        self, chosen: Sequence[int] | np.ndarray, region: Region, axes: Axes
    ) -> torch.Tensor:
        """Return the targets of the ``chosen`` examples over a region of the batch.

        Parameters
        ----------
        chosen
            Numbers of the examples of the batch.
        region
            Over ``(batch, *spatial)`` of the output.
        axes
            Where the axes of the image lie in the output, the batch first.
        """
        if self.known_targets.dtype.kind == "i":  # a class number has no axis of channels
            axes = axes.with_dims([axes.dims[0], *axes.dims[2:]])
        return self.target(0, chosen, region, axes)

    def target(
        self, number: int, chosen: Sequence[int] | np.ndarray, region: Region, axes: Axes
    ) -> torch.Tensor:
        """Return the targets of a number over a region of the batch; ``axes`` are the targets'."""
        targets, rows = self.array_of_targets(number), chosen[slice(*region.spans[0])]
        whole, present = Region.whole((1, *axes.extent[1:])), axes.present
        spans = ((0, 1), *region.spans[1:])
        one = Region(tuple(spans[k] if k in present else whole.spans[k] for k in range(len(spans))))
        examples = (targets[k : k + 1] for k in map(int, rows))
        if axes.plain:  # then only the region is read from a file
            index = axes.within(whole, one)
            return torch.from_numpy(np.concatenate([example[index] for example in examples]))
        each = (axes.piece(torch.from_numpy(np.array(e)), whole, one) for e in examples)
        return torch.cat(list(each))


class Ahead:
    """Reads the images of batches; those of the next batch are read in the background.

    Parameters
    ----------
    examples
        The examples.
    batches
        Numbers of the examples of each batch.
    dtype
        Type in which images are read: float32 or float64.
    """

    def __init__(
        self,
        examples: Examples,
        batches: Sequence[Sequence[int] | np.ndarray],
        dtype: DTypeLike = np.float32,
    ):
        self.examples, self.batches, self.dtype = examples, batches, dtype
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[tuple[int, Region], Future] = {}

    @contextmanager
    def reading(self, workers: int) -> Iterator[None]:
        """Let so many threads read ahead within a ``with`` block; 0 reads nothing ahead."""
        if not workers:
            yield
            return
        with ThreadPoolExecutor(workers) as self._pool:
            yield

    def read(self, number: int, region: Region) -> np.ndarray:
        """Return a region of a batch, and begin to read the same region of the next batch."""
        if self._pool is not None and number + 1 < len(self.batches):
            following = self.batches[number + 1]
            job = self._pool.submit(self.examples.read, following, region, self.dtype)
            self._coming[number + 1, region] = job
        coming = self._coming.pop((number, region), None)
        if coming is not None:
            return coming.result()
        return self.examples.read(self.batches[number], region, self.dtype)


def matched(
    images: Source, targets: Any, shape: Sequence[int], classes: bool = True, seed: int = 0
) -> Examples:
    """Return images with targets, checked against the shape of a network's output.

    Parameters
    ----------
    images
        A source of all images.
    targets
        An array or tensor of targets; see `Examples`.
    shape
        Shape of the output: ``(batch, …)``.
    classes
        Whether its second dimension may be scores of classes.
    seed
        Seed of the order in which examples are taken.

    Raises
    ------
    ValueError
        If numbers, shapes or classes do not fit; the message names both sides.
    """
    if isinstance(targets, torch.Tensor):
        targets = targets.detach().cpu().numpy()
    targets = np.asarray(targets)
    count = images.shape[0]
    if len(targets) != count:
        raise ValueError(f"{count} images, but {len(targets)} targets: give one for each image")
    if targets.dtype.kind in "iub":
        if not classes:
            raise ValueError(
                f"targets are class numbers, but the network's output of shape {shape} has no"
                " scores of classes in its second dimension, whole on each rank: give"
                " numbers like the output, or train a network whose output is (batch, classes, …)"
            )
        number, wanted, targets = shape[1], (count, *shape[2:]), targets.astype(np.int64)
        low, high = (int(targets.min()), int(targets.max())) if targets.size else (0, 0)
        if targets.shape == wanted and not (low >= 0 and high < number):
            ignored = next((each for each in USUALLY_IGNORED if each in (low, high)), None)
            advice = (
                ""
                if ignored is None
                else (
                    f"; if {ignored} is to be ignored, give"
                    f" loss=torch.nn.CrossEntropyLoss(ignore_index={ignored}) in Python"
                )
            )
            raise ValueError(
                f"class numbers run from {low} to {high}, but the network has {number} classes:"
                f" use 0 to {number - 1}, or another num_classes{advice}"
            )
    else:
        wanted = (count, *shape[1:])
        if targets.dtype != np.float64:  # which a network in double precision takes as it is
            targets = targets.astype(np.float32)
    if targets.shape != wanted:
        kind = "class numbers" if targets.dtype == np.int64 else "numbers"
        raise ValueError(
            f"targets of shape {targets.shape}, but for this network's output {tuple(shape)}"
            f" {kind} have {wanted}"
        )
    return Examples(images, targets, seed)
