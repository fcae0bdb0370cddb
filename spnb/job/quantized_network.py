"""A network in int8: rounded once for its weights and its calibration images."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..capture.int8.flow import quantized
from ..errors import OptionError
from ..io.open import open_source
from ..ir.graph import Graph
from ..ir.region import Region
from ..kernels.int8 import has_instructions
from .network import Network, Shapes
from .parsing import GivenArray


class QuantizedNetwork(Network):
    """A network whose values are rounded to 8 bits, in scales that images tell.

    It is rounded when its module or its graph is first read, and again after its weights changed.

    Parameters
    ----------
    network
        The network in fp32.
    calibration
        Images as `spnb.io.open.open_source` takes them, on which the scale of each value is found.
    file
        The file that weights are read from; None for those of the seed, or of the module.
    """

    def __init__(self, network: Network, calibration: Sequence[Any], file: Path | None):
        super().__init__(
            *(network.model, network.classes, network.layers, network.filters),
            *(network.seed, network.method),
        )
        self._exact, self.calibration, self.file = network, tuple(calibration), file
        self._rounded: Network | None = None
        self._source: nn.Module | None = None  # what was rounded: another one after a change

    def is_same_as(self, other: Network) -> bool:
        return (
            super().is_same_as(other)
            and isinstance(other, QuantizedNetwork)
            and (self.calibration, self.file) == (other.calibration, other.file)
        )

    @property
    def floating_types(self) -> frozenset[torch.dtype]:
        return frozenset([torch.float32])

    def module(self, dtype: torch.dtype | None, file: Path | None = None) -> nn.Module:
        """Return the rounded network; its scales and biases are in fp32, whatever ``dtype`` is."""
        return self._current().module(torch.float32)

    def graph(
        self,
        shapes: Shapes,
        dtype: torch.dtype,
        training: bool = False,
        own_types: bool = False,
        own_modes: bool = False,
    ) -> Graph:
        """Return the rounded network as calls of operators; see `Network.graph`."""
        assert not training, "int8 is refused for training"
        return self._current().graph(shapes, torch.float32)

    def structure(self, training: bool = False) -> Hashable:
        """As of any network, and its weights: a plan has the scales that were found with them."""
        self._current()
        return super().structure(training), self._source

    def _current(self) -> Network:
        """The network that was rounded last, or a new one if the weights have changed since."""
        module = self._exact.module(torch.float32, self.file)
        if self._rounded is None or module is not self._source:
            images = [self._image(each) for each in self.calibration]
            found = quantized(module, images, reduced=not has_instructions())
            self._rounded = Network(found, self.classes, self.layers, self.filters, self.seed)
            self._source = module
        return self._rounded

    def _image(self, given: Any) -> torch.Tensor:
        """A calibration image in fp32, read as an image to run on is."""
        channels, axes = self.image_channels
        image = given.array if isinstance(given, GivenArray) else given
        try:
            source = open_source(image, channels=channels, axes=axes)
            whole = Region.whole((source.shape[0], *source.shape[2:]))
            return torch.from_numpy(source.read(whole)).to(torch.float32)
        except (ValueError, OSError) as error:
            raise OptionError(f"calibration image: {error}") from error
