"""What is added to the scores of attention: their sum is one bias, in the shape of the scores.

Relative positions by rows and columns (Li et al., *MViTv2*, 2022; Kirillov et al., *Segment
anything*, 2023) are added one after the other, in a view of the scores::

    (scores.view(b, h, w, kh, kw) + rows[..., None] + columns[..., None, :]).view(b, h * w, kh * kw)
        =  scores + (rows[..., None] + columns[..., None, :]).view(b, h * w, kh * kw)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .added_calls import AddedCalls
from .products import Tensor


@dataclass
class Added:
    """Tensors that are added to scores.

    Attributes
    ----------
    tensors
        In order, each with the shape that the scores had there.
    in_a_view
        Whether the scores have another shape now than the product that made them.
    """

    tensors: list[tuple[Tensor, tuple[int, ...]]] = field(default_factory=list)
    in_a_view: bool = False

    def sum(self, calls: AddedCalls, scores: tuple[int, ...]) -> Tensor | None:
        """The sum of all, which can be broadcast to the scores; None if nothing is added.

        Parameters
        ----------
        calls
            The calls so far.
        scores
            Shape of the scores.
        """
        total: Tensor | None = None
        shape = scores
        for number, (tensor, there) in enumerate(self.tensors):
            if total is None:
                total = tensor
            else:
                total = _in_shape(calls, f"bias{number}", total, shape, there)
                whole = torch.broadcast_shapes(calls.shape(total), calls.shape(tensor))
                total = calls.sum(f"bias{number}.sum", total, tensor, whole)
            shape = there
        return total if total is None else _in_shape(calls, "bias", total, shape, scores)


def _in_shape(
    calls: AddedCalls, name: str, tensor: Tensor, shape: tuple[int, ...], new: tuple[int, ...]
) -> Tensor:
    """A tensor that is added to scores of one shape, for the same scores in another."""
    if shape == new:
        return tensor
    if calls.shape(tensor) != shape:
        args = {"self": tensor, "size": list(shape), "implicit": False}
        tensor = calls.add(f"{name}.expanded", "aten.expand.default", args, shape)
    return calls.view(name, tensor, new)
