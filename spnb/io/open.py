"""Opens an array, a file or a sample as an image source.

>>> from spnb.ir.region import Region
>>> source = open_source(None, size=(65536, 65536), channels=3)
>>> source.read(Region(((0, 1), (40000, 40002), (0, 4)))).shape
(1, 3, 2, 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..ir.option_words import option
from .arrays import as_numpy, is_in_memory
from .disk.files import NotByRegion, located, mapped, reading
from .layout import batched, layout_of
from .readers.dicom import MARK as DICOM
from .readers.dicom import SLIDE, read_dicom
from .readers.library_files import (
    HDF5,
    LibrarySource,
    is_nifti,
    named_dataset,
    nifti_layout,
    of_dataset,
    opened_array,
)
from .readers.native_messages import warnings_after_success
from .readers.pillow import read_whole, resized
from .readers.sliced import SlicedSource, can_be_sliced
from .readers.slides import SUFFIXES as SLIDES
from .readers.slides import SlideSource, of_level
from .readers.tiff import MARKS as TIFF
from .readers.tiff import TiffSource
from .readers.tiff_pages import has_overlaps
from .readers.zarr_source import ZarrSource, array_folder, is_zarr, of_scale, zarr_layout
from .samples import hint, samples
from .sources import (
    NOT_GIVEN,
    ArraySource,
    FileSource,
    Repeated,
    Source,
    SyntheticSource,
)

FIRST_BYTES = 4096
"""What is read of a file to know its format: a DICOM names its class behind other elements."""

NPY = b"\x93NUMPY"
"""The first bytes of a ``.npy`` file."""

ZIP = b"PK\x03\x04"
"""The first bytes of a ``.zip`` and of an ``.npz`` file."""


def open_source(
    image: Any,
    *,
    batch_size: int | None = None,
    channels: int = 3,
    size: Sequence[int] | None = None,
    axes: int | None = None,
    seed: int = 0,
    resize: bool = False,
) -> Source:
    """Open an array, a file, a sample or a source as a source.

    Parameters
    ----------
    image
        None (synthetic noise), a `Source`, a numpy array or torch tensor, an array of another
        library that has a shape, a type and slices (h5py, zarr, dask, xarray, …; it is read by
        region), whatever numpy makes an array of (an image of Pillow), the path of a ``.npy``,
        zarr, TIFF, PNG, JPEG or other file that Pillow reads, a slide (``"a.svs@2"`` is level 2 of
        its pyramid), a file of HDF5 (``"a.h5:/path"``), NIfTI or DICOM if their libraries are
        installed, or the name of a sample inside scikit-image ("retina", "astronaut", ...).
        Pixels are taken as they are stored: a rotation in the file's EXIF data is ignored, as
        torchvision does.

        An array has as many spatial axes as ``size``; without ``size`` and ``axes``, a 1-D array
        has 1, a 5-D array 3, any other 2.  An array with no further axis is grey.  Two further axes
        are ``(batch, channels, *spatial)``; of more, those of one element are dropped.  One further
        axis is the channels, first or last: the axis that has 1 or ``channels`` elements (or 4, as
        the last axis, if 3 are wanted: alpha is dropped).  If both axes fit, the one that leaves
        ``size`` is taken; if that does not decide, the array is refused.  A TIFF and a zarr may
        name their axes: see `spnb.io.layout.named_layout`.
    batch_size
        Number of images in the batch; a single image is repeated.  By default, that of the image.
    channels
        Channels of the source; a grey image is repeated to 3.
    size
        Spatial size of the source, in pixels.
    axes
        Number of spatial axes, if there is no ``size``.
    seed
        Seed of the synthetic noise.
    resize
        Whether an image in memory is resized if it has another size; its name then says so.  Files
        that are read by region are never resized.

    Returns
    -------
    Source
        Reads regions of ``(batch, channels, *spatial)`` as float32.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such image, it cannot be read, or its shape does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> open_source(np.zeros((97, 131, 3), np.uint8), batch_size=2, size=(97, 131)).shape
    (2, 3, 97, 131)
    """
    size = tuple(size) if size is not None else None
    if image is None or image is NOT_GIVEN:
        if not size:
            raise ValueError("a synthetic image needs a size: pass size=(height, width)")
        return SyntheticSource((batch_size or 1, channels, *size), seed)
    wanted = _Wanted(channels, size, len(size) if size else axes, resize)
    source = _opened(image, wanted)
    _check_channels(source, channels)
    batch = source.shape[0]
    if batch != 1 and batch_size not in (None, batch):
        raise ValueError(f"{source.name} holds {batch} images, but the batch size is {batch_size}")
    if size and source.shape[2:] != size:
        source = _fitted(source, wanted)
    repeated = (batch_size or batch, channels)
    return source if source.shape[:2] == repeated else Repeated(source, *repeated)


@dataclass(frozen=True)
class _Wanted:
    """The wanted channels, size and number of spatial axes of an image, if known.

    With ``resize``, an image of another size is resized.
    """

    channels: int
    size: tuple[int, ...] | None
    axes: int | None
    resize: bool

    def refuse_other(self, name: str, own: tuple[int, ...]) -> None:
        """Refuse an image of another size, if it is not to be resized."""
        if self.resize or self.size is None or own == self.size or len(own) != len(self.size):
            return
        shown, wanted = ("x".join(map(str, n)) for n in (own, self.size))
        raise ValueError(
            f"{name} is {shown}, but {wanted} is planned: plan with"
            f" {option('image_size', shown)}, or with {option('resize', True)}, which resizes"
            f" images to {wanted}"
        )

    def layout(self, shape: tuple[int, ...], name: str) -> str:
        """Return the layout of an array without names of axes."""
        space = self.axes or {1: 1, 5: 3}.get(len(shape), 2)
        return layout_of(shape, self.channels, self.size, space, name)


def _opened(image: Any, wanted: _Wanted) -> Source:
    """Return an image as a source of its own shape."""
    if isinstance(image, Source):
        return image
    if isinstance(image, str | Path):
        return _open_path(image, wanted)
    if not is_in_memory(image) and (path := array_folder(image)):
        return _open_path(path, wanted)
    if not is_in_memory(image) and can_be_sliced(image):
        shape = tuple(image.shape)
        return SlicedSource(image, layout=wanted.layout(shape, type(image).__name__))
    array = as_numpy(image)
    return ArraySource(batched(array, wanted.layout(array.shape, "array")))


def _check_channels(source: Source, channels: int) -> None:
    """Refuse an image with another number of channels; a grey one may stand for RGB."""
    name, shape, found = source.name, source.shape, source.shape[1]
    if found == channels or (found, channels) == (1, 3):
        return
    advice = f"convert the image, or take a network of {found}"
    if shape[-1] == channels:
        order = (0, len(shape) - 1, *range(1, len(shape) - 1))
        advice = f"its channels seem to come last: give image.transpose{order}"
    raise ValueError(
        f"{name} of shape {shape} has {found} channels, but {channels} are asked for: {advice}"
    )


def _fitted(source: Source, fit: _Wanted) -> ArraySource:
    """Return an image in memory, resized to the wanted size if that is asked for."""
    assert fit.size is not None, "an image fits any size if none is wanted"
    name, own, size = source.name, source.shape[2:], fit.size
    shown, wanted = ("x".join(map(str, n)) for n in (own, size))
    possible = isinstance(source, ArraySource) and len(own) == len(size)
    if not possible:
        raise ValueError(
            f"{name} is {shown}, but {wanted} is asked for: give"
            f" {option('image_size', shown)}, or resize it once beforehand (only images in memory"
            " are resized here, and to as many axes)"
        )
    fit.refuse_other(name, own)
    assert isinstance(source, ArraySource), "others are refused above"
    return ArraySource(resized(source, size), f"{name} resized from {shown}", source.path)


def _open_path(path: str | Path, wanted: _Wanted) -> Source:
    """Open a sample by its name, or a file by its first bytes."""
    name = Path(path).name
    if isinstance(path, str) and path in samples():
        path = samples()[path]
    elif isinstance(path, str) and not Path(path).exists() and path.isidentifier():
        from skimage import data

        if path in data.__all__:
            raise ValueError(
                f"the sample {path} is not a file inside scikit-image, and nothing is downloaded"
                " here: give the path of an image, or a sample such as retina or astronaut"
            )
    path, level = of_level(path)
    if level is not None:
        name = f"{Path(path).name}@{level}"
    path, dataset = of_dataset(path)
    if is_zarr(path):
        path, space = of_scale(str(path), level), wanted.axes or 0
        layout = zarr_layout(path, wanted.channels, wanted.size, space, name)
        return ZarrSource(str(path), name, layout)
    try:
        path = located(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{hint(path)}") from None
    with reading(path), Path(path).open("rb") as file:
        start = file.read(FIRST_BYTES)
    if dataset and not start.startswith(HDF5):
        raise ValueError(
            f"cannot read {path}:{dataset}: only files of HDF5 have datasets: leave out :{dataset}"
        )
    is_tiff, is_dicom = start.startswith(TIFF), start[128:132] == DICOM and SLIDE not in start
    by_openslide = has_overlaps(path) if is_tiff else path.lower().endswith(SLIDES)
    if by_openslide and not is_dicom:
        return SlideSource(path, name, level or 0)
    if is_tiff:
        return _open_tiff(path, name, wanted, level or 0)
    if level is not None:
        raise ValueError(
            f"cannot read {path}@{level}: only slides and TIFFs have levels: leave out @{level}"
        )
    if start.startswith(HDF5):
        dataset = named_dataset(path, dataset)
        with reading(path), opened_array(path, dataset) as array:
            shape = tuple(array.shape)
        return LibrarySource(path, name, dataset, wanted.layout(shape, name))
    if is_dicom:
        return read_dicom(path, name, wanted.channels, wanted.size, wanted.axes or 2)
    if is_nifti(path, start):
        layout = nifti_layout(path, wanted.channels, wanted.size, wanted.axes, name)
        return LibrarySource(path, name, layout=layout)
    if start.startswith(NPY) or path.lower().endswith(".npy"):
        with reading(path):
            shape = mapped(path, "r").shape
        return FileSource(path, name, wanted.layout(shape, name))
    if start.startswith(ZIP):
        raise ValueError(
            f"cannot read {path}: it is an archive: unpack it, or save an array of an .npz with"
            " numpy.save as an .npy, which is read by region"
        )
    return read_whole(path, name, wanted.channels, partial(wanted.refuse_other, name))


def _open_tiff(path: str, name: str, wanted: _Wanted, level: int) -> Source:
    """Open a TIFF by region; if its colours or its codec do not allow that, whole with Pillow."""
    try:
        return TiffSource(path, name, wanted.channels, wanted.size, wanted.axes or 2, level)
    except NotByRegion as error:
        if level:
            raise
        try:
            refuse = partial(wanted.refuse_other, name)
            with warnings_after_success():  # of damaged tags, by Pillow
                return read_whole(path, name, wanted.channels, refuse)
        except ValueError as whole:
            raise ValueError(f"{error}; Pillow: {whole.__cause__ or whole}") from None
