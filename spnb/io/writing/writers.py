"""Files that many ranks write at once, each its own region: ``.npy``, ``.tif`` and ``.zarr``.

For a ``.png`` they write a file beside it, which is compressed when it is complete.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...ir.axes import Axes
from ...ir.exchange import Spans
from ...ir.region import Region
from ...ir.value_range import ValueRange
from ..disk.disk_space import claim, require_space
from ..disk.files import mapped
from ..disk.replacing import beside, replacing, writing
from ..disk.targets import refuse_unwritable
from ..readers.tiff import MASK, NODATA, NUMBERS
from .formats import check_suffix
from .outputs import refuse_loss
from .pixel_grid import PixelGrid
from .png import compress, refuse_no_picture
from .sample_types import TIFF, depends_on_numbers, plain_type, samples, smallest_type

MAPPED = (".npy", ".png")
"""Suffixes of files whose numbers ranks write as an array that numpy maps."""

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
    new
        The file beside the path that ranks write meanwhile.
    grid
        The grid of the output's positions, which a TIFF carries; None if it is not known.
    nan_is_nodata
        Whether a TIFF says that NaN stands for nodata.
    held_as
        Type of the file's elements, where it depends on the output's numbers: see `holding`.
    """

    path: Path
    axes: Axes
    dtype: torch.dtype
    new: Path | None = None
    grid: PixelGrid | None = None
    nan_is_nodata: bool = False
    held_as: np.dtype | None = None

    @property
    def depends_on_numbers(self) -> bool:
        """Whether the type of the file's elements depends on the output's numbers."""
        return depends_on_numbers(self.path, self.dtype)

    def holding(self, numbers: ValueRange) -> Store:
        """The same file with the smallest type that holds the output's numbers.

        Raises
        ------
        ValueError
            If the format cannot hold them.
        """
        found = replace(self, held_as=smallest_type(self.path, self.dtype, numbers))
        found._refuse_ome()
        return found

    @property
    def numpy_dtype(self) -> np.dtype:
        """Type of the file's elements."""
        return plain_type(self.path, self.dtype) if self.held_as is None else self.held_as

    @property
    def num_bytes(self) -> int:
        """Bytes of the file's elements."""
        return math.prod(self.axes.shape) * self.numpy_dtype.itemsize

    def require(self, overwrite: bool = False, inputs: Iterable[str | Path] = ()) -> None:
        """Refuse a file that cannot be written, or in whose place something would be lost.

        Parameters
        ----------
        overwrite
            Whether an array at the path may be replaced.
        inputs
            Files that the run reads.

        Raises
        ------
        ValueError
            If no file can be made there, for its suffix, its folder, the output's layout, or lack
            of space; or if an input is there.
        FileExistsError
            If there is an array and ``overwrite`` is False, or anything else.
        """
        check_suffix(self.path)
        if self.path.suffix == ".zarr" and any(len(factors) > 1 for factors in self.axes.dims):
            raise ValueError(
                f"an output of shape {self.axes.shape}, one dimension of which holds several axes"
                " of the image, has no chunks that tiles could own: save it as .npy"
            )
        if self.path.suffix == ".png":
            refuse_no_picture(self.path, self.axes, self.dtype)
        if not self.depends_on_numbers:
            self._refuse_ome()
        refuse_loss(self.path, overwrite, inputs)
        kind = "a folder" if self.path.suffix == ".zarr" else "a file"
        refuse_unwritable(self.path, "output", kind)
        if self.path.suffix != ".zarr":  # whose chunks are compressed
            require_space(self.path, self.num_bytes)

    @contextmanager
    def created(self) -> Iterator[Store]:
        """Make the file in its full size for a block, in which ranks write all regions.

        It lies beside the path, and takes the path's place when the block ends without an error.

        Yields
        ------
        Store
            What ranks write to.
        """
        with replacing(self.path) as file:
            if self.path.suffix != ".png":
                yield self._made(file)
                return
            with beside(self.path) as numbers:
                yield self._made(numbers)
                with writing(self.path):
                    compress(numbers, self.axes, file)

    def _made(self, new: Path) -> Store:
        """Make a file in its full size, with blocks of the disk."""
        with writing(self.path):
            self._make(new)
            if new.is_file():
                claim(new, self.path)
        return replace(self, new=new)

    def _make(self, file: Path) -> None:
        """Make a file in its full size; elements that are not written are zero."""
        shape = self.axes.shape
        if self.path.suffix in MAPPED:
            np.lib.format.open_memmap(file, "w+", self.numpy_dtype, shape)
        elif self.path.suffix == ".zarr":
            import zarr

            zarr.create_array(str(file), shape=shape, chunks=self.chunks, dtype=self.numpy_dtype)
        else:
            from tifffile import memmap

            memmap(
                file,
                shape=shape,
                dtype=self.numpy_dtype,
                photometric="minisblack",
                bigtiff=self.num_bytes > 2**32 - 2**25,
                ome=self.is_ome,
                metadata=self._description,
                **self._tags,
            )

    @property
    def is_tiff(self) -> bool:
        """Whether the file is a TIFF."""
        return self.path.suffix in TIFF

    @property
    def is_ome(self) -> bool:
        """Whether the file is an OME-TIFF, as its name says."""
        return self.path.name.lower().endswith((".ome.tif", ".ome.tiff"))

    @property
    def _tags(self) -> dict[str, Any]:
        """Tags of a TIFF, as arguments of `tifffile.imwrite`."""
        found = {} if self.grid is None else self.grid.tags()
        if self.nan_is_nodata and self.numpy_dtype.kind == "f":
            found["extratags"] = [*found.get("extratags", ()), (NODATA, 2, 0, "nan", False)]
        return found

    def _refuse_ome(self) -> None:
        """Refuse an OME-TIFF of axes or of a type that it has no name for."""
        if not self.is_ome:
            return
        if self.axes != Axes.image(self.axes.shape) or self.axes.rank not in (3, 4):
            raise ValueError(
                f"cannot save as {self.path.name}: the output {self.axes.shape} is no image (batch,"
                " channels, rows, columns), as an OME-TIFF is: save it as .tif"
            )
        if self.numpy_dtype.name in ("float16", "int64", "uint64"):
            raise ValueError(
                f"cannot save as {self.path.name}: an OME-TIFF holds no {self.numpy_dtype}: save it"
                " as .tif"
            )

    @property
    def _description(self) -> dict[str, Any]:
        """What a TIFF says of its axes and of its elements, beside their number and type."""
        if self.is_ome:
            sizes = {} if self.grid is None else self.grid.ome()
            return {"axes": "TCYX" if self.axes.rank == 3 else "TCZYX", **sizes}
        if self.dtype == torch.bool:
            return MASK
        is_unsigned = self.held_as is not None and self.held_as.kind == "u"
        return NUMBERS if is_unsigned else {}

    def write(self, region: Region, piece: torch.Tensor) -> None:
        """Write the piece that covers a region; in a zarr, one of the regions of `spans`."""
        assert self.new is not None, "regions are written in the block of `created`"
        values = samples(piece, self.numpy_dtype)
        with writing(self.path):
            self._write(self.new, region, values)

    def _write(self, file: Path, region: Region, values: torch.Tensor) -> None:
        """Write values of the file's type."""
        if self.path.suffix == ".zarr":
            import zarr

            zarr.open_array(str(file), mode="r+")[self.axes.index(region)] = values.numpy()
            return
        if self.path.suffix in MAPPED:
            target = mapped(file, "r+")
        else:
            from tifffile import memmap

            target = memmap(file, mode="r+")
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
