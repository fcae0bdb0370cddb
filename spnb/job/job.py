"""A job: a network, an image size and a split, as a user asks for them.

The module is longer than 300 lines since every public member has an example.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from ..display.cards import Card, Shown
from ..errors import OptionError
from ..ir.graph import Graph
from ..ir.tiling import Tiling
from ..training.recipe import Recipe
from .foreign import opened
from .job_card import job_card
from .names import own_names
from .network import Network
from .options import OptionTable, options_section
from .parsing import INT8
from .precision import DTYPES, widest
from .quantized_network import QuantizedNetwork
from .split import image_extent, shortest_border_grid, stage_tilings
from .validation import check


@dataclass(frozen=True, eq=False, repr=False)
class Job(Shown, OptionTable):
    """A network, an image size and a split: everything that a plan is made from.

    A job starts nothing and holds no weights until `module` is read.  It never changes; `replace`
    makes another one.

    Parameters
    ----------
    model
        A built-in name (``"resnet"``, ``"resnet50"``, ``"amoebanet"``, …), a
        ``"package.module:factory"`` whose callable returns an `nn.Module`, or an `nn.Module`.  Also
        a program of ``torch.export``, the path of its ``.pt2`` file, or TorchScript.
    **options
        Every other parameter is a keyword; the section *Options* below lists them with their
        defaults.  Each has the name of a flag of the command line, in snake case; some have a
        shorter one, too.  ``fuse=2`` is ``halo_D2=True, fused_layers=2``.

    Raises
    ------
    OptionError
        If a value is unknown, out of range, or has no effect beside the others.
    TypeError
        If there is no option of a name.

    Examples
    --------
    >>> job = Job("resnet29_v2", image_size="97x131", num_spatial_parts=6, slice_method="square")
    >>> job.input_shape, job.tilings[0].grid
    ((32, 3, 97, 131), (1, 2, 3))
    >>> Job("unet", image_size=64, tiles=9, stages=3).num_spatial_parts
    9
    """

    _network: Network | None = field(default=None, init=False)

    def __init__(self, model: str | nn.Module, **options: Any):
        super().__init__(model, **own_names(options))

    def __post_init__(self) -> None:
        self._open_foreign()
        if not isinstance(self.model, str | nn.Module):
            is_class = isinstance(self.model, type)
            hint = f": make one, as {self.model.__name__}(…)" if is_class else ""
            raise OptionError(f"model must be a name or an nn.Module, not {self.model!r}{hint}")
        super().__post_init__()
        check(self)

    def _open_foreign(self) -> None:
        """Make a module of a network in another form; it may settle the size of the image."""
        found = opened(self)
        settled = {"model": found.module, **found.options} if found is not None else {}
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def network(self) -> Network:
        """The network: what builds the module, gives it weights and captures its graph.

        Jobs that `replace` made share it as long as they ask for the same network.
        """
        if self._network is None:
            found = Network(
                self.model,
                self.num_classes,
                self.num_layers,
                self.num_filters,
                self.seed,
                self.method,
            )
            if self.precision == INT8:
                found = QuantizedNetwork(found, self.calibration or (), self.weights_file)
            object.__setattr__(self, "_network", found)
            return found
        return self._network

    @property
    def name(self) -> str:
        """The built-in name, the factory, or the class of a module."""
        return self.network.name

    @property
    def module(self) -> nn.Module:
        """The network with its weights, in evaluation mode and in the job's precision.

        Raises
        ------
        WeightsError
            If the checkpoint or the factory cannot be used.

        Examples
        --------
        >>> type(Job("resnet20_v1").module).__name__
        'Sequential'
        """
        return self.network.module(self.weights_dtype, self.weights_file)

    @property
    def graph(self) -> Graph:
        """The network as calls of operators, captured without memory for the job's shapes.

        Raises
        ------
        CaptureError
            If the network cannot be captured.

        Examples
        --------
        >>> Job("resnet20_v1", image_size=65536, batch_size=1).graph.nodes[0].kind
        'conv2d'
        """
        return self.network.graph(self.shapes, self.dtype, own_types=self.weights_dtype is None)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the image.

        It is that of ``precision``, or of the network's weights: the widest, if there are several.
        """
        if self.precision is not None:
            return DTYPES[self.precision]
        return widest(self.network.floating_types)

    @property
    def weights_dtype(self) -> torch.dtype | None:
        """Floating type of the weights; ``None`` if they keep types of their own."""
        if self.precision is None and len(self.network.floating_types) > 1:
            return None
        return self.dtype

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a batch: ``(batch, channels, *spatial)``, spatial sizes in pixels.

        Channels and the number of spatial axes are those of the network's first convolution, or
        of ``input_shapes``.

        Raises
        ------
        OptionError
            If ``image_size`` has another number of axes than the network's images.

        Examples
        --------
        >>> Job("unet", batch_size=2, image_size="96x128").input_shape
        (2, 3, 96, 128)
        """
        if self.input_shapes is not None:
            listed = self.input_shapes
            return next(iter(listed.values() if isinstance(listed, dict) else listed))
        channels, axes = self.network.image_channels
        return (self.batch_size, channels, *image_extent(self, axes, self.name))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...] | dict[str, tuple[int, ...]]:
        """Shape of each input: in the order of the arguments, or by name."""
        return (self.input_shape,) if self.input_shapes is None else self.input_shapes

    @property
    def tilings(self) -> tuple[Tiling, ...]:
        """How each stage cuts ``(batch, *spatial)`` into tiles.

        Raises
        ------
        OptionError
            If the slice method does not fit the image or the number of tiles.

        Examples
        --------
        >>> [tiling.grid for tiling in Job("resnet", split_size=3, spatial_size=2).tilings]
        [(1, 2, 2), (1, 2, 2), (1, 1, 1)]
        """
        return stage_tilings(self, len(self.input_shape) - 2)

    @property
    def patch_grid(self) -> tuple[int, ...]:
        """Grid over space that cuts each tile into patches: the one with the shortest borders."""
        return shortest_border_grid(self.patches, self.input_shape[2:], self.tilings[0].grid[1:])

    @property
    def weights_file(self) -> Path | None:
        """The file that weights are read from: ``checkpoint``, or else ``weights``.

        It is None for weights from the seed, and for the weights of a module.
        """
        file = self.checkpoint or self.weights
        return None if file is None else Path(file)

    @property
    def weights_origin(self) -> str:
        """Where the weights come from, in words: a file, a seed or the module.

        >>> Job("resnet", seed=3).weights_origin
        'seed 3'
        """
        if path := self.weights_file:
            return str(path)
        return f"seed {self.seed}" if isinstance(self.model, str) else "the module's own"

    def recipe(self, loss: str) -> Recipe:
        """Return how to train with a loss.

        Parameters
        ----------
        loss
            Name of a loss: a key of `spnb.training.losses.LOSSES`.

        Returns
        -------
        Recipe
            Loss, optimizer, learning rates and schedule.

        Raises
        ------
        OptionError
            If the loss is unknown.

        Examples
        --------
        >>> Job("resnet", optimizer="sgd").recipe("cross_entropy").optimizer
        'sgd'
        """
        names = [f.name for f in dataclasses.fields(Recipe) if f.name != "loss"]
        return Recipe(loss, **{name: getattr(self, name) for name in names})

    def replace(self, **changes: Any) -> Self:
        """Return the same job with some options changed.

        The network is neither built nor captured again if the change does not touch it: with
        another split, the next plan takes a fraction of a second.

        Parameters
        ----------
        **changes
            Options by name, and ``model``.

        Returns
        -------
        Job
            The other job; this one stays unchanged.

        Raises
        ------
        OptionError
            As `Job` does.

        Examples
        --------
        >>> job = Job("resnet29_v2", image_size=97, batch_size=1)
        >>> job.replace(num_spatial_parts=9)
        Job('resnet29_v2', batch_size=1, num_spatial_parts=9, image_size=97)
        """
        model = {"model": changes.pop("model")} if "model" in changes else {}
        job = dataclasses.replace(self, **model, **own_names(changes))
        if job.network.is_same_as(self.network):
            object.__setattr__(job, "_network", self.network)
        return job

    @property
    def card(self) -> Card:
        """The network, its input and the split, and every option that was given."""
        return job_card(self)

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.given().items())
        return f"Job({self.name!r}{given})"


def job_of(network: Job | str | nn.Module, **options: Any) -> Job:
    """Return the job of a network and of options; of a job, the one with these changed.

    >>> job_of("unet", tiles=2)
    Job('unet', num_spatial_parts=2)
    """
    return network.replace(**options) if isinstance(network, Job) else Job(network, **options)


# Completion and help show every option, which `__init__` takes as they are.
Job.__init__.__signature__ = inspect.signature(OptionTable.__init__)  # type: ignore[attr-defined]
Job.__doc__ = (Job.__doc__ or "") + options_section()
