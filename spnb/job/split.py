"""The image of a job and its split: its size, the tiles of each stage, the patches of a tile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import OptionError
from ..ir.region import shape_text
from ..ir.tiling import Tiling, grid_of, grids_of
from .options import OptionTable
from .parsing import whole_numbers

MOST_POSITIONS = 2**44
"""Most pixels of a batch; with all channels of all layers, their bytes are counted in 64 bits."""


def image_extent(table: OptionTable, axes: int, network: str) -> tuple[int, ...]:
    """Spatial size of the image of a network.

    Parameters
    ----------
    table
        The options; an ``image_size`` of one number is that of all axes.
    axes
        Number of spatial axes that the network takes.
    network
        Name of the network, for the message.

    Returns
    -------
    tuple of int
        Pixels along each spatial axis.

    Raises
    ------
    OptionError
        If ``image_size`` has another number of axes, or a batch has too many pixels.
    """
    size = whole_numbers(table.image_size, "x")
    if len(size) not in (1, axes):
        raise OptionError(
            f"image_size {table.image_size} has {len(size)} numbers, but {network} takes images of"
            f" {axes} axes"
        )
    size = size * axes if len(size) == 1 else size
    if math.prod(size) * table.batch_size > MOST_POSITIONS:
        raise OptionError(
            f"a batch of {table.batch_size} images of {shape_text(size)} pixels has"
            f" {math.prod(size) * table.batch_size:,} of them, but must have at most"
            f" {MOST_POSITIONS:,}: make image_size or batch_size smaller"
        )
    return size


def stage_tilings(table: OptionTable, axes: int) -> tuple[Tiling, ...]:
    """Cut ``(batch, *spatial)`` into tiles for each stage.

    Parameters
    ----------
    table
        The options.
    axes
        Number of spatial axes.

    Returns
    -------
    tuple of Tiling
        The tiled stages' first; an untiled stage is cut along the batch only.

    Raises
    ------
    OptionError
        If the slice method does not fit the number of axes or of tiles.
    """
    tiles = whole_numbers(table.num_spatial_parts)
    tiles = tiles * table.spatial_size if len(tiles) == 1 else tiles
    method, tiled = table.slice_method, table.spatial_size
    try:
        grids = [(1, *grid_of(method, number, axes)) for number in tiles[:tiled]]
    except ValueError as error:
        raise OptionError(str(error)) from None
    untiled = (table.local_DP, *(1,) * axes)
    return tuple(map(Tiling.even, [*grids, *[untiled] * (table.split_size - tiled)]))


def shortest_border_grid(
    patches: int, extent: Sequence[int], grid: Sequence[int]
) -> tuple[int, ...]:
    """Choose the grid that cuts a tile into patches with the shortest borders.

    Parameters
    ----------
    patches
        Number of patches of a tile.
    extent
        Spatial size of the image, in pixels.
    grid
        How many tiles the image has along each spatial axis.

    Returns
    -------
    tuple of int
        Patches along each spatial axis.

    Examples
    --------
    >>> shortest_border_grid(4, extent=(64, 256), grid=(1, 2))
    (1, 4)
    """
    tile = [n / k for n, k in zip(extent, grid, strict=True)]
    grids = grids_of(patches, len(tile))
    return min(grids, key=lambda cut: sum(k / n for k, n in zip(cut, tile, strict=True)))
