"""Environment variables of engines, and of the controller beside them."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from ...runtime.allocator import joining_blocks
from .engines_command import path_of_engines

ON_THIS_HOST = {"HYDRA_LAUNCHER": "fork", "HYDRA_RMK": "user"}
"""Variables by which all ranks are on this host, also in a job of a scheduler that has others."""


def environment_of_engines(folder: str) -> dict[str, str]:
    """Variables that engines get in addition to this process's environment."""
    package = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    # An installed package is found without PYTHONPATH; with site-packages on it, modules there
    # would be found before those of the standard library.
    ours = [] if package == sysconfig.get_path("purelib") else [package]
    environment = {
        "IPYTHONDIR": folder,
        "PATH": path_of_engines(),
        "PYTHONPATH": os.pathsep.join([*ours, *([inherited] if inherited else [])]),
        # Ranks share the cores.  A user may give torch more threads later.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        **joining_blocks(),
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment
