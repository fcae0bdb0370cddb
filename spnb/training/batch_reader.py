"""Reads a rank's regions of the images and targets of batches, as its stages take them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ..io.datasets.examples import Ahead, Examples
from ..io.tensors import numpy_floats
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..kernels.half_conv import HALVES
from ..runtime.state import Read
from .loss_shares import Wanted


class BatchReader:
    """The batches of some examples, in an order, as one rank reads them.

    Parameters
    ----------
    examples
        Images and targets.
    batches
        Numbers of the examples of each batch.
    rank_plan
        The rank's share of the plan.
    device
        Where the rank computes.
    """

    def __init__(
        self,
        examples: Examples,
        batches: Sequence[np.ndarray],
        rank_plan: RankPlan,
        device: torch.device,
    ):
        self.ahead = Ahead(examples, batches, numpy_floats(rank_plan.dtype))
        self.dtype, self.device = rank_plan.dtype, device
        self._axes = {node.name: node.axes for each in rank_plan.with_mirror for node in each.nodes}
        self._targets = {
            step.value: (rank_plan.targets.index(step.value), step.axes, step.dtype)
            for step in rank_plan.received("input")
            if step.value in rank_plan.targets
        }

    def read(self, number: int) -> Read:
        """A function that reads regions of the inputs of a batch: images, and a loss's targets."""
        return partial(self._read, number)

    def wanted(self, number: int) -> Wanted:
        """A function that reads the targets of regions of an output, for a batch."""
        return partial(self._wanted, number)

    def _read(self, number: int, value: str, region: Region) -> torch.Tensor:
        if value not in self._targets:
            image = self.ahead.read(number, region)
            return torch.from_numpy(image).to(self.device, self.dtype)
        which, axes, dtype = self._targets[value]
        found = self.ahead.examples.target(which, self.ahead.batches[number], region, axes)
        return found.to(self.device, dtype)

    def _wanted(self, number: int, value: str, region: Region) -> torch.Tensor:
        chosen = self.ahead.batches[number]
        found = self.ahead.examples.wanted(chosen, region, self._axes[value]).to(self.device)
        numbers = torch.float32 if self.dtype in HALVES else self.dtype
        return found.to(numbers) if found.is_floating_point() else found
