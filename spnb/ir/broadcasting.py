"""Axes of operands that are broadcast against each other, and the pieces that a region needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .axes import Axes, Dim, axes_in, dim, size_of
from .region import Region


def broadcast(shape: Sequence[int], operands: Sequence[Axes], rank: int) -> Axes:
    """Axes of the result of an operator that broadcasts its operands against each other.

    A dimension of the result takes the axes of the first operand with axes in that dimension.  An
    axis is taken once: a dimension leaves out axes that an earlier one holds.

    >>> broadcast((2, 8, 4, 4), [Axes.image((1, 8, 1, 1)), Axes.image((2, 8, 4, 4))], rank=3)
    Axes(batch 2 | 8 | axis1 4 | axis2 4)
    """
    dims: list[Dim] = []
    taken: set[int] = set()
    for number, size in enumerate(shape):
        found = dim(size)
        for axes in operands:
            at = number - (len(shape) - len(axes.dims))
            if at < 0 or size_of(axes.dims[at]) != size:
                continue
            names = axes_in(axes.dims[at])
            if names and not taken & set(names):
                found = axes.dims[at]
                break
            if not names and len(axes.dims[at]) == 1 and found == dim(size):
                found = axes.dims[at]
        taken |= set(axes_in(found))
        dims.append(found)
    return Axes(tuple(dims), rank)


def joined_along(
    number: int, along: Dim, shape: Sequence[int], operands: Sequence[Axes], rank: int
) -> Axes:
    """Axes of a result that is broadcast, except that dimension ``number`` is ``along``.

    >>> x = Axes.image((2, 8, 4, 4))
    >>> joined_along(1, dim(16), (2, 16, 4, 4), [x, x], rank=3)
    Axes(batch 2 | 16 | axis1 4 | axis2 4)
    """
    beside = (*shape[:number], 1, *shape[number + 1 :])
    found = broadcast(beside, [axes.without(number) for axes in operands], rank)
    return found.with_dims([*found.dims[:number], along, *found.dims[number + 1 :]])


def aligned(axes: Axes, result: Axes) -> dict[int, bool]:
    """For each axis that an operand holds, whether the result holds it in the same dimension."""
    shift = len(result.dims) - len(axes.dims)
    found: dict[int, bool] = {}
    for number, factors in enumerate(axes.dims):
        for axis in axes_in(factors):
            found[axis] = number + shift >= 0 and result.dims[number + shift] == factors
    return found


def fits(axes: Axes, result: Axes) -> bool:
    """Whether `fitted` gives every operand with these axes as it is."""
    return not any(_loose(axes, result))


def _loose(axes: Axes, result: Axes) -> list[bool]:
    """For each dimension of an operand, whether it is whole where the result's may be cut."""
    there = result.dims[len(result.dims) - len(axes.dims) :]
    return [
        size_of(factors) > 1 and factors != other and bool(axes_in(other))
        for factors, other in zip(axes.dims, there, strict=True)
    ]


def fitted(tensor: torch.Tensor, axes: Axes, result: Axes, region: Region) -> Any:
    """The piece of an operand that is broadcast against a region of the result.

    A dimension that holds an axis in the result, but none in the operand, is held whole, and is
    cut here.  All other dimensions are cut already.
    """
    loose = _loose(axes, result)
    if not any(loose):
        return tensor
    shift = len(result.dims) - len(axes.dims)
    dims = [
        result.dims[number + shift] if loose[number] else dim(size_of(factors))
        for number, factors in enumerate(axes.dims)
    ]
    # A dimension without such an axis is cut already, so its size is the tensor's.
    sizes = zip(dims, tensor.shape, strict=True)
    loose_axes = result.with_dims([d if axes_in(d) else dim(n) for d, n in sizes])
    whole = Region.whole(loose_axes.extent)
    spans = (
        s if k in loose_axes.present else w
        for k, (s, w) in enumerate(zip(region.spans, whole.spans, strict=True))
    )
    wanted = Region(tuple(spans))
    if tuple(tensor.shape) == loose_axes.local_shape(wanted):
        return tensor  # of a micro-batch, which has fewer images than the batch
    return loose_axes.piece(tensor, whole, wanted)
