"""A data set on disk: a folder of images for each class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...errors import DatasetError
from ...ir.option_words import option
from ...ir.region import Region
from ..open import open_source
from ..sources import ArraySource, Source

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


def class_folders(path: str | Path) -> list[Path]:
    """The folder of each class of a data set, in the order of the class numbers.

    Raises
    ------
    DatasetError
        If there is no such data set, or it has no class.
    """
    root = Path(path)
    if not root.is_dir():
        raise DatasetError(
            f"there is no folder {path} ({option('datapath')}): give one with a folder a class"
        )
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise DatasetError(f"{path} has no folders: put the images of each class into one")
    return classes


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
    root, classes = Path(path), class_folders(path)
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
