"""The one table of options: the dataclass `Job`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from ..display.cards import Card, Shown, Table
from ..errors import OptionError
from ..ir.graph import Graph
from ..ir.region import Tiling, grid_of, grids_of
from ..ir.replicas import Replicas
from ..training.recipe import OPTIMIZERS, Recipe
from . import checkpoint_io
from .network import Network
from .parsing import PRECISIONS, blocks_fused, one_or_more, precision, shapes, taken, whole_numbers
from .validation import check


def _option(default: Any, text: str, read: Any = int, metavar: str | None = None) -> Any:
    return field(default=default, metadata={"help": text, "read": read, "metavar": metavar})


@dataclass(frozen=True, eq=False, repr=False)
class Job(Shown):
    """A network, an image size and a split.

    Parameters
    ----------
    model
        A built-in name (``"resnet"``, ``"resnet50"``, ``"amoebanet"``, …), a
        ``"package.module:factory"`` whose callable returns an `nn.Module`, or an `nn.Module`.
    options
        All others are keywords, listed below; the names are those of the shell's flags in snake
        case.  Channels are those of the network's first convolution, or of ``input_shapes``.

    Raises
    ------
    OptionError
        If a value is unknown, out of range, or without effect together with the others.

    Examples
    --------
    >>> job = Job("resnet29_v2", image_size="97x131", num_spatial_parts=6, slice_method="square")
    >>> job.input_shape, job.tilings[0].grid
    ((32, 3, 97, 131), (1, 2, 3))
    """

    model: str | nn.Module
    batch_size: int = _option(32, "images per step")
    parts: int = _option(1, "micro-batches per batch")
    split_size: int = _option(2, "stages")
    num_spatial_parts: int | tuple[int, ...] = _option(
        4, "tiles of each tiled stage: one number for all, or a list as 4,2", one_or_more, "N[,N]"
    )
    spatial_size: int = _option(1, "how many leading stages are tiled")
    slice_method: str = _option(
        "square",
        "square, vertical (cuts the width), horizontal (cuts the height), or a grid as 2x3",
        str,
    )
    halo_D2: bool = _option(False, "one halo exchange for several blocks", bool)
    fused_layers: int | str = _option(
        1, "with --halo-D2: blocks that share an exchange, or all", blocks_fused, "N"
    )
    patches: int = _option(
        1,
        "parts of each tile, computed one after the other in the memory of one; with one tiled"
        " stage and --halo-D2 --fused-layers all",
    )
    balance: tuple[int, ...] | None = _option(
        None, "blocks in each stage, as 30,9 (default: even by cost)", whole_numbers, "N,N"
    )
    allow_gather: bool = _option(
        False, "let tiles gather whole values where an operator looks at all of one", bool
    )
    local_DP: int = _option(1, "ranks of each untiled stage, sharing the batch")
    enable_evaluation: bool = _option(False, "inference (the infer verb sets it)", bool)
    image_size: int | tuple[int, ...] = _option(
        32, "1024, or height x width as 1411x1411", lambda t: one_or_more(t, "x"), "N[xN]"
    )
    input_shapes: tuple | dict | None = _option(  # noqa: RUF009 - a field, as the others
        None,
        "of a network with several inputs, batch and channels included, as 1x3x64x64,1x3x64x64;"
        " the first is the image (default: one image)",
        shapes,
        "SHAPE[,SHAPE]",
    )
    num_layers: int = _option(18, "layers of AmoebaNet-D")
    num_filters: int = _option(416, "filters of AmoebaNet-D")
    num_classes: int = _option(10, "classes of a built-in network")
    backend: str = _option(
        "mpi", "what carries tensors between ranks: mpi, gloo, or nccl (between GPUs)", str
    )
    device: str | None = _option(
        None,
        "where ranks compute: cpu or cuda, each host's GPUs dealt to its ranks in turn (default:"
        " cuda with nccl, else cpu)",
        str,
    )
    precision: str = _option("fp32", "fp32, fp64, fp16 or bf16 (also fp_16, bfp_16, …)", str)
    checkpoint: str | None = _option(
        None,
        "weights to read, and what training writes and goes on from (default: ./checkpoint.pth"
        " where it exists)",
        str,
        "FILE",
    )
    app: int = _option(
        3,
        "training: 1 an image folder with a folder for each class, 2 CIFAR-10's own files, 3"
        " synthetic",
    )
    datapath: str = _option("./train", "training: where app 1 or 2 is", str, "DIR")
    num_workers: int = _option(0, "training: threads of each rank that read ahead")
    num_epochs: int = _option(1, "training: how often all examples are taken")
    optimizer: str = _option("adam", f"training: {', '.join(OPTIMIZERS)}", str)
    learning_rate: float = _option(0.001, "training: of the first epoch", float)
    weight_decay: float = _option(0.0001, "training: of the optimizer", float)
    learning_rate_decay: float = _option(
        0.85, "training: factor on the learning rate after each epoch", float
    )
    schedule: str = _option(
        "1f1b",
        "training: 1f1b (a micro-batch goes back as soon as it can) or gpipe (all go forward"
        " first)",
        str,
    )
    recompute: bool = _option(
        False,
        "training: compute values anew on the way back, in place of holding them: less memory, a"
        " third more work",
        bool,
    )
    replicas: int = _option(
        1,
        "copies of the whole plan, which share the batch (default in training under mpiexec: as"
        " many as its ranks are enough for)",
    )
    gems: bool = _option(
        False,
        "each rank is also in a mirrored copy of the plan; the two take turns in training",
        bool,
    )
    times: int = _option(1, "with --gems: turns of each of the two in a batch")
    enable_master_comm_opt: bool = _option(
        False,
        "training with --gems: swap gradients with the mirror rank while others compute, not at"
        " the end",
        bool,
    )
    seed: int = _option(0, "of the weights where there is no checkpoint, and of synthetic images")
    verbose: bool = _option(False, "print per-rank figures", bool)

    def __post_init__(self):
        if not isinstance(self.model, str | nn.Module):
            named = isinstance(self.model, type)
            made = f": make one, as {self.model.__name__}(…)" if named else ""
            raise OptionError(f"model must be a name or an nn.Module, not {self.model!r}{made}")
        for option in options():
            given, read = getattr(self, option.name), option.metadata["read"]
            object.__setattr__(self, option.name, taken(option.name, given, read, option.default))
        counts = ("batch_size", "parts", "split_size", "patches", "local_DP", "replicas", "times")
        for name in (*counts, "num_layers", "num_filters", "num_classes"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 <= self.seed < 1 << 63:
            raise OptionError(f"seed is {self.seed}, but must be 0 or more, and less than 2**63")
        object.__setattr__(self, "precision", precision(self.precision))
        self._take_input_shapes()
        check(self)

    def _take_input_shapes(self) -> None:
        """Batch and image size are those of the first input, where shapes are given."""
        if self.input_shapes is None:
            return
        listed = self.input_shapes
        every = list(listed.values() if isinstance(listed, dict) else listed)
        if not every or len(every[0]) < 3 or min(min(shape, default=0) for shape in every) < 1:
            raise OptionError(
                f"input_shapes {listed} must begin with (batch, channels, *spatial), and all"
                " numbers must be at least 1"
            )
        batch, _, *size = every[0]
        size = tuple(size) if len(size) > 1 else size[0]
        for name, value in (("batch_size", batch), ("image_size", size)):
            given = getattr(self, name)
            if given not in (_field(name).default, value):
                raise OptionError(f"{name} is {given}, but input_shapes say {value}: leave it out")
            object.__setattr__(self, name, value)

    def recipe(self, loss: str) -> Recipe:
        """How to train with a loss."""
        names = [f.name for f in dataclasses.fields(Recipe) if f.name != "loss"]
        return Recipe(loss, **{name: getattr(self, name) for name in names})

    # --- what the options mean --------------------------------------------------------------

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step, those of all copies of the plan."""
        return Replicas(1, self.parts, self.replicas, self.gems and self.times).num_micro_batches

    @property
    def device_kind(self) -> str:
        """Where ranks compute, one of `spnb.kernels.devices.DEVICES`."""
        return self.device or ("cuda" if self.backend == "nccl" else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of weights and activations."""
        return PRECISIONS[self.precision]

    @property
    def fused(self) -> int:
        """Consecutive blocks that share an exchange; 0 for an exchange before each window op."""
        if not self.halo_D2:
            return 0
        return 1 << 30 if self.fused_layers == "all" else int(self.fused_layers)

    @cached_property
    def network(self) -> Network:
        """The network itself, which jobs that differ in the split share."""
        return Network(
            self.model, self.num_classes, self.num_layers, self.num_filters, seed=self.seed
        )

    @property
    def module(self) -> nn.Module:
        """The network with its weights, in evaluation mode and in the job's precision."""
        return self.network.module(self.dtype, self.weights_file)

    @property
    def graph(self) -> Graph:
        """The network as operator calls, captured without memory for the job's shape and type.

        Raises
        ------
        CaptureError
            If that is not possible.
        """
        return self.network.graph(self.shapes, self.dtype)

    def replace(self, **changes: Any) -> Self:
        """The same job but for some options.

        What the change does not touch is not done again: with another split, the network is
        neither built nor captured anew, so the next plan takes a fraction of a second.

        Examples
        --------
        >>> job = Job("resnet29_v2", image_size=97, batch_size=1)
        >>> job.replace(num_spatial_parts=9)
        Job('resnet29_v2', batch_size=1, num_spatial_parts=9, image_size=97)
        """
        job = dataclasses.replace(self, **changes)
        if job.network == self.network:
            job.__dict__["network"] = self.network
        return job

    @property
    def weights_file(self) -> Path | None:
        """The checkpoint that is read, if any: the one named, else the default where it exists."""
        if self.checkpoint is not None:
            return Path(self.checkpoint)
        default = Path(checkpoint_io.DEFAULT_CHECKPOINT)
        return default if isinstance(self.model, str) and default.exists() else None

    @property
    def checkpoint_file(self) -> Path | None:
        """What training writes, and goes on from: none for a module of your own, unless named."""
        if self.checkpoint is None and not isinstance(self.model, str):
            return None
        return Path(self.checkpoint or checkpoint_io.DEFAULT_CHECKPOINT)

    @property
    def weights_origin(self) -> str:
        """Where the weights come from, in words."""
        if path := self.weights_file:
            return str(path)
        return f"seed {self.seed}" if isinstance(self.model, str) else "the module's own"

    @property
    def name(self) -> str:
        """The network's name."""
        return self.network.name

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a batch: ``(batch, channels, *spatial)``.

        Channels and the number of spatial axes are those of the network's first convolution.
        """
        if self.input_shapes is not None:
            listed = self.input_shapes
            return next(iter(listed.values() if isinstance(listed, dict) else listed))
        channels, axes = self.network.image_channels
        size = whole_numbers(self.image_size, "x")
        if len(size) not in (1, axes):
            raise OptionError(
                f"image_size {self.image_size} has {len(size)} numbers, but {self.name} takes"
                f" images of {axes} axes"
            )
        return (self.batch_size, channels, *(size * axes if len(size) == 1 else size))

    @property
    def shapes(self) -> tuple | dict[str, tuple[int, ...]]:
        """Shape of each input: by its place, or by its name."""
        return (self.input_shape,) if self.input_shapes is None else self.input_shapes

    @property
    def tilings(self) -> tuple[Tiling, ...]:
        """Grid of each stage over ``(batch, *spatial)``."""
        axes = len(self.input_shape) - 2
        tiles = whole_numbers(self.num_spatial_parts)
        tiles = tiles * self.spatial_size if len(tiles) == 1 else tiles
        try:
            grids = [(1, *grid_of(self.slice_method, n, axes)) for n in tiles[: self.spatial_size]]
        except ValueError as error:
            raise OptionError(str(error)) from None
        untiled = (self.local_DP, *(1,) * axes)
        return tuple(map(Tiling.even, [*grids, *[untiled] * (self.split_size - self.spatial_size)]))

    @property
    def patch_grid(self) -> tuple[int, ...]:
        """Grid over space that cuts each tile into patches: those with the least border."""
        tile = [n / k for n, k in zip(self.input_shape[2:], self.tilings[0].grid[1:], strict=True)]
        grids = grids_of(self.patches, len(tile))
        return min(grids, key=lambda grid: sum(k / n for k, n in zip(grid, tile, strict=True)))

    def values(self) -> dict[str, Any]:
        """Every option by name."""
        return {option.name: getattr(self, option.name) for option in options()}

    def given(self) -> dict[str, Any]:
        """Options that differ from their defaults, by name."""
        return {o.name: v for o in options() if (v := getattr(self, o.name)) != o.default}

    @property
    def card(self) -> Card:
        """The network, its input and the split, and every option that was given."""
        sizes = "×".join(map(str, self.input_shape))
        facts = [("network", self.name), ("input", sizes), ("weights", self.weights_origin)]
        grids = ["×".join(map(str, t.grid[1:])) for t in self.tilings]
        tiled = self.spatial_size
        facts += [
            (f"stage {k}", f"{grid} tiles" if k < tiled else "whole")
            for k, grid in enumerate(grids)
        ]
        texts = {o.name: o.metadata["help"] for o in options()}
        facts += [(name, f"{value} ({texts[name]})") for name, value in self.given().items()]
        return Card("Job", [Table(("", ""), facts)])

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.given().items())
        return f"Job({self.name!r}{given})"


def _field(name: str) -> dataclasses.Field:
    return Job.__dataclass_fields__[name]


def options() -> list[dataclasses.Field]:
    """The table: every field of `Job` that is an option."""
    return [f for f in dataclasses.fields(Job) if "help" in f.metadata]


Job.__doc__ = (
    (Job.__doc__ or "")
    + "\n    Options\n    -------\n"
    + "".join(f"    {o.name} : {o.default!r}\n        {o.metadata['help']}\n" for o in options())
)
