"""The one table of options: keywords, flags, help texts and completion all come from it.

PyTorch is not imported here: the command line reads and checks its flags before it loads it.
`spnb.job.validation` says which values go together; `spnb.job.job.Job` adds the network.
The module is longer than 300 lines since every option stands here, with its help text: one table
keeps keywords, flags and help alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..ir.link import SlowLink
from ..ir.replicas import Replicas
from ..ir.schedule import SCHEDULES
from .parsing import (
    NORMALIZATIONS,
    PRECISIONS,
    blocks_fused,
    images,
    link_of,
    link_text,
    one_or_more,
    precision,
    refuse_out_of_range,
    shapes,
    size_in_bytes,
    taken,
    whole_numbers,
)

if TYPE_CHECKING:
    from torch import nn

BACKENDS = ("mpi", "gloo", "nccl")
DEVICES = ("cpu", "cuda")
MOST_PIXELS = 2**32
"""Most pixels along one axis of an image."""

MOST_NUMBERS = 2**48
"""Most numbers of an input; with all layers, their bytes are counted in 64 bits."""

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad")


def _option(
    default: Any,
    text: str,
    read: Callable[[Any], Any] = int,
    metavar: str | None = None,
    *,
    other: str | None = None,
    least: int | None = None,
    most: int | None = None,
    choices: tuple[str, ...] = (),
    suggestions: tuple[str, ...] = (),
    training: bool = False,
    evaluation: bool = False,
) -> Any:
    """Return a field of the table.

    Parameters
    ----------
    default
        Value of an option that is not given.
    text
        The help text.
    read
        Reads a value; see `spnb.job.parsing.taken`.
    metavar
        What the help calls the value; by default the option's name.
    other
        A shorter name that the option may be given by; see `spnb.job.names`.
    least
        Smallest value that is accepted.
    most
        Largest value that is accepted, far above what plans have: a slip of the finger, as a zero
        too many, is refused before anything is built in that size.
    choices
        Every value that is accepted, if they are few.
    suggestions
        Some values that are accepted, for completion.
    training
        Whether running a network on an image does not use the option.
    evaluation
        Of such an option, whether an evaluation uses it as training does.
    """
    metadata = {
        "help": text,
        "read": read,
        "metavar": metavar,
        "other": other,
        "least": least,
        "most": most,
        "choices": choices,
        "suggestions": suggestions or choices,
        "training": training,
        "evaluation": evaluation,
    }
    return field(default=default, metadata=metadata)


class LeftOut(int):
    """A number that a job has since none was said; what it is run on may change it."""


def _image_size(size: Any) -> int | tuple[int, ...]:
    return one_or_more(size, "x")


@dataclass(frozen=True, eq=False, repr=False)
class OptionTable:
    """A model and a value of every option, each read and in its range.

    Which values go together is checked by `spnb.job.validation.check`.
    """

    model: str | nn.Module
    batch_size: int = _option(
        LeftOut(32),
        "images per step; if it is left out, an image that is given to infer brings its own number",
        least=1,
        most=2**24,
    )
    parts: int = _option(1, "micro-batches per batch", other="micro_batches", least=1, most=4096)
    split_size: int = _option(2, "number of stages", other="stages", least=1, most=4096)
    num_spatial_parts: int | tuple[int, ...] = _option(
        4,
        "tiles of each tiled stage: one number for all of them, or a list such as 4,2",
        one_or_more,
        "N[,N]",
        other="tiles",
        least=1,
        most=2**20,
    )
    spatial_size: int = _option(
        1, "number of tiled stages; these are the first ones", other="tiled_stages", most=4096
    )
    slice_method: str = _option(
        "square",
        "how an image is cut: square, vertical (cuts the width), horizontal (cuts the height),"
        " or a grid of rows x columns such as 2x3",
        str,
        suggestions=("square", "vertical", "horizontal"),
    )
    halo_D2: bool = _option(False, "exchange one wide halo before several blocks", bool)
    fused_layers: int | str = _option(
        1,
        "with --halo-D2: number of blocks that share one halo exchange, or all",
        blocks_fused,
        "N",
        other="fuse",
        most=2**30,
        suggestions=("1", "2", "4", "all"),
    )
    patches: int = _option(
        1,
        "patches of each tile, computed in turns in the memory of one; needs one tiled stage. With"
        " --halo-D2 --fused-layers all and no figure of the whole image, inference computes one"
        " after another; otherwise the others wait on disk",
        least=1,
        most=1024,
    )
    balance: tuple[int, ...] | None = _option(
        None,
        "blocks in each stage, such as 30,9 (default: stages of about equal cost)",
        whole_numbers,
        "N,N",
    )
    allow_gather: bool = _option(
        False,
        "where an operator reads a whole value, gather that value on every tile; else such an"
        " operator is refused",
        bool,
    )
    local_DP: int = _option(
        1, "ranks of each untiled stage; each computes some images of the batch", least=1, most=4096
    )
    enable_evaluation: bool = _option(
        False, "inference (the commands infer and evaluate set it)", bool
    )
    image_size: int | tuple[int, ...] = _option(
        32,
        "side of a square image, or height x width such as 1411x1411",
        _image_size,
        "N[xN]",
        least=1,
        most=MOST_PIXELS,
    )
    resize: bool = _option(
        False,
        "resize images of another size than --image-size, which are refused otherwise: those in"
        " memory, and files that are decoded whole",
        bool,
    )
    input_shapes: tuple | dict | None = _option(  # noqa: RUF009 - a field, as the others
        None,
        "for a network with several inputs: the shape of each, with batch and channels, such as"
        " 1x3x64x64,1x3x64x64; the first is the image (default: one image)",
        shapes,
        "SHAPE[,SHAPE]",
    )
    method: str = _option(
        "forward", "method of a network of your own that is run, as decode", str, "NAME"
    )
    num_layers: int = _option(18, "layers of AmoebaNet-D", least=1, most=1024)
    num_filters: int = _option(416, "filters of AmoebaNet-D", least=1, most=2**14)
    num_classes: int = _option(10, "classes of a built-in network", least=1, most=2**20)
    backend: str = _option(
        "mpi",
        "library that carries tensors between ranks: mpi, gloo, or nccl (between GPUs)",
        str,
        choices=BACKENDS,
    )
    device: str | None = _option(
        None,
        "where ranks compute: cpu, or cuda, where the ranks of a host take its GPUs in turn"
        " (default: cuda with --backend nccl, else cpu)",
        str,
        choices=DEVICES,
    )
    precision: str | None = _option(
        None,
        "fp32, fp64, fp16 or bf16 (also fp_16, bfp_16, …), or int8 for inference with --calibration"
        " (default: the network's own types; built-in networks have fp32)",
        str,
        suggestions=PRECISIONS,
    )
    calibration: tuple[Any, ...] | None = _option(
        None,
        "with --precision int8: images on which the range of every value is found; a few that are"
        " like those to come, and small, as each is computed whole",
        images,
        "FILE[,FILE]",
    )
    weights: str | None = _option(
        None,
        "file of weights to begin with, as training scripts write them; it is read, never written"
        " (default: those of the seed, or of the module)",
        str,
        "FILE",
    )
    checkpoint: str | None = _option(
        None,
        "file of a training: training continues from it if it exists, and writes it after each"
        " epoch (default: none; the command `train` names one after the model); inference reads it",
        str,
        "FILE",
    )
    app: int = _option(
        3,
        "training and evaluation: 1 for an image folder with one folder for each class, 2 for"
        " CIFAR-10's own files, 3 for synthetic images",
        training=True,
        evaluation=True,
    )
    datapath: str = _option(
        "./train",
        "training and evaluation: folder of the images for --app 1 and 2",
        str,
        "DIR",
        training=True,
        evaluation=True,
    )
    normalize: str | None = _option(
        None,
        "training and evaluation: mean and standard deviation of the images of --app 1 and 2, as"
        " 0.5,0.5 or one number for each channel as 0.4/0.5/0.6,0.2/0.2/0.2, or benchmark (0.5,0.5)"
        " or imagenet; images are in [0, 1] before (default: they stay so)",
        str,
        "MEAN,STD",
        suggestions=tuple(NORMALIZATIONS),
        training=True,
        evaluation=True,
    )
    num_workers: int = _option(
        0,
        "training and evaluation: threads of each rank that read the next batch",
        least=0,
        most=256,
        training=True,
        evaluation=True,
    )
    num_epochs: int = _option(
        1, "training: number of passes over all examples", least=1, most=10**6, training=True
    )
    optimizer: str = _option(
        "adam", f"training: {', '.join(OPTIMIZERS)}", str, choices=OPTIMIZERS, training=True
    )
    learning_rate: float = _option(
        0.001, "training: learning rate of the first epoch", float, training=True
    )
    weight_decay: float = _option(
        0.0001, "training: weight decay of the optimizer", float, training=True
    )
    learning_rate_decay: float = _option(
        0.85, "training: factor on the learning rate after each epoch", float, training=True
    )
    schedule: str = _option(
        "1f1b",
        "training: 1f1b (a micro-batch goes backward as soon as it can) or gpipe (all micro-batches"
        " go forward first)",
        str,
        choices=tuple(SCHEDULES),
        training=True,
    )
    recompute: bool = _option(
        False,
        "training: compute values again in the backward pass instead of storing them, in segments"
        " that the plan chooses: less memory, up to a third more work",
        bool,
        training=True,
    )
    recompute_memory: int | None = _option(
        None,
        "training: as --recompute, but only as many values are computed again as keep the foreseen"
        " memory of a rank within this, such as 2GiB",
        size_in_bytes,
        "SIZE",
        training=True,
    )
    replicas: int = _option(
        1,
        "copies of the whole plan; each computes some images of the batch (default in training"
        " under mpiexec: as many as fit on its ranks)",
        least=1,
        most=4096,
    )
    gems: bool = _option(
        False,
        "add a second copy of the plan on the same ranks, with the stages in reverse order; the two"
        " copies take turns",
        bool,
    )
    times: int = _option(
        1, "with --gems: turns of each of the two copies in a batch", least=1, most=4096
    )
    enable_master_comm_opt: bool = _option(
        False,
        "training with --gems: exchange gradients with the mirror rank while other ranks compute,"
        " not at the end",
        bool,
        training=True,
    )
    slow_link: str | None = _option(
        None,
        "for tests and teaching: each message between ranks takes this latency longer, and a rank"
        " sends no faster than this bandwidth, such as 5ms,200Mbit",
        link_text,
        "LATENCY,BANDWIDTH",
    )
    deadline: int = _option(
        60,
        "seconds after which a rank that does not answer is named: it is stopped, or waits for a"
        " disk; one that computes may do so for as long as it takes",
        least=1,
        most=10**6,
    )
    force: bool = _option(
        False,
        "start ranks even if their host has less memory than they are foreseen to take, and run"
        " --precision int8 where it is foreseen to take longer than fp32",
        bool,
    )
    seed: int = _option(
        0, "seed of synthetic images, and of weights that no file has", least=0, most=2**63 - 1
    )
    verbose: bool = _option(False, "print figures of each rank", bool)

    def __post_init__(self) -> None:
        for option in options():
            name, bounds = option.name, option.metadata
            if isinstance(getattr(self, name), LeftOut):
                continue
            value = taken(name, getattr(self, name), bounds["read"], option.default)
            refuse_out_of_range(name, value, bounds["least"], bounds["most"])
            object.__setattr__(self, name, value)
        if self.precision is not None:
            object.__setattr__(self, "precision", precision(self.precision))
        self._take_input_shapes()

    def _take_input_shapes(self) -> None:
        """Set batch and image size from the first input, if shapes are given."""
        if self.input_shapes is None:
            return
        listed = self.input_shapes
        every = list(listed.values() if isinstance(listed, dict) else listed)
        if not every or len(every[0]) < 3 or min(min(shape, default=0) for shape in every) < 1:
            raise OptionError(
                f"input_shapes {listed} must begin with (batch, channels, *spatial), and all"
                " numbers must be at least 1"
            )
        for shape in every:
            refuse_out_of_range("a number of input_shapes", shape, 1, MOST_PIXELS)
            refuse_out_of_range("the size of an input", math.prod(shape), 1, MOST_NUMBERS)
        batch, _, *size = every[0]
        size = tuple(size) if len(size) > 1 else size[0]
        for name, value in (("batch_size", batch), ("image_size", size)):
            given = getattr(self, name)
            if given not in (option_named(name).default, value):
                raise OptionError(f"{name} is {given}, but input_shapes say {value}: leave it out")
            object.__setattr__(self, name, value)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step, those of all copies of the plan together."""
        turns = self.times if self.gems else 0
        return Replicas(1, self.parts, self.replicas, turns).num_micro_batches

    @property
    def device_kind(self) -> str:
        """Where ranks compute: ``"cpu"`` or ``"cuda"``."""
        if self.device is not None:
            return self.device
        return "cuda" if self.backend == "nccl" else "cpu"

    @property
    def link(self) -> SlowLink | None:
        """What is added to each message between ranks, if anything is."""
        return None if self.slow_link is None else link_of(self.slow_link)

    @property
    def fused(self) -> int:
        """Consecutive blocks that share one exchange; 0: an exchange before each window operator.

        With ``fused_layers="all"`` it is a number that no network reaches.
        """
        if not self.halo_D2:
            return 0
        return 1 << 30 if self.fused_layers == "all" else int(self.fused_layers)

    def values(self) -> dict[str, Any]:
        """Return every option by name.

        Returns
        -------
        dict
            Name and value, in the order of the table; the model is not among them.
        """
        return {option.name: getattr(self, option.name) for option in options()}

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults.

        Returns
        -------
        dict
            Name and value, in the order of the table.
        """
        return {
            option.name: value
            for option in options()
            if (value := getattr(self, option.name)) != option.default
        }


def options() -> list[dataclasses.Field]:
    """Return the table: every field of `OptionTable` that is an option.

    >>> [option.name for option in options()][:3]
    ['batch_size', 'parts', 'split_size']
    """
    return [f for f in dataclasses.fields(OptionTable) if "help" in f.metadata]


def option_named(name: str) -> dataclasses.Field:
    """Return the field of one option.

    >>> option_named("optimizer").metadata["choices"]
    ('adam', 'adamw', 'sgd', 'rmsprop', 'adagrad')
    """
    return OptionTable.__dataclass_fields__[name]


def training_options(*, evaluation: bool = True) -> list[str]:
    """Return the names of the options of training, which running a network on an image lacks.

    Parameters
    ----------
    evaluation
        Whether those that evaluation uses too are among them.

    >>> training_options()[:2], training_options(evaluation=False)[:2]
    (['app', 'datapath'], ['num_epochs', 'optimizer'])
    """
    every = [option for option in options() if option.metadata["training"]]
    return [each.name for each in every if evaluation or not each.metadata["evaluation"]]


def options_section() -> str:
    """Return the section *Options* of a docstring: names, default and help text of each option.

    >>> options_section().splitlines()[3]
    '    batch_size : 32'
    """
    entries = []
    for option in options():
        other = option.metadata["other"]
        name = f"{option.name} (or {other})" if other else option.name
        entries.append(f"    {name} : {option.default!r}\n        {option.metadata['help']}\n")
    return "\n    Options\n    -------\n" + "".join(entries)
