"""The shares of a loss, and of the metrics beside it, that a rank computes in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ..ir.region import Region
from ..kernels.half_conv import HALVES
from ..runtime.state import Piece
from .loss_scale import LossScale
from .losses import Loss

Wanted = Callable[[str, Region], torch.Tensor]
"""Gives the targets of an output, by its name, for a region of the whole batch."""


class LossShares:
    """The sum of a rank's shares of the loss over the micro-batches of a step.

    Parameters
    ----------
    loss
        Computes a piece's share of the loss; None if the plan computes the loss.
    outputs
        Shape of each whole output.
    wanted
        Gives the targets.
    scale
        The scale of the loss, in fp16.

    Attributes
    ----------
    loss
        The sum so far: the shares of all ranks add up to the mean over the batch.
    metrics
        The same of the plan's metrics, by their values' names.
    """

    def __init__(
        self,
        loss: Loss | None,
        outputs: Mapping[str, Sequence[int]],
        wanted: Wanted,
        scale: LossScale | None,
    ):
        self._compute, self._outputs, self._wanted, self._scale = loss, outputs, wanted, scale
        self.loss = 0.0
        self.metrics: dict[str, float] = {}

    def gradient_of(self, piece: Piece, of_batch: float) -> torch.Tensor | None:
        """Add the share of a region of an output; return the gradient of that share.

        Parameters
        ----------
        piece
            The region.
        of_batch
            The micro-batch's part of the images of the batch.  Of a loss that the plan computes,
            which is the micro-batch's mean, this part is taken.

        Returns
        -------
        torch.Tensor or None
            None for a metric.
        """
        if self._compute is None:
            return self._of_plan(piece, of_batch)
        output = piece.tensor.detach()
        output = (output.float() if output.dtype in HALVES else output).requires_grad_()
        with torch.enable_grad():
            wanted = self._wanted(piece.value, piece.region)
            share = self._compute(output, wanted, self._outputs[piece.value])
        (gradient,) = torch.autograd.grad(share, output)
        self.loss += float(share.detach())
        return self._scaled(gradient).to(piece.tensor.dtype)

    def _of_plan(self, piece: Piece, of_batch: float) -> torch.Tensor | None:
        number = float(piece.tensor.sum()) * of_batch
        if piece.value != next(iter(self._outputs)):
            self.metrics[piece.value] = self.metrics.get(piece.value, 0.0) + number
            return None
        self.loss += number
        return self._scaled(torch.full_like(piece.tensor, of_batch))

    def _scaled(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of an output, in fp16 with the scale of the loss."""
        return gradient if self._scale is None else gradient * self._scale.factor
