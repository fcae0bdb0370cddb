"""Makes the job that a line asks for, of the shell or of a magic, or that `spnb.run` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..io.open import open_source
from ..job.job import Job, job_of
from ..job.names import own_names
from ..job.options import LeftOut
from . import flags


def job_of_images(
    model: Job | str | nn.Module, given: Mapping[str, Any], images: Sequence[Any] = ()
) -> Job:
    """Return the job of a line; its image sets size and batch that are not given.

    Parameters
    ----------
    model
        As of `Job`; or a job, of which some options are changed.
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
    job = job_of(model, **given)
    given = job.given() | own_names(given)
    if not images or "input_shapes" in given or {"image_size", "batch_size"} <= given.keys():
        return job
    _, channels, *size = job.input_shape
    wanted = size if "image_size" in given else None
    resize = given.get("resize", False)  # an image that will be refused is not decoded
    source = open_source(images[0], channels=channels, axes=len(size), size=wanted, resize=resize)
    found = {"batch_size": LeftOut(source.shape[0]), "image_size": source.shape[2:]}
    return job.replace(**{name: value for name, value in found.items() if name not in given})


def job_of_args(args: argparse.Namespace) -> Job:
    """Return the job of a parsed line of the shell; a flag without effect is said.

    Parameters
    ----------
    args
        The result of the parser of `spnb.ui.cli`.

    Raises
    ------
    OptionError, ValueError, FileNotFoundError
        As `job_of_images` does.
    """
    given, useless = flags.effective(args.model, flags.given(args))
    for line in useless:
        print(f"spnb: {line}", file=sys.stderr, flush=True)
    training = getattr(args, "training", False)
    flags.refuse_useless(args.verb, given, training=training)
    job = job_of_images(args.model, given, getattr(args, "image", None) or ())
    is_inference = args.verb not in ("plan", "train") and not training
    return job.replace(enable_evaluation=True) if is_inference else job
