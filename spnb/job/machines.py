"""The machines of simulations: built-in ones, and the figures that `spnb.calibrate` measured here.

Measured figures are in one file of the user's; ``SPNB_MACHINE`` names another one::

    Linux    $XDG_CONFIG_HOME/spnb/machine.json, or ~/.config/spnb/machine.json
    macOS    ~/Library/Application Support/spnb/machine.json
    Windows  %APPDATA%\\spnb\\machine.json
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import OptionError
from ..io.disk.replacing import replacing, writing
from ..ir.cost import CORE, GPU, Machine, Speed

HERE, CALIBRATED = "here", "calibrated"
"""Names of the measured machine: with its cores shared by all ranks, and with a core for each."""

BUILT_IN = {"core": CORE, "gpu": GPU}
FORMAT = 1
"""Number of the file's format; other ones are refused."""

MachineLike = Machine | str | Path | None
"""A machine, a name, or a file of measured figures; None for the measured machine if there is one,
and else for a core."""


@dataclass(frozen=True)
class MeasuredMachine:
    """Figures of a machine, and where they come from.

    Attributes
    ----------
    machine
        The figures, with all cores of the host.
    host, processor, torch_version, day
        What was measured, and when.
    """

    machine: Machine
    host: str
    processor: str
    torch_version: str
    day: str

    @property
    def origin(self) -> str:
        """Host and day, in words, and whether PyTorch is another one by now."""
        text = f"{self.host}, measured {self.day}"
        if self.torch_version != torch.__version__:
            text += (
                f" with PyTorch {self.torch_version}, and this is {torch.__version__}: calibrate"
                " again"
            )
        return text

    def shared(self) -> Machine:
        """The machine whose cores all ranks share."""
        cores = self.machine.cores or 1
        name = f"{self.origin}; all ranks share its {cores} core{'s' * (cores != 1)}"
        return replace(self.machine, name=name)

    def core_each(self) -> Machine:
        """The machine with a core for each rank."""
        return replace(self.machine, cores=None, name=f"{self.origin}; a core for each rank")

    def write(self, path: Path) -> None:
        """Write the figures into a file."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"
        with replacing(path) as new, writing(path):
            new.write_text(text)

    @classmethod
    def read(cls, path: Path) -> MeasuredMachine:
        """Read the figures of a file.

        Raises
        ------
        OptionError
            If it cannot be read, or has other contents.
        """
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict) or "format" not in found:
                raise ValueError("it has no figures of a machine")
            if found.pop("format") != FORMAT:
                raise ValueError("another version of spnb wrote it")
            machine = _machine(found.pop("machine"))
            return cls(machine, **{name: str(found[name]) for name in _TEXTS})
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            if isinstance(error, OSError):
                reason = error.strerror or error
            if isinstance(error, json.JSONDecodeError):
                reason = "it is no JSON"
            raise OptionError(
                f"cannot use the machine's figures in {path}: {reason}: measure again with"
                " python -m spnb calibrate, or remove the file"
            ) from None


_TEXTS = ("host", "processor", "torch_version", "day")


def _machine(found: Mapping[str, Any]) -> Machine:
    """A machine of a file's numbers.

    Raises
    ------
    ValueError, KeyError, TypeError
        If a number is missing, or is none of a machine.
    """
    numbers = [f.name for f in fields(Machine) if f.name not in ("name", "speeds", "cores")]
    read: dict[str, Any] = {name: float(found[name]) for name in numbers}
    for name, value in read.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}, but must be above 0")
    speeds = tuple(Speed(**speed) for speed in found["speeds"])
    for speed in speeds:
        if not 0 < speed.rate < math.inf or min(speed.taps, speed.inputs, speed.outputs) < 1:
            raise ValueError(f"a speed of {speed.kind} is {speed.rate}, but must be above 0")
    cores = int(found["cores"])
    if cores < 1:
        raise ValueError(f"cores is {cores}, but must be at least 1")
    return Machine(**read, cores=cores, speeds=speeds)


def machine_file() -> Path:
    """The file of the measured figures of this machine."""
    if named := os.environ.get("SPNB_MACHINE"):
        return Path(named)
    home = Path.home()
    if sys.platform == "darwin":
        folder = home / "Library" / "Application Support"
    elif sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA", home / "AppData" / "Roaming"))
    else:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return folder / "spnb" / "machine.json"


def machine_of(machine: MachineLike = None) -> Machine:
    """The machine that is asked for.

    Parameters
    ----------
    machine
        A machine; ``"here"`` for the measured one, whose cores all ranks share; ``"calibrated"``
        for its speeds, with a core for each rank; ``"core"`` or ``"gpu"``; a file; or None for
        ``"calibrated"``, and ``"core"`` where nothing was measured.

    Raises
    ------
    OptionError
        If the name is unknown, nothing was measured, or the file cannot be used.

    Examples
    --------
    >>> machine_of("gpu").name
    'a GPU of a data centre'
    """
    if isinstance(machine, Machine):
        return machine
    if machine is None:
        return MeasuredMachine.read(machine_file()).core_each() if machine_file().exists() else CORE
    if str(machine) in BUILT_IN:
        return BUILT_IN[str(machine)]
    if str(machine) in (HERE, CALIBRATED):
        if not machine_file().exists():
            raise OptionError(
                f"machine is {machine}, but this machine was not measured: run"
                " python -m spnb calibrate, or spnb.calibrate()"
            )
        measured = MeasuredMachine.read(machine_file())
        return measured.shared() if str(machine) == HERE else measured.core_each()
    if not Path(machine).exists():
        names = ", ".join((HERE, CALIBRATED, *BUILT_IN))
        raise OptionError(f"unknown machine {str(machine)!r}: use {names}, or a file of figures")
    return MeasuredMachine.read(Path(machine)).core_each()
