"""Opens what a user has (an array, a file, a sample's name) as an image source.

>>> source = open_source(None, size=(65536, 65536), channels=3)
>>> source.read(Region(((0, 1), (40000, 40002), (0, 4)))).shape
(1, 3, 2, 4)
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.region import Region, Span, length
from .sources import (
    ArraySource,
    FileSource,
    Repeated,
    Source,
    SyntheticSource,
    as_numpy,
    batched,
    located,
    reading,
)
from .tiff import TiffSource
from .zarr_source import ZarrSource, is_zarr, stored_shape

_ALIASES = {"cat": "chelsea", "clock": "clock_motion", "colorwheel": "color"}
_ALIASES |= {"immunohistochemistry": "ihc", "checkerboard": "chessboard_GRAY"}


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
        scikit-image ("retina", "astronaut", ...).  Pixels are taken as they are stored: a camera's
        note that a picture is to be turned (EXIF) is not followed, as it is not in torchvision.

        An array has as many spatial axes as ``size``; with no ``size`` 1 in a 1-D array, 3 in a 5-D
        one, else 2.  No further axis: grey.  Two: ``(batch, channels, *spatial)``.  One: channels,
        first or last, whichever is 1 or ``channels`` long (or 4, last, where 3 are wanted: alpha is
        dropped); where both are, the one that leaves ``size`` is taken, else it is refused.
    batch_size
        Images in the batch; one image is repeated.  The image's own by default.
    channels
        Channels wanted; a grey image is repeated to them.
    size
        Spatial size wanted.
    seed
        Of the synthetic noise.
    resize
        Whether an image in memory that has another size is resized, and its name says so.  Files
        read by region never are.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such image, it cannot be read, or it does not fit what is asked for.

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
    if isinstance(image, Source):
        source = image
    elif isinstance(image, str | Path):
        source = _open_path(image, channels, size)
    else:
        array = as_numpy(image)
        source = ArraySource(batched(array, _layout(array.shape, channels, size, "array")))
    name, (batch, found, *own) = source.name, source.shape
    if found != channels and (found, channels) != (1, 3):  # grey is shown as RGB
        shape = source.shape
        hint = f"convert the image, or take a network of {found}"
        if shape[-1] == channels:
            order = (0, len(shape) - 1, *range(1, len(shape) - 1))
            hint = f"its channels seem to come last: give image.transpose{order}"
        raise ValueError(
            f"{name} of shape {shape} has {found} channels, but {channels} are asked for: {hint}"
        )
    if batch != 1 and batch_size not in (None, batch):
        raise ValueError(f"{name} holds {batch} images, but the batch size is {batch_size}")
    if size and tuple(own) != size:
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
        source = ArraySource(_resized(source, size), f"{name} resized from {shown}")
    wanted = (batch_size or batch, channels)
    return source if source.shape[:2] == wanted else Repeated(source, *wanted)


def resident(source: Source, folder: str | Path) -> Source:
    """A source that all processes of a host can read by region without each holding the whole.

    An image in memory is written once into ``folder``; the other kinds are returned as they are.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     type(resident(ArraySource(np.zeros((1, 3, 8, 8))), folder)).__name__
    'FileSource'
    """
    if isinstance(source, Repeated):
        return replace(source, source=resident(source.source, folder))
    if not isinstance(source, ArraySource):
        return source
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".npy", delete=False) as file:
        np.save(file, np.ascontiguousarray(source.array))
    return FileSource(file.name, source.name)


def thumbnail(
    source: Source, max_side: int = 1024, window: tuple[Span, Span] | None = None
) -> np.ndarray:
    """Every n-th pixel of the first image, ``(height, width, 3)`` in [0, 1], for pictures.

    Of a volume the middle slice, of a signal one row.  Values outside [0, 1] are rescaled.
    ``window`` picks rows and columns; then each axis has its own n.

    >>> thumbnail(SyntheticSource((1, 1, 3000, 65536)), max_side=256).shape
    (12, 256, 3)
    """
    source = source.source if isinstance(source, Repeated) else source
    height, width = (1, *source.shape[2:])[-2:]
    ahead = [(n // 2, n // 2 + 1) for n in source.shape[2:-2]]
    rows, columns = window or ((0, height), (0, width))
    across, down = (math.ceil(length(span) / max_side) for span in (columns, rows))
    if window is None:
        across = down = max(across, down)
    # a row read of a compressed TIFF decodes a whole row of tiles: take all that one holds at once
    chunk = min(getattr(source, "chunk_rows", 1), max(1, 2**24 // width))
    strips = []
    for _, group in groupby(range(*rows, down), lambda y: y // chunk):
        first, *others = group
        read = [(first, (others or [first])[-1] + 1)] if len(source.shape) > 3 else []
        strip = source.read(Region(((0, 1), *ahead, *read, columns)))
        strips.append(strip.reshape(source.shape[1], -1, length(columns))[:, ::down, ::across])
    picture = np.concatenate(strips, axis=1)
    picture = np.moveaxis(picture[[0, 1, 2] if len(picture) > 2 else [0, 0, 0]], 0, -1)
    low, high = picture.min(), picture.max()
    if low < 0 or high > 1:
        picture = (picture - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.ascontiguousarray(picture)


def _open_path(path: str | Path, channels: int, size: tuple[int, ...] | None) -> Source:
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
        return ZarrSource(path, name, _layout(stored_shape(path), channels, size, name))
    try:
        path = located(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{_hint(path)}") from None
    if path.lower().endswith(".npy"):
        with reading(path):
            shape = np.lib.format.open_memmap(path, "r").shape
        return FileSource(path, name, _layout(shape, channels, size, name))
    if not path.lower().endswith((".tif", ".tiff")):
        return _pillow(path, name, channels)
    try:
        source = TiffSource(path, name)
    except ValueError as error:
        try:
            return _pillow(path, name, channels)
        except ValueError:
            raise error from None
    if source.shape[1] == 1 < min(source.pages, channels):
        raise ValueError(
            f"{name} has {source.pages} grey pages, but {channels} channels are asked for: write"
            " them as the channels of one page (tifffile: planarconfig='separate'), or give an"
            " array"
        )
    return source


def _hint(path: str | Path) -> str:
    """What a name that is no file may have meant."""
    if len(Path(path).parts) != 1:
        return ""
    known = samples()
    near = difflib.get_close_matches(Path(path).stem, known, n=3)
    near = f"did you mean {' or '.join(near)}?" if near else f"they are {', '.join(known)}"
    return f", and no sample of that name: {near}"


_unlimited, _limit = 0, None
_counting = threading.Lock()


@contextmanager
def _any_size() -> Iterator[None]:
    """No limit of Pillow's on pixels: large images are the purpose here.  In any thread at once."""
    from PIL import Image

    global _unlimited, _limit
    with _counting:
        if _unlimited == 0:
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _unlimited += 1
    try:
        yield
    finally:
        with _counting:
            _unlimited -= 1
            if _unlimited == 0:
                Image.MAX_IMAGE_PIXELS = _limit


def _pillow(path: str, name: str, channels: int) -> ArraySource:
    from PIL import Image

    with _any_size(), reading(path), Image.open(path) as image:
        if image.mode not in {"1", "L", "I", "F", "RGB", "RGBA"} and image.mode[:2] != "I;":
            image = image.convert("L" if image.mode in {"LA", "La"} else "RGB")
        array = np.asarray(image)
        if image.mode == "I" and array.min() >= 0 and array.max() < 2**16:
            array = array.astype(np.uint16)  # so Pillow opens some 16-bit formats
    layout = "S" if array.ndim == 2 else "SCA" if array.shape[-1] == 4 != channels else "SC"
    return ArraySource(batched(array, layout), name)


def samples() -> dict[str, Path]:
    """The images that lie inside the installed scikit-image."""
    (package,) = importlib.util.find_spec("skimage").submodule_search_locations
    found = {
        file.stem: file
        for file in sorted(Path(package, "data").iterdir())
        if file.suffix in {".png", ".jpg"}
    }
    return found | {name: found[stem] for name, stem in _ALIASES.items() if stem in found}


def _layout(shape: tuple[int, ...], channels: int, size: tuple[int, ...] | None, name: str) -> str:
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


def _resized(source: ArraySource, size: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    values = source.read(Region.whole((source.shape[0], *source.shape[2:])))
    for axis, n in enumerate(size, start=2):  # a linear antialiased filter is separable
        values = np.moveaxis(values, axis, 0)
        others = values.shape[1:]
        plane = Image.fromarray(np.ascontiguousarray(values).reshape(len(values), -1))
        plane = plane.resize((math.prod(others), n), Image.Resampling.BILINEAR)
        values = np.moveaxis(np.asarray(plane).reshape(n, *others), 0, axis)
    return values
