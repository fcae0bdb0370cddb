"""Memory of a process: how much it holds now, how much it held at most, and how to free it."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import torch

from ..kernels.devices import CPU
from .allocator import trim

_set_aside: dict[str, int] = {}
"""How many modules there were when their objects were last left out of collections."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes(device: torch.device = CPU) -> int:
    """Bytes of physical memory that the process holds now; its peak, if the system hides that.

    Parameters
    ----------
    device
        For a GPU, bytes of the tensors in its memory; else of the process.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or _peak_ever()


def bytes_before_any_network() -> int:
    """Bytes of the process before a network is loaded, after PyTorch's first computation."""
    x = torch.zeros(1, 8, 8, 8)
    torch.nn.functional.conv2d(x, torch.zeros(8, 8, 3, 3))
    return resident_bytes()


def restart_peak(device: torch.device = CPU) -> None:
    """Measure `peak_bytes` from now on; only Linux can."""
    if device.type == "cuda":
        return torch.cuda.reset_peak_memory_stats(device)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def peak_bytes(device: torch.device = CPU) -> int:
    """Most bytes of physical memory that the process held since `restart_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or _peak_ever()


def give_back() -> None:
    """Return unused memory to the system; that of the allocator too, if it is glibc's."""
    gc.collect()
    trim()


def collect_young() -> None:
    """Free what only refers to itself since the last runs, as messages of a notebook do.

    They refer to large results.  Python itself looks for them when some thousand objects were made,
    which may be many runs later.
    """
    gc.collect(1)


def set_modules_aside() -> None:
    """Leave the objects of modules out of collections: to go through PyTorch's takes 0.2 s."""
    if len(sys.modules) > 1.1 * _set_aside.get("modules", 0):
        gc.collect()
        gc.freeze()
        _set_aside["modules"] = len(sys.modules)


def _status(field: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def _peak_ever() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
