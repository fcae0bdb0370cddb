"""Makes the job that a line asks for, of the shell or of a magic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..io.open import open_source
from ..job.job import Job


def job_of(model: str | nn.Module, given: dict[str, Any], images: Sequence[Any] = ()) -> Job:
    """Return the job of a line; its image sets the sizes that the line does not give.

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
    given = dict(given)
    if images and "input_shapes" not in given:
        given.setdefault("batch_size", 1)
    job = Job(model, **given)
    if images and not {"image_size", "input_shapes"} & given.keys():
        size = open_source(images[0], channels=job.input_shape[1]).shape[2:]
        job = job.replace(image_size=size)
    return job
