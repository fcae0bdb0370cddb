"""The network that a job names: built once, given weights once, captured once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from .. import models
from ..capture.export import capture
from ..ir import weights
from ..ir.graph import Graph
from ..ir.module_state import hash_of, modes_of, structure_of
from ..rules import registered
from . import checkpoint_io
from .foreign import IMAGE_CHANNELS
from .methods import (
    FORWARD,
    Convolution,
    first_called,
    refuse_lazy,
    refuse_scripted_layers,
    with_method,
)

Shapes = tuple[tuple[int, ...], ...] | Mapping[str, tuple[int, ...]]

Family = tuple[tuple[str, int, int, int], torch.dtype]
"""Name and sizes of a built-in network, and the default type of its weights."""


class Network:
    """A built-in network, one that a factory makes, or a module.

    What takes time is done once and stored: the module without weights, the module with weights,
    and the graph.  If the owner of a module changes it, what was made from it is dropped.

    Parameters
    ----------
    model
        A built-in name, ``"package.module:factory"``, or an `nn.Module`.
    classes, layers, filters
        Sizes of a built-in network.
    seed
        Seed of the weights, if there is no checkpoint.
    method
        Method that is run, of a network that is not built in.

    Examples
    --------
    >>> network = Network("resnet20_v1", 10, 18, 416)
    >>> network.image_channels
    (3, 2)
    """

    def __init__(
        self,
        model: str | nn.Module,
        classes: int,
        layers: int,
        filters: int,
        seed: int = 0,
        method: str = FORWARD,
    ):
        self.model, self.method = model, method
        self.classes, self.layers, self.filters, self.seed = classes, layers, filters, seed
        self._skeleton: nn.Module | None = None
        self._module: nn.Module | None = None
        self._module_key: tuple[Hashable, ...] | None = None
        self._graph: Graph | None = None
        self._graph_key: tuple[Hashable, ...] | None = None
        self._state: tuple[Hashable, int] | None = None  # structure and weights, when last looked
        self._default_dtype = torch.get_default_dtype()

    def is_same_as(self, other: Network) -> bool:
        """Whether another network is built from the same model, sizes and seed."""
        if type(self) is not type(other):
            return False
        sizes = (self.classes, self.layers, self.filters, self.seed, self.method)
        return self.model == other.model and sizes == (
            other.classes,
            other.layers,
            other.filters,
            other.seed,
            other.method,
        )

    @property
    def name(self) -> str:
        """The built-in name, the factory, or the class of a module."""
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    @property
    def module_name(self) -> str:
        """The Python module that defines the network."""
        if isinstance(self.model, str):
            return self.model.split(":")[0] if ":" in self.model else models.__name__
        return type(self.model).__module__

    @property
    def skeleton(self) -> nn.Module:
        """The network for its shapes alone: a built-in one is made on the meta device."""
        if self._skeleton is None:
            self._skeleton = _built_in_skeleton(*self._family) if self._built_in else self._build()
        return self._skeleton

    @property
    def image_channels(self) -> tuple[int, int]:
        """Channels, and the number of spatial axes, that its first convolution takes."""
        stated = getattr(self.skeleton, IMAGE_CHANNELS, None)
        if isinstance(stated, tuple):  # by a module that was made from a program
            return stated
        first = next((m for m in self.skeleton.modules() if isinstance(m, Convolution)), None)
        if self.method != FORWARD:
            first = first_called(self.skeleton) or first
        return (first.in_channels, len(first.kernel_size)) if first else (3, 2)

    @property
    def floating_types(self) -> frozenset[torch.dtype]:
        """The floating types of its weights; without any, PyTorch's default."""
        if self._built_in:
            return frozenset([self._default_dtype])
        every = weights.named(self.skeleton).values()
        found = frozenset(tensor.dtype for tensor in every if tensor.is_floating_point())
        return found or frozenset([self._default_dtype])

    def module(self, dtype: torch.dtype | None, file: Path | None = None) -> nn.Module:
        """Return the network with its weights, in evaluation mode.

        The module that was returned last is stored, and returned again for the same arguments.

        Parameters
        ----------
        dtype
            Floating type of its weights; ``None`` for their own types.
        file
            A checkpoint.  Without one, the weights are those of the module, or of the seed.

        Raises
        ------
        WeightsError
            If the checkpoint cannot be read, or is of another network.
        """
        self._drop_if_changed()
        key = (dtype, file, _version(file))
        if self._module is None or self._module_key != key:
            source = self._build() if self._built_in else self.skeleton
            state = None if file is None else checkpoint_io.read_checkpoint(file)
            self._module = checkpoint_io.ready(source, dtype, state, file)
            self._module_key = key
        return self._module

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that take part in training; a shared one has several names."""
        every = self.skeleton.named_parameters(remove_duplicate=False)
        return [name for name, parameter in every if parameter.requires_grad]

    def graph(
        self,
        shapes: Shapes,
        dtype: torch.dtype,
        training: bool = False,
        own_types: bool = False,
        own_modes: bool = False,
    ) -> Graph:
        """Return the network as calls of operators, captured without memory for its inputs.

        It is captured once, and again for other shapes, for another type, or if operators were
        given rules since.

        Parameters
        ----------
        shapes
            Shape of each input, ``(batch, channels, *spatial)``.
        dtype
            Floating type of the inputs, and of the weights.
        training
            Whether the network is captured as it is trained, or in evaluation mode.
        own_types
            Whether the weights have their own types instead.
        own_modes
            In training, whether each layer of a module is in its own mode.

        Raises
        ------
        CaptureError
            If the network cannot be captured.
        """
        if self._built_in and isinstance(shapes, tuple):
            return _built_in_graph(self._family, shapes, dtype, training, registered())
        self._drop_if_changed()
        modes = modes_of(self.skeleton, own_modes) if training else None
        key = (shapes, dtype, modes, own_types, registered(), torch.get_default_dtype())
        if self._graph is None or self._graph_key != key:
            self._graph = capture(self.skeleton, shapes, dtype, training, own_types, own_modes)
            self._graph_key = key
        return self._graph

    def structure(self, training: bool = False) -> Hashable:
        """The layers of a module and their settings now; in training, also their modes.

        See `spnb.ir.module_state.structure_of`.
        """
        if not isinstance(self.model, nn.Module):
            return None
        return structure_of(self.model), modes_of(self.model) if training else None

    def _drop_if_changed(self) -> None:
        """Drop what was made from a module whose layers or weights its owner has changed."""
        if not isinstance(self.model, nn.Module):
            return
        state = (self.structure(), hash_of(weights.named(self.model).values()))
        if self._state is not None and self._state != state:
            self._module = self._graph = None
        self._state = state

    @property
    def _built_in(self) -> bool:
        return isinstance(self.model, str) and ":" not in self.model

    @property
    def _family(self) -> Family:
        return (
            (self.name, self.classes, self.layers, self.filters),
            torch.get_default_dtype(),
        )

    def _entered(self, module: nn.Module) -> nn.Module:
        """The module, with the method that is run as its forward."""
        refuse_lazy(module)
        refuse_scripted_layers(module)
        return module if self.method == FORWARD else with_method(module, self.method)

    def _build(self) -> nn.Module:
        if isinstance(self.model, nn.Module):
            return self._entered(self.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if not self._built_in:
                return self._entered(checkpoint_io.call_factory(self.model))
            return models.build(
                self.model,
                num_classes=self.classes,
                num_layers=self.layers,
                num_filters=self.filters,
            )


def _version(file: Path | None) -> tuple[int, int] | None:
    """What changes when a file is written again; None where there is no such file."""
    if file is None or not file.exists():
        return None
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _built_in_skeleton(sizes: tuple[str, int, int, int], default_dtype: torch.dtype) -> nn.Module:
    """Build a built-in network without memory, once for all jobs that name it."""
    name, classes, layers, filters = sizes
    with torch.device("meta"):
        return models.build(name, num_classes=classes, num_layers=layers, num_filters=filters)


@lru_cache(maxsize=8)
def _built_in_graph(
    family: Family,
    shapes: tuple[tuple[int, ...], ...],
    dtype: torch.dtype,
    training: bool,
    rules: int,
) -> Graph:
    """Capture a built-in network, once for each number of ``rules``.

    The seed is no argument, since it changes weights and no shapes.
    """
    return capture(_built_in_skeleton(*family), shapes, dtype, training)
