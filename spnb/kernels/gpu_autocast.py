"""Regions of ``torch.autocast("cuda")``, recorded on machines without a GPU as well."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SWITCH = "amp_definitely_not_available"

_PATCHING = threading.Lock()


@contextmanager
def gpu_autocast_recorded() -> Iterator[None]:
    """Have ``torch.autocast("cuda")`` stay switched on in a ``with`` block.

    Without a GPU, PyTorch switches such a region off when it is made, and warns.  So a network that
    is captured there for ranks with GPUs would lack it.  A PyTorch without the function that is
    replaced here switches it off as before.

    Examples
    --------
    >>> with gpu_autocast_recorded():
    ...     region = torch.autocast("cuda", torch.bfloat16)
    """
    common = getattr(torch.cuda.amp, "common", None)
    if torch.cuda.is_available() or not hasattr(common, _SWITCH):
        yield
        return
    replaced = [(common, _SWITCH, lambda: False)]
    replaced.append((torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True))
    with _PATCHING:
        originals = [getattr(owner, name) for owner, name, _ in replaced]
        for owner, name, other in replaced:
            setattr(owner, name, other)
        try:
            yield
        finally:
            for (owner, name, _), original in zip(replaced, originals, strict=True):
                setattr(owner, name, original)
