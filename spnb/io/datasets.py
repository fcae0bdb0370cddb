"""Datasets on disk: a folder of images for each class, and CIFAR-10's own files."""

from __future__ import annotations

import io
import math
import os
import pickle
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from ..ir.region import Region
from .open import open_source
from .sources import ArraySource, FileSource, Source

NAMED_ONLY = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow cannot read, although it knows their suffixes."""


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of files that hold an image.

    >>> {".png", ".jp2", ".npy"} <= suffixes()
    True
    """
    from PIL import Image

    known = Image.registered_extensions()  # makes Pillow load every reader
    read = {end for end, kind in known.items() if kind in Image.OPEN and kind not in NAMED_ONLY}
    return frozenset({*read, ".npy"})


@dataclass(frozen=True)
class Pictures:
    """Image files as one source; each is opened when it is read.

    A TIFF of the wanted size is decoded by region; other files are decoded whole.

    Attributes
    ----------
    paths
        The files.
    channels, size
        Channels and size of each image; a grey image may stand for RGB.
    name
        Name of the images, for messages.
    resize
        Whether images of another size are resized; else they are refused.
    """

    paths: tuple[str, ...]
    channels: int
    size: tuple[int, ...]
    name: str = "pictures"
    resize: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """``(images, channels, *spatial)``."""
        return (len(self.paths), self.channels, *self.size)

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `spnb.io.sources.Source`."""
        one = Region(((0, 1), *region.spans[1:]))
        return np.concatenate(
            [self.opened(p).read(one) for p in self.paths[slice(*region.spans[0])]]
        )

    def opened(self, path: str) -> Source:
        """Open one of the files, in the common size.

        Raises
        ------
        DatasetError
            If it cannot be read, or does not fit.
        """
        try:
            source = open_source(path, batch_size=1, channels=self.channels, axes=len(self.size))
            if source.shape[2:] == self.size:
                return source
            whole = Region.whole((1, *source.shape[2:]))
            held = ArraySource(source.read(whole), source.name)
            return open_source(held, channels=self.channels, size=self.size, resize=self.resize)
        except (OSError, ValueError) as error:
            text = str(error)
            raise DatasetError(text if path in text else f"{path}: {text}") from None


@dataclass(frozen=True, eq=False)
class Scaled:
    """Images that are resized one by one when they are read."""

    source: Source
    size: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the images."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """``(images, channels, *spatial)``."""
        return (*self.source.shape[:2], *self.size)

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `spnb.io.sources.Source`."""
        one, space = Region(((0, 1), *region.spans[1:])), Region.whole(self.source.shape[2:]).spans
        found = []
        for k in range(*region.spans[0]):
            array = self.source.read(Region(((k, k + 1), *space)))
            resized = open_source(array, channels=self.shape[1], size=self.size, resize=True)
            found.append(resized.read(one))
        return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Normalized:
    """Images with a mean subtracted, and divided by a standard deviation, channel by channel.

    Attributes
    ----------
    source
        The images.
    mean, std
        One number for all channels, or one for each.
    """

    source: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.shape[1]):
                raise DatasetError(
                    f"normalize has a {name} of {len(numbers)} numbers, but images have"
                    f" {self.shape[1]} channels: give one number, or one for each channel"
                )

    @property
    def name(self) -> str:
        """Name of the images."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """``(images, channels, *spatial)``."""
        return self.source.shape

    def read(self, region: Region) -> np.ndarray:
        """Read a region; see `spnb.io.sources.Source`."""
        space = (1,) * (len(self.shape) - 2)
        mean, std = (np.array(n, np.float32).reshape(-1, *space) for n in (self.mean, self.std))
        return (self.source.read(region) - mean) / std


def decoded(source: Source) -> Source:
    """Return the same images, decoded and resized once, in a file that ranks read by region.

    All images are decoded now, so that one that is damaged is found before a run.  If the file
    would fill more than half of the free disk, there is none, and images are decoded whenever they
    are read.

    Parameters
    ----------
    source
        Images that are decoded or resized one by one.

    Returns
    -------
    Source
        The file, which is removed with it; or the source itself.

    Raises
    ------
    DatasetError
        Naming an image that cannot be read.
    """
    folder = Path(tempfile.mkdtemp(prefix="spnb-images-"))
    remove = weakref.finalize(source, shutil.rmtree, folder, ignore_errors=True)
    size = math.prod(source.shape) * np.dtype(np.float32).itemsize
    fits = size < shutil.disk_usage(folder).free // 2
    path = folder / "images.npy"
    held = np.lib.format.open_memmap(path, "w+", np.float32, source.shape) if fits else None

    def decode(number: int) -> None:
        spans = ((number, number + 1), *Region.whole(source.shape[2:]).spans)
        image = source.read(Region(spans))
        if held is not None:
            held[number] = image[0]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode, range(source.shape[0])):
            pass  # raises the first error
    if held is None:
        return source
    remove.detach()
    file = FileSource(str(path), source.name)
    weakref.finalize(file, shutil.rmtree, folder, ignore_errors=True)
    return file


def image_folder(
    path: str | Path, channels: int, size: Sequence[int], *, resize: bool = False
) -> tuple[Pictures, list[int]]:
    """Return the images of a folder that has a folder for each class, and their class numbers.

    Classes are numbered in the order of their folders' names, as torchvision's ImageFolder does.
    Files and folders whose names begin with a dot are ignored; other files that are no images are
    left out with a warning.

    Parameters
    ----------
    path
        The folder.
    channels, size
        Channels and size of each image.
    resize
        Whether images of another size are resized; else they are refused.

    Raises
    ------
    DatasetError
        If there is no such folder, no class, or a class without images.
    """
    root = Path(path)
    if not root.is_dir():
        raise DatasetError(
            f"there is no folder {path} (--datapath): give one with a folder a class"
        )
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DatasetError(f"{path} has no folders: put the images of each class into one")
    paths, labels, others = [], [], []
    for number, folder in enumerate(classes):
        files = [p for p in folder.rglob("*") if p.is_file() and not _hidden(p, folder)]
        found = sorted(p for p in files if p.suffix.lower() in suffixes())
        others += sorted(set(files) - set(found))
        if not found:
            raise DatasetError(
                f"{folder} holds no image: of its {len(files)} files none ends like one (.png,"
                " .jpg, .tif, .npy, …); fill or remove it"
            )
        paths += [str(p.absolute()) for p in found]
        labels += [number] * len(found)
    if others:
        first = others[0].relative_to(root)
        text = f"{path}: {len(others)} files beside {len(paths)} images are left out, as {first}"
        warnings.warn(text, stacklevel=2)
    return Pictures(tuple(paths), channels, tuple(size), root.name, resize), labels


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def cifar10(path: str | Path) -> tuple[ArraySource, list[int]]:
    """Return CIFAR-10's training images and classes, from its python or its binary files.

    (Krizhevsky, *Learning multiple layers of features from tiny images*, 2009; the files are those
    of ``cifar-10-python.tar.gz`` and ``cifar-10-binary.tar.gz``, unpacked.)

    Raises
    ------
    DatasetError
        If there are no such files, or one is truncated or has other classes than 0 to 9.
    """
    folders = [Path(path), *(Path(path) / f"cifar-10-batches-{kind}" for kind in ("py", "bin"))]
    for folder in folders:
        for suffix, read in (("", _python_batch), (".bin", _binary_batch)):
            names = [folder / f"data_batch_{k}{suffix}" for k in range(1, 6)]
            if found := [name for name in names if name.is_file()]:
                if missing := set(names[: names.index(found[-1])]) - set(found):
                    raise DatasetError(f"{min(missing)} is missing, but {found[-1].name} is there")
                pixels, labels = zip(*map(read, found), strict=True)
                images = np.concatenate(pixels).reshape(-1, 3, 32, 32)
                return ArraySource(images, "CIFAR-10"), np.concatenate(labels).tolist()
    raise DatasetError(
        f"{path} (--datapath) has no CIFAR-10 files: unpack cifar-10-python.tar.gz or"
        " cifar-10-binary.tar.gz there (data_batch_1 …)"
    )


def _python_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _Plain(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = batch[b"data"], np.asarray(batch[b"labels"])
    except Exception as error:
        raise DatasetError(f"{path} is no CIFAR-10 batch, or truncated: {error}") from None
    return _checked(path, pixels, labels)


def _binary_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = np.fromfile(path, np.uint8)
    if data.size % 3073:
        raise DatasetError(f"{path} has {data.size} bytes, but an image has 3073: it is truncated")
    rows = data.reshape(-1, 3073)
    return _checked(path, rows[:, 1:], rows[:, 0])


def _checked(path: Path, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape = getattr(pixels, "shape", type(pixels).__name__)
    if shape != (len(labels), 3072) or labels.ndim != 1 or not len(labels):
        raise DatasetError(
            f"{path} has pixels of {shape} and labels of {labels.shape}: a batch has (images, 3072)"
            " and (images,)"
        )
    wrong = labels if labels.dtype.kind not in "iu" else labels[(labels < 0) | (labels > 9)]
    if len(wrong):
        raise DatasetError(f"{path} has the label {wrong[0]}, but CIFAR-10 has 0 to 9")
    return pixels, labels


PLAIN = {"_reconstruct", "ndarray", "dtype", "encode", "scalar", "_frombuffer"}
"""Names that the pickle of an array needs."""


class _Plain(pickle.Unpickler):
    """Loads arrays and Python's plain types, and runs no code of the file."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in PLAIN:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
