"""A job as a line of the shell, and as Python code."""

from __future__ import annotations

import shlex
from typing import Any

from .job import Job
from .names import other_names

SEPARATORS = {"image_size": "x"}
"""Between the numbers of an option that takes several; a comma where none stands here."""


def command_of(job: Job, verb: str) -> str | None:
    """Return the line of the shell that runs a job; None if its network is no name.

    Parameters
    ----------
    job
        The job.
    verb
        A command, such as ``"infer"``.

    Examples
    --------
    >>> command_of(Job("unet", image_size=(96, 64), tiles=2, halo_D2=True), "infer")
    'python -m spnb infer unet --tiles 2 --halo-D2 --image-size 96x64'
    """
    if not isinstance(job.model, str) or job.input_shapes is not None:
        return None
    words = ["python", "-m", "spnb", verb, job.model]
    for name, value in _given(job).items():
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(_text(name, value))
    return shlex.join(words)


def code_of(job: Job, training: bool = False) -> str:
    """Return the Python code that starts the ranks of a job.

    >>> code_of(Job("unet", image_size=64, tiles=2))
    "spnb.start(spnb.plan(spnb.Job('unet', tiles=2, image_size=64)))"
    """
    model = repr(job.model) if isinstance(job.model, str) else "network"
    given = "".join(f", {name}={value!r}" for name, value in _given(job).items())
    mode = ", training=True" if training else ""
    return f"spnb.start(spnb.plan(spnb.Job({model}{given}){mode}))"


def _given(job: Job) -> dict[str, Any]:
    """The options that differ from their defaults, by their short names."""
    short = {name: other for other, name in other_names().items() if other != "fuse"}
    given = {name: value for name, value in job.given().items() if name != "enable_evaluation"}
    return {short.get(name, name): value for name, value in given.items()}


def _text(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return SEPARATORS.get(name, ",").join(map(str, value))
    return str(value)
