"""Exported programs and TorchScript as networks: what PyTorch makes modules of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

import torch
from torch import nn

from ..errors import CaptureError, OptionError
from ..kernels.compat import script_converter, transforms_undone
from .messages import first_line, quiet_log

Size = int | None
"""The size of a dimension; None where a program takes any."""


def read_program(path: Path) -> torch.export.ExportedProgram:
    """Read a file of ``torch.export.save``.

    Raises
    ------
    OptionError
        If there is no such file, or it is none.
    """
    if not path.exists():
        raise OptionError(f"there is no file {path}: name one that torch.export.save wrote")
    try:
        with quiet_log(), redirect_stderr(io.StringIO()):
            return torch.export.load(path)
    except Exception as error:
        raise OptionError(
            f"cannot read {path} as a program of torch.export: {first_line(error)}"
        ) from error


def module_of(program: torch.export.ExportedProgram, name: str = "") -> nn.Module:
    """Return the module of a program, with its weights.

    Parameters
    ----------
    program
        What ``torch.export.export`` returned.
    name
        What the network is called in texts.
    """
    with quiet_log(), redirect_stderr(io.StringIO()):
        module = program.module()
    type(module).__name__ = name or "ExportedProgram"  # PyTorch makes a class for each
    return module


def sizes_of(program: torch.export.ExportedProgram) -> dict[str, tuple[Size, ...]]:
    """The sizes of each input of a program, by name; None where it takes any.

    Examples
    --------
    >>> program = torch.export.export(nn.ReLU(), (torch.ones(1, 3, 4, 4),))
    >>> sizes_of(program)
    {'input': (1, 3, 4, 4)}
    """
    inputs = set(program.graph_signature.user_inputs)
    return {
        node.name: tuple(n if isinstance(n, int) else None for n in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in inputs and "val" in node.meta
    }


def takes_names(program: torch.export.ExportedProgram) -> bool:
    """Whether a program takes an input by name."""
    _, named = program.example_inputs or ((), {})
    return bool(named)


def exported_script(
    script: torch.jit.ScriptModule, shapes: Sequence[Sequence[int]]
) -> torch.export.ExportedProgram:
    """Return the program that PyTorch's own converter makes of TorchScript.

    Parameters
    ----------
    script
        What ``torch.jit.script``, ``trace`` or ``load`` returned.
    shapes
        Of its inputs.

    Raises
    ------
    CaptureError
        If it cannot be converted.
    """
    inputs = tuple(torch.empty(tuple(shape)) for shape in shapes)
    try:
        convert = script_converter()
        with quiet_log(), redirect_stderr(io.StringIO()), transforms_undone(), torch.no_grad():
            return convert(script, inputs)
    except Exception as error:
        given = ", ".join(str(tuple(shape)) for shape in shapes)
        raise CaptureError(
            f"{script.original_name} is TorchScript that PyTorch cannot convert for input shape"
            f" {given}: {first_line(error)}: give the nn.Module that it was made of, or a program"
            " of torch.export"
        ) from error


def image_of(script: nn.Module) -> tuple[int, int]:
    """Channels and spatial axes that the first convolution of TorchScript takes.

    >>> image_of(torch.jit.script(nn.Conv1d(5, 2, 3)))
    (5, 1)
    """
    shapes = (tuple(weight.shape) for weight in script.parameters())
    first = next((shape for shape in shapes if len(shape) > 2), None)
    return (first[1], len(first) - 2) if first else (3, 2)
