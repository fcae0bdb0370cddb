"""The network that a job names: built, given weights, and captured, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import nn

from .. import models
from ..capture.export import capture
from ..ir import weights
from ..ir.graph import Graph
from ..rules import registered
from . import checkpoint_io

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Shapes = tuple[tuple[int, ...], ...] | Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """A built-in network, one that a factory makes, or a module.

    Parameters
    ----------
    model
        A built-in name, ``"package.module:factory"``, or an `nn.Module`.
    classes, layers, filters
        Of a built-in one.
    seed
        Of the weights, where there is no checkpoint.

    Examples
    --------
    >>> network = Network("resnet20_v1", 10, 18, 416)
    >>> network.image_channels
    (3, 2)
    """

    model: str | nn.Module
    classes: int
    layers: int
    filters: int
    seed: int = 0

    @property
    def name(self) -> str:
        """The built-in name, the factory, or the class of a module."""
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    @property
    def module_name(self) -> str:
        """The Python module that defines it."""
        if isinstance(self.model, str):
            return self.model.split(":")[0] if ":" in self.model else models.__name__
        return type(self.model).__module__

    @cached_property
    def skeleton(self) -> nn.Module:
        """The network, of which only the shapes are meant: built-in ones hold no weights."""
        if self._built_in:
            with torch.device("meta"):
                return self._build()
        return self._build()

    @property
    def image_channels(self) -> tuple[int, int]:
        """Channels, and the number of spatial axes, that its first convolution takes."""
        first = next((m for m in self.skeleton.modules() if isinstance(m, CONVOLUTIONS)), None)
        return (first.in_channels, len(first.kernel_size)) if first else (3, 2)

    def module(self, dtype: torch.dtype, file: Path | None = None) -> nn.Module:
        """The network with its weights, in evaluation mode; the last one asked for is kept.

        Parameters
        ----------
        dtype
            Floating type of its weights.
        file
            A checkpoint; without one, weights are the module's own, or those of the seed.

        Raises
        ------
        OptionError
            If the checkpoint cannot be read, or is of another network.
        """
        self._notice_changes()
        known, module = self.__dict__.get("_module", (None, None))
        if known != (dtype, file):
            built = self._build if self._built_in else lambda: self.skeleton
            source = self.__dict__.get("_trained") or built()
            module = checkpoint_io.ready(
                source, dtype, file and checkpoint_io.read_checkpoint(file), file
            )
            self.__dict__["_module"] = (dtype, file), module
        return module

    @property
    def trained(self) -> list[str]:
        """Parameters that take part in training, by each name that they have."""
        every = self.skeleton.named_parameters(remove_duplicate=False)
        return [name for name, parameter in every if parameter.requires_grad]

    def keep(self, module: nn.Module, dtype: torch.dtype, file: Path | None) -> None:
        """Have `module` give this one from now on: it has been trained."""
        self.__dict__["_module"], self.__dict__["_trained"] = ((dtype, file), module), module

    def graph(self, shapes: Shapes, dtype: torch.dtype, training: bool = False) -> Graph:
        """The network as operator calls, captured without memory for inputs of such shapes.

        In evaluation mode, or as it is trained.  It is captured once, and again for other shapes,
        another type, or where operators have been given rules since.

        Raises
        ------
        CaptureError
            If that is not possible.
        """
        if self._built_in and isinstance(shapes, tuple):
            # Another object, since the cache shall keep no weights; of those is the seed.
            seedless = replace(self, seed=0)
            return _built_in_graph(seedless, shapes, dtype, training, registered())
        self._notice_changes()
        asked = (shapes, dtype, training, registered())
        known, graph = self.__dict__.get("_graph", (None, None))
        if known != asked:
            graph = capture(self.skeleton, shapes, dtype, training)
            self.__dict__["_graph"] = asked, graph
        return graph

    def _notice_changes(self) -> None:
        """Forget what was made of a module that its owner has changed since: layers or weights."""
        if not isinstance(self.model, nn.Module):
            return
        every = weights.named(self.model).items()
        tensors = [(n, id(t), 0 if t.is_inference() else t._version) for n, t in every]
        flags = [p.requires_grad for p in self.model.parameters()]
        now = (repr(self.model), tensors, flags)
        if self.__dict__.setdefault("_seen", now) != now:
            for made in ("_module", "_trained", "_graph"):
                self.__dict__.pop(made, None)
            self.__dict__["_seen"] = now

    @property
    def _built_in(self) -> bool:
        return isinstance(self.model, str) and ":" not in self.model

    def _build(self) -> nn.Module:
        if isinstance(self.model, nn.Module):
            return self.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if not self._built_in:
                return checkpoint_io.call_factory(self.model)
            return models.build(
                self.model,
                num_classes=self.classes,
                num_layers=self.layers,
                num_filters=self.filters,
            )


@lru_cache(maxsize=8)
def _built_in_graph(
    network: Network, shapes: tuple, dtype: torch.dtype, training: bool, rules: int
) -> Graph:
    """A built-in network is the same whenever it is asked for: once for each set of rules."""
    return capture(network.skeleton, shapes, dtype, training)
