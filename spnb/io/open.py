"""Opens an array, a file or a sample, whatever a user has, as an image source.

>>> from spnb.ir.region import Region
>>> source = open_source(None, size=(65536, 65536), channels=3)
>>> source.read(Region(((0, 1), (40000, 40002), (0, 4)))).shape
(1, 3, 2, 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import as_numpy, batched
from .files import located, reading
from .pillow import read_whole, resized
from .samples import hint, samples
from .sources import ArraySource, FileSource, Repeated, Source, SyntheticSource
from .tiff import TiffSource
from .zarr_source import ZarrSource, is_zarr, stored_shape


def open_source(
    image: Any,
    *,
    batch_size: int | None = None,
    channels: int = 3,
    size: Sequence[int] | None = None,
    seed: int = 0,
    resize: bool = True,
) -> Source:
    """Open anything that holds an image.

    Parameters
    ----------
    image
        None (synthetic noise), a `Source`, a numpy array or torch tensor, the path of a ``.npy``,
        zarr, TIFF, PNG, JPEG or other file that Pillow reads, or the name of a sample inside
        scikit-image ("retina", "astronaut", ...).  Pixels are taken as they are stored: a
        rotation in the file's EXIF data is ignored, as torchvision does.

        An array has as many spatial axes as ``size``; without ``size``, a 1-D array has 1, a 5-D
        array 3, any other 2.  An array with no further axis is grey.  Two further axes are
        ``(batch, channels, *spatial)``.  One further axis is the channels, first or last: the
        axis that has 1 or ``channels`` elements (or 4, as the last axis, if 3 are wanted: alpha
        is dropped).  If both axes fit, the one that leaves ``size`` is taken; if that does not
        decide, the array is refused.
    batch_size
        Images in the batch; a single image is repeated.  By default, as many as the image has.
    channels
        Channels of the source; a grey image is repeated to 3.
    size
        Spatial size of the source, in pixels.
    seed
        Seed of the synthetic noise.
    resize
        Whether an image in memory that has another size is resized; its name says so.  Files that
        are read by region are never resized.

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
    >>> open_source(np.zeros((97, 131, 3), np.uint8), batch_size=2, size=(48, 64)).shape
    (2, 3, 48, 64)
    """
    size = tuple(size) if size is not None else None
    if image is None:
        if not size:
            raise ValueError("a synthetic image needs a size: pass size=(height, width)")
        return SyntheticSource((batch_size or 1, channels, *size), seed)
    source = _opened(image, channels, size)
    _check_channels(source, channels)
    batch = source.shape[0]
    if batch != 1 and batch_size not in (None, batch):
        raise ValueError(f"{source.name} holds {batch} images, but the batch size is {batch_size}")
    if size and source.shape[2:] != size:
        source = _fitted(source, size, resize)
    wanted = (batch_size or batch, channels)
    return source if source.shape[:2] == wanted else Repeated(source, *wanted)


def _opened(image: Any, channels: int, size: tuple[int, ...] | None) -> Source:
    """Return an image as a source of its own shape."""
    if isinstance(image, Source):
        return image
    if isinstance(image, str | Path):
        return _open_path(image, channels, size)
    array = as_numpy(image)
    return ArraySource(batched(array, _layout(array.shape, channels, size, "array")))


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


def _fitted(source: Source, size: tuple[int, ...], resize: bool) -> ArraySource:
    """Return an image in memory, resized to a size."""
    name, own = source.name, source.shape[2:]
    shown, wanted = ("x".join(map(str, n)) for n in (own, size))
    if not resize:
        raise ValueError(
            f"{name} is {shown}, but {wanted} is planned: plan with image_size={shown!r}, or"
            " resize the image"
        )
    if not isinstance(source, ArraySource) or len(own) != len(size):
        raise ValueError(
            f"{name} is {shown}, but {wanted} is asked for: ask for {shown}, or resize it once"
            " beforehand (only images in memory are resized here, and to as many axes)"
        )
    return ArraySource(resized(source, size), f"{name} resized from {shown}")


def _open_path(path: str | Path, channels: int, size: tuple[int, ...] | None) -> Source:
    """Open a sample by its name, or a file by its format."""
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
    if is_zarr(path):
        return ZarrSource(str(path), name, _layout(stored_shape(path), channels, size, name))
    try:
        path = located(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{hint(path)}") from None
    if path.lower().endswith(".npy"):
        with reading(path):
            shape = np.lib.format.open_memmap(path, "r").shape
        return FileSource(path, name, _layout(shape, channels, size, name))
    if path.lower().endswith((".tif", ".tiff")):
        return _open_tiff(path, name, channels)
    return read_whole(path, name, channels)


def _open_tiff(path: str, name: str, channels: int) -> Source:
    """Open a TIFF by region; Pillow decodes one whole that cannot be read by region."""
    try:
        source = TiffSource(path, name)
    except ValueError as error:
        try:
            return read_whole(path, name, channels)
        except ValueError:
            raise error from None
    if source.shape[1] == 1 < min(source.pages, channels):
        raise ValueError(
            f"{name} has {source.pages} grey pages, but {channels} channels are asked for: write"
            " them as the channels of one page (tifffile: planarconfig='separate'), or give an"
            " array"
        )
    return source


def _layout(shape: tuple[int, ...], channels: int, size: tuple[int, ...] | None, name: str) -> str:
    """Return how the axes of an array lie: see `spnb.io.sources.FileSource`."""
    axes = len(size) if size else {1: 1, 5: 3}.get(len(shape), 2)
    if len(shape) != axes + 1:
        return "S" if len(shape) == axes else "BCS"
    alpha = channels == 3 and shape[-1] == 4
    fits = ["CS"] * (shape[0] in (1, channels))
    fits += ["SC"] * (shape[-1] in (1, channels)) + ["SCA"] * alpha
    if len(fits) == 2:
        fits = [fit for fit in fits if size == (shape[1:] if fit == "CS" else shape[:-1])] or fits
    if len(fits) != 1:
        raise ValueError(
            f"{name} has shape {shape}: {'both' if fits else 'neither'} its first axis"
            f" {'and' if fits else 'nor'} its last may be the {channels} channels asked for:"
            " give it as (batch, channels, *spatial), or ask for the channels that it has"
        )
    return fits[0]
