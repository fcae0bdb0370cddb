"""Networks in other forms than an `nn.Module`: exported programs, their files, TorchScript."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..capture import programs
from ..errors import OptionError
from ..io.disk.kinds import no_file_at
from .methods import FORWARD
from .options import OptionTable, option_named
from .parsing import is_program_file, taken, whole_numbers


@dataclass(frozen=True)
class Opened:
    """A network as a module, and the options that its form settles.

    Attributes
    ----------
    module
        The module.
    options
        Values by the names of options.
    """

    module: nn.Module
    options: Mapping[str, Any]


def opened(table: OptionTable) -> Opened | None:
    """Open a network that is given in another form than a module.

    Parameters
    ----------
    table
        The model, and the options as a user wrote them.  The model may be an exported program, the
        path of its file, TorchScript, or a module that ``torch.compile`` returned.

    Returns
    -------
    Opened or None
        None for every other network.

    Raises
    ------
    OptionError
        If a file cannot be read, or an option does not fit what a program was exported for.
    CaptureError
        If TorchScript cannot be converted.
    """
    model: Any = table.model
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        compiled = dict(model.named_children()).get("_orig_mod")
        return None if compiled is None else Opened(compiled, {})
    if isinstance(model, (str, Path)) and is_program_file(str(model)):
        if kind := no_file_at(model):
            raise OptionError(f"cannot read the program {model}: it is {kind}")
        found = _of_program(programs.read_program(Path(model)), table, Path(model).stem)
    elif isinstance(model, torch.export.ExportedProgram):
        found = _of_program(model, table)
    elif isinstance(model, torch.jit.ScriptModule):
        found = _of_script(model, table)
    else:
        return None
    if table.method != FORWARD:
        raise OptionError(f"method is {table.method}, but a program has one: leave it out")
    for name, value in found.options.items():
        _refuse_other(name, getattr(table, name), value)
    return found


def _refuse_other(name: str, given: Any, value: Any) -> None:
    """Refuse another value of an option than a program was exported for."""
    if given == option_named(name).default:
        return
    if name == "image_size":
        given = _sides(given)
        given = given * len(value) if len(given) == 1 else given
    if given != value:
        raise OptionError(
            f"{name} is {given}, but the program was exported for {value}: leave it out, or export"
            " it again with dynamic_shapes"
        )


def _sides(image_size: Any) -> tuple[int, ...]:
    """The numbers of an image size, as a user wrote it."""
    return taken("image_size", image_size, lambda size: whole_numbers(size, "x"), None)


def _of_program(
    program: torch.export.ExportedProgram, table: OptionTable, name: str = ""
) -> Opened:
    sizes = programs.sizes_of(program)
    module = programs.module_of(program, name)
    if len(sizes) == 1:
        batch, channels, *space = next(iter(sizes.values()))
        _remember_image(module, channels or 3, len(space))
        known: dict[str, Any] = {} if batch is None else {"batch_size": batch}
        if None not in space:
            known["image_size"] = tuple(space)
        return Opened(module, {} if table.input_shapes is not None else known)
    if table.input_shapes is None and any(None in shape for shape in sizes.values()):
        raise OptionError(
            f"the program takes {len(sizes)} inputs of any size ({', '.join(sizes)}): give the"
            " shape of each with input_shapes"
        )
    named = programs.takes_names(program)
    shapes: Any = dict(sizes) if named else tuple(sizes.values())
    return Opened(module, {} if table.input_shapes else {"input_shapes": shapes})


def _of_script(script: torch.jit.ScriptModule, table: OptionTable) -> Opened:
    shapes: Any = table.input_shapes
    channels, axes = programs.image_of(script)
    if shapes is None:
        size = _sides(table.image_size)
        shapes = [(table.batch_size, channels, *(size * axes if len(size) == 1 else size))]
    if isinstance(shapes, Mapping):
        raise OptionError("TorchScript takes its inputs in order: give input_shapes as a list")
    program = programs.exported_script(script, shapes)
    module = programs.module_of(program, script.original_name)
    _remember_image(module, channels, axes)
    return Opened(module, {})


IMAGE_CHANNELS = "image_channels"
"""Where a module made of a program has its channels and its number of spatial axes."""


def _remember_image(module: nn.Module, channels: int, axes: int) -> None:
    setattr(module, IMAGE_CHANNELS, (channels, axes))
