"""Files that many ranks write at once, each its own region: ``.npy``, ``.tif`` and ``.zarr``."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..ir.axes import Axes
from ..ir.exchange import Spans
from ..ir.region import Region
from .files import mapped
from .formats import check_suffix
from .tiff import MASK

CHUNK = 256
"""Positions of a zarr chunk along each axis of the image; in 3-D, a quarter of them."""


@dataclass(frozen=True)
class Store:
    """A file for one output of a network, in the output's own layout.

    Attributes
    ----------
    path
        The file; the suffix determines the format.
    axes
        Axes of the output; ``axes.shape`` is the shape of the file.
    dtype
        Type of the output's elements; bfloat16, which no format has, is written as float32.
    """

    path: Path
    axes: Axes
    dtype: torch.dtype

    @property
    def numpy_dtype(self) -> np.dtype:
        """Type of the file's elements."""
        if self.dtype == torch.bfloat16:
            return np.dtype(np.float32)
        if self.dtype == torch.bool and self.path.suffix in (".tif", ".tiff"):
            return np.dtype(np.uint8)  # a TIFF of single bits cannot be mapped
        return torch.empty(0, dtype=self.dtype).numpy().dtype

    def create(self, overwrite: bool = False) -> None:
        """Make the file in its full size; elements that are not written are zero.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is False.
        ValueError
            For another suffix than ``.npy``, ``.tif``, ``.tiff`` or ``.zarr``.
        """
        suffix, shape = self.path.suffix, self.axes.shape
        check_suffix(self.path)
        if self.path.exists():
            if not overwrite:
                raise FileExistsError(f"{self.path} exists: pass overwrite=True to replace it")
            shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.lib.format.open_memmap(self.path, "w+", self.numpy_dtype, shape)
        elif suffix == ".zarr":
            import zarr

            if any(len(factors) > 1 for factors in self.axes.dims):
                raise ValueError(
                    f"an output of shape {shape}, one dimension of which holds several axes of the"
                    " image, has no chunks that tiles could own: save it as .npy"
                )
            zarr.create_array(
                str(self.path), shape=shape, chunks=self.chunks, dtype=self.numpy_dtype
            )
        else:
            from tifffile import memmap

            size = math.prod(shape) * self.numpy_dtype.itemsize
            memmap(
                self.path,
                shape=shape,
                dtype=self.numpy_dtype,
                photometric="minisblack",
                bigtiff=size > 2**32 - 2**25,
                metadata=MASK if self.dtype == torch.bool else {},
            )

    def write(self, region: Region, piece: torch.Tensor) -> None:
        """Write the piece that covers a region; in a zarr, one of the regions of `spans`."""
        values = piece.to(torch.from_numpy(np.empty(0, self.numpy_dtype)).dtype)
        if self.path.suffix == ".zarr":
            import zarr

            zarr.open_array(str(self.path), mode="r+")[self.axes.index(region)] = values.numpy()
            return
        if self.path.suffix == ".npy":
            target = mapped(self.path, "r+")
        else:
            from tifffile import memmap

            target = memmap(self.path, mode="r+")
        whole = torch.from_numpy(target.reshape(self.axes.shape))
        self.axes.put(whole, Region.whole(self.axes.extent), region, values)
        target.flush()

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a zarr's chunk: one image, all channels, a square of the image."""
        side = CHUNK if self.axes.rank < 4 else CHUNK // 4
        held = [1 if self.axes.axes_of(k) == (0,) else n for k, n in enumerate(self.axes.shape)]
        cut = [self.axes.axes_of(k) not in ((), (0,)) for k in range(len(held))]
        return tuple(min(n, side) if is_cut else n for n, is_cut in zip(held, cut, strict=True))

    def spans(self, has: Spans) -> Spans:
        """Return spans moved to ends of chunks, so that no two ranks write into the same chunk."""
        if self.path.suffix != ".zarr":
            return has
        chunk = dict.fromkeys(range(self.axes.rank), 1)
        for number, size in enumerate(self.chunks):
            chunk |= dict.fromkeys(self.axes.axes_of(number), size)
        ends = self.axes.extent

        def chunk_end(axis: int, position: int) -> int:
            return min(-(-position // chunk[axis]) * chunk[axis], ends[axis])

        return tuple(
            tuple((chunk_end(axis, start), chunk_end(axis, stop)) for start, stop in spans)
            if axis
            else spans
            for axis, spans in enumerate(has)
        )
