"""Networks in other forms than an `nn.Module`: programs, their files, TorchScript, compiled ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..capture import programs
from ..errors import OptionError
from .parsing import is_program_file, whole_numbers


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


def opened(model: object, given: Mapping[str, Any]) -> Opened | None:
    """Open a network that is given in another form than a module.

    Parameters
    ----------
    model
        An exported program, the path of its file, TorchScript, or a module that ``torch.compile``
        returned.
    given
        The job's options by name, as a user wrote them.

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
    if isinstance(model, (str, Path)) and is_program_file(str(model)):
        path = Path(model)
        return _of_program(programs.read_program(path), given, path.stem)
    if isinstance(model, torch.export.ExportedProgram):
        return _of_program(model, given)
    if isinstance(model, torch.jit.ScriptModule):
        return _of_script(model, given)
    if isinstance(model, nn.Module):
        compiled = dict(model.named_children()).get("_orig_mod")
        return None if compiled is None else Opened(compiled, {})
    return None


def _of_program(
    program: torch.export.ExportedProgram, given: Mapping[str, Any], name: str = ""
) -> Opened:
    sizes = programs.sizes_of(program)
    module = programs.module_of(program, name)
    if len(sizes) == 1:
        batch, channels, *space = next(iter(sizes.values()))
        _remember_image(module, channels or 3, len(space))
        known: dict[str, Any] = {} if batch is None else {"batch_size": batch}
        if None not in space:
            known["image_size"] = tuple(space)
        return Opened(module, {} if given["input_shapes"] is not None else known)
    if given["input_shapes"] is None and any(None in shape for shape in sizes.values()):
        raise OptionError(
            f"the program takes {len(sizes)} inputs of any size ({', '.join(sizes)}): give the"
            " shape of each with input_shapes"
        )
    return Opened(module, {} if given["input_shapes"] else {"input_shapes": list(sizes.values())})


def _of_script(script: torch.jit.ScriptModule, given: Mapping[str, Any]) -> Opened:
    shapes = given["input_shapes"]
    channels, axes = programs.image_of(script)
    if shapes is None:
        size = whole_numbers(given["image_size"], "x")
        shapes = [(given["batch_size"], channels, *(size * axes if len(size) == 1 else size))]
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
