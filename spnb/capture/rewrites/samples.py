"""Finds which positions of an image are read by samples whose coordinates are constants."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...ir.axes import Axes, dim
from ...ir.node import Node
from ...rules.sampling import Sampling
from ...rules.spatial import places

MOST_COORDINATES = 1 << 26
"""The most numbers of a grid that are looked at for a plan."""


def samples(node: Node, axes: Axes, grid: torch.Tensor) -> Node:
    """A call of grid_sample that knows what it reads; the same call if tiles cannot do that.

    Parameters
    ----------
    node
        The call.
    axes
        Where the axes of the image lie in the operand.
    grid
        The coordinates.
    """
    where, args = places(axes, len(axes.dims) - 2), node.args
    plain = where is not None and None not in where and axes.dims[0] == dim(axes.shape[0], 0)
    # In half precision PyTorch rounds a location to a few digits, in its own way.
    precise = grid.dtype in (torch.float32, torch.float64) and bool(grid.isfinite().all())
    if not plain or axes.axes_of(1) or not precise:
        return node
    how = Sampling(
        args["interpolation_mode"],
        args["padding_mode"],
        args["align_corners"],
        tuple(axes.shape[2:]),
    )
    return replace(node, op="spnb.grid_sampler.default", args={**args, "reach": how.reach(grid)})
