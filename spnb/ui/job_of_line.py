"""Makes the job that a line asks for, of the shell or of a magic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..io.open import open_source
from ..job.job import Job
from ..job.options import LeftOut


def job_of(model: str | nn.Module, given: dict[str, Any], images: Sequence[Any] = ()) -> Job:
    """Return the job of a line; its image sets size and batch that the line does not give.

    Parameters
    ----------
    model
        As of `Job`.
    given
        Options by name.
    images
        Images of the line, the first one for the first input; anything that
        `spnb.io.open.open_source` takes.

    Raises
    ------
    OptionError
        If options are refused.
    ValueError, FileNotFoundError
        If the image cannot be read.
    """
    job = Job(model, **given)
    if not images or "input_shapes" in given or {"image_size", "batch_size"} <= given.keys():
        return job
    _, channels, *size = job.input_shape
    wanted = size if "image_size" in given else None
    source = open_source(images[0], channels=channels, axes=len(size), size=wanted, resize=True)
    found = {"batch_size": LeftOut(source.shape[0]), "image_size": source.shape[2:]}
    return job.replace(**{name: value for name, value in found.items() if name not in given})
