"""CIFAR-10's own files, python or binary."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError
from ...ir.option_words import option
from ..sources import ArraySource


def cifar10(path: str | Path, *, test: bool = False) -> tuple[ArraySource, list[int]]:
    """Return CIFAR-10's images and classes, from its python or its binary files.

    (Krizhevsky, *Learning multiple layers of features from tiny images*, 2009; the files are those
    of ``cifar-10-python.tar.gz`` and ``cifar-10-binary.tar.gz``, unpacked.)

    Parameters
    ----------
    path
        The folder with the files, or the one that they were unpacked in.
    test
        Whether the images of ``test_batch`` are returned, rather than those to train on.

    Raises
    ------
    DatasetError
        If there are no such files, or one is truncated or has other classes than 0 to 9.
    """
    folders = [Path(path), *(Path(path) / f"cifar-10-batches-{kind}" for kind in ("py", "bin"))]
    for folder in folders:
        for suffix, read in (("", _python_batch), (".bin", _binary_batch)):
            stems = ["test_batch"] if test else [f"data_batch_{k}" for k in range(1, 6)]
            names = [folder / f"{stem}{suffix}" for stem in stems]
            if found := [name for name in names if name.is_file()]:
                if missing := set(names[: names.index(found[-1])]) - set(found):
                    raise DatasetError(f"{min(missing)} is missing, but {found[-1].name} is there")
                pixels, labels = zip(*map(read, found), strict=True)
                images = np.concatenate(pixels).reshape(-1, 3, 32, 32)
                return ArraySource(images, "CIFAR-10"), np.concatenate(labels).tolist()
    raise DatasetError(
        f"{path} ({option('datapath')}) has no CIFAR-10 files: unpack cifar-10-python.tar.gz or"
        f" cifar-10-binary.tar.gz there ({'test_batch' if test else 'data_batch_1 …'})"
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
