"""A rank's regions of a whole tensor, one after another along the batch, as one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ...ir.axes import Axes
from ...ir.exchange import HOST
from ...ir.program import Receive, Send, Step
from ...ir.rank_plan import RankPlan
from ...ir.region import Region
from ...runtime.pipeline_stage import PipelineStage


@dataclass(frozen=True)
class LocalPieces:
    """The regions of a whole tensor that a rank has, joined along the batch.

    Parameters
    ----------
    axes, dtype
        Where the axes of the image lie in the whole tensor, and its type.
    regions
        One for each micro-batch of which the rank has something; empty if it has none.

    Examples
    --------
    >>> half = Region(((0, 2), (0, 8), (4, 8)))
    >>> pieces = LocalPieces(Axes.image((2, 3, 8, 8)), torch.float32, (half,))
    >>> pieces.shape
    (2, 3, 8, 4)
    >>> pieces.like((2, 8, 8)).shape  # one number at each position, as a class
    (2, 8, 4)
    """

    axes: Axes
    dtype: torch.dtype
    regions: tuple[Region, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the joined regions; without a region the batch is empty."""
        shapes = [self.axes.local_shape(region) for region in self.regions]
        total = sum(shape[self._along] for shape in shapes if shape)
        like = shapes[0] if shapes else self.axes.shape
        return tuple(total if k == self._along else n for k, n in enumerate(like))

    @property
    def _along(self) -> int:
        """The dimension that holds the batch; the first, if none does."""
        held = (k for k in range(len(self.axes.dims)) if 0 in self.axes.axes_of(k))
        return next(held, 0)

    def cut(self, whole: torch.Tensor) -> torch.Tensor:
        """The rank's regions of a whole tensor."""
        everything = Region.whole(self.axes.extent)
        pieces = [self.axes.piece(whole, everything, each) for each in self.regions]
        return self.join(pieces).to(whole.dtype)

    def join(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pieces over the regions as one tensor; without one, an empty tensor."""
        if not pieces:
            return torch.zeros(self.shape, dtype=self.dtype)
        return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), self._along)

    def split(self, local: torch.Tensor) -> list[torch.Tensor]:
        """The piece over each region."""
        if len(self.regions) < 2:
            return [local] * len(self.regions)
        sizes = [self.axes.local_shape(region)[self._along] for region in self.regions]
        return list(local.split(sizes, self._along))

    def put(self, whole: torch.Tensor, local: torch.Tensor) -> None:
        """Write the rank's regions into a whole tensor."""
        everything = Region.whole(self.axes.extent)
        for region, piece in zip(self.regions, self.split(local), strict=True):
            self.axes.put(whole, everything, region, piece)

    def like(self, shape: Sequence[int], local: bool = False) -> LocalPieces:
        """The same regions of another tensor over the same image.

        Parameters
        ----------
        shape
            Shape of the other tensor: it may have another number of channels, or one number at
            each position and no dimension of channels.
        local
            Whether it is the shape of the rank's regions, not of the whole tensor.

        Raises
        ------
        ValueError
            If the image is not as large; the message has both shapes.
        """
        dims = list(self.axes.dims)
        free = [k for k in range(len(dims)) if not self.axes.axes_of(k)]
        if len(shape) == len(dims) - 1 and free:
            dims.pop(1 if 1 in free else free[0])
        axes = self.axes.with_dims(dims)
        if len(shape) == len(dims):
            for k in range(len(dims)):
                if not axes.axes_of(k):
                    axes = axes.resized(k, shape[k])
        found = replace(self, axes=axes)
        wanted = found.shape if local else axes.shape
        if tuple(shape) != tuple(wanted):
            whose = "this rank's part of the output" if local else "the output"
            raise ValueError(
                f"a tensor of shape {tuple(shape)} does not lie over {whose}, of shape"
                f" {self.shape if local else self.axes.shape}"
            )
        return found


def regions_read(stage: PipelineStage, value: str) -> tuple[Region, ...]:
    """The regions of an input that a rank is given, one for each micro-batch that it has."""
    found = []
    for rank_plan, first_image, steps in _micro_batches(stage):
        for step in steps:
            if isinstance(step, Receive) and step.kind == "input" and step.value == value:
                found.append(rank_plan.in_batch(step.region, step.axes, first_image))
    return tuple(found)


def regions_returned(stage: PipelineStage, value: str) -> tuple[Region, ...]:
    """The regions of an output that a rank computes, one for each micro-batch that it has."""
    found = []
    for rank_plan, first_image, steps in _micro_batches(stage):
        for step in steps:
            if isinstance(step, Send) and step.value == value:
                regions = [t.region for t in step.transfers if t.target == HOST]
                found += [rank_plan.in_batch(each, step.axes, first_image) for each in regions]
    return tuple(found)


def _micro_batches(
    stage: PipelineStage,
) -> Iterator[tuple[RankPlan, int, Sequence[Step]]]:
    """The rank's share of the plan, the first image, and the steps of each of its micro-batches."""
    rank_plan = stage.rank_plan
    for number in stage.pipeline.numbers:
        sizes = rank_plan.micro_batch_sizes
        for program in rank_plan.programs[sizes[number]]:
            yield rank_plan, rank_plan.first_image(number), program.steps
