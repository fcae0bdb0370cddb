"""What a network is trained on: images and what its output should be for each.

Each rank reads of an image only what it needs, and of a wanted output only what it computes.
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

from ..ir.axes import Axes
from ..ir.region import Region
from .sources import Source, mapped


@dataclass(frozen=True)
class Unread:
    """Images that a rank does not read, of which it only knows how many there are."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Examples:
    """Images, and for each what is wanted.

    Attributes
    ----------
    images
        A source of all of them, ``(examples, channels, *spatial)``.
    targets
        Class numbers ``(examples,)`` or ``(examples, *spatial)``, or numbers like the output
        ``(examples, channels, *spatial)``; or the ``.npy`` file that has them.
    seed
        Of the order in which they are taken.
    """

    images: Source | Unread
    targets: np.ndarray | Path
    seed: int = 0

    def __len__(self) -> int:
        return self.images.shape[0]

    def order(self, epoch: int) -> np.ndarray:
        """The examples of an epoch, shuffled: the same on every rank, whatever came before."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self))

    def filed(self, folder: Path) -> Examples:
        """The same, the targets in a file of which ranks read parts."""
        path = folder / "targets.npy"
        np.save(path, self.known_targets)
        return replace(self, targets=path)

    @property
    def known_targets(self) -> np.ndarray:
        """The targets; those of a file are not read before they are asked for."""
        if isinstance(self.targets, Path):
            return mapped(self.targets, "r")
        return self.targets

    def read(self, chosen: Sequence[int], region: Region) -> np.ndarray:
        """A region of a batch of images, the first of which is ``chosen[0]``."""
        rows = chosen[slice(*region.spans[0])]
        each = [self.images.read(Region(((k, k + 1), *region.spans[1:]))) for k in map(int, rows)]
        return np.concatenate(each)

    def wanted(self, chosen: Sequence[int], region: Region, axes: Axes) -> torch.Tensor:
        """What an output should be over a region of a batch.

        Parameters
        ----------
        axes
            Where the axes of the image lie in the output, the batch first.
        """
        targets, rows = self.known_targets, chosen[slice(*region.spans[0])]
        if targets.dtype.kind == "i":  # one for all the classes of a position
            axes = axes.with_dims([axes.dims[0], *axes.dims[2:]])
        whole, present = Region.whole((1, *axes.extent[1:])), axes.present
        spans = ((0, 1), *region.spans[1:])
        one = Region(tuple(spans[k] if k in present else whole.spans[k] for k in range(len(spans))))
        examples = (targets[k : k + 1] for k in map(int, rows))
        if axes.plain:  # of a file only that is read
            index = axes.within(whole, one)
            return torch.from_numpy(np.concatenate([example[index] for example in examples]))
        each = (axes.piece(torch.from_numpy(np.array(e)), whole, one) for e in examples)
        return torch.cat(list(each))


class Ahead:
    """Reads the images of batches, of the next one before it is asked for.

    Parameters
    ----------
    examples
        Where from.
    batches
        The examples of each batch.
    """

    def __init__(self, examples: Examples, batches: Sequence[Sequence[int]]):
        self.examples, self.batches = examples, batches
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[tuple[int, Region], Future] = {}

    @contextmanager
    def reading(self, workers: int) -> Iterator[None]:
        """Let so many threads read, as long as this lasts; with none, nothing is read ahead."""
        if not workers:
            yield
            return
        with ThreadPoolExecutor(workers) as self._pool:
            yield

    def read(self, number: int, region: Region) -> np.ndarray:
        """A region of a batch; the same of the next one is begun."""
        if self._pool is not None and number + 1 < len(self.batches):
            following = self.batches[number + 1]
            job = self._pool.submit(self.examples.read, following, region)
            self._coming[number + 1, region] = job
        coming = self._coming.pop((number, region), None)
        return coming.result() if coming else self.examples.read(self.batches[number], region)


def matched(
    images: Source, targets: Any, shape: Sequence[int], classes: bool = True, seed: int = 0
) -> Examples:
    """Examples, checked against a network's output.

    Parameters
    ----------
    shape
        Of the output: ``(batch, …)``.
    classes
        Whether its second dimension may be scores of classes.

    Raises
    ------
    ValueError
        If numbers, shapes or classes do not fit; the message has both.
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
            raise ValueError(
                f"class numbers run from {low} to {high}, but the network has {number} classes:"
                f" use 0 to {number - 1}, or another num_classes"
            )
    else:
        wanted, targets = (count, *shape[1:]), targets.astype(np.float32)
    if targets.shape != wanted:
        kind = "class numbers" if targets.dtype == np.int64 else "numbers"
        raise ValueError(
            f"targets of shape {targets.shape}, but for this network's output {tuple(shape)}"
            f" {kind} have {wanted}"
        )
    return Examples(images, targets, seed)
