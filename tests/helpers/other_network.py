"""A network of another package, and how it is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from torch import nn


@dataclass(frozen=True)
class Other:
    """A network of another package, and how it is tried.

    Attributes
    ----------
    make
        Builds it, small.
    size
        Of the image.
    gather
        Whether it must be allowed to gather.
    channels
        Of the image, where its first layer does not tell.
    further_inputs
        Shapes of the inputs beside the image: the time step of a diffusion model, a text.
    """

    package: str
    name: str
    make: Callable[[], nn.Module]
    size: tuple[int, ...]
    gather: bool = False
    channels: int = 3
    further_inputs: tuple[tuple[int, ...], ...] = ()

    @property
    def installed(self) -> bool:
        """Whether the package is there; those of tests/networks.txt may be absent."""
        return self.package == "MONAI" or find_spec(self.package) is not None
