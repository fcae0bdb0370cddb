"""Spatial parallelism of convolutional networks, from a notebook.

>>> import spnb
>>> job = spnb.Job("resnet20_v1", image_size=64, batch_size=1, num_spatial_parts=4)
>>> plan = spnb.plan(job)
>>> plan.num_ranks
5
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .capture import CaptureError
from .inside import here
from .layout import PlanError
from .options import Job
from .planning import plan
from .rules import rule

if TYPE_CHECKING:
    from .cluster import Cluster
    from .explorer import explore
    from .measuring.benchmark import bench
    from .notebook import start, stop
    from .session import InProcess

__version__ = "0.1.0"
__all__ = [
    "CaptureError",
    "Cluster",
    "InProcess",
    "Job",
    "PlanError",
    "bench",
    "explore",
    "here",
    "plan",
    "rule",
    "start",
    "stop",
]

# Loaded on first use: engines need no ipyparallel client and no plotting.
_LATER = {
    "Cluster": ".cluster",
    "InProcess": ".session",
    "bench": ".measuring.benchmark",
    "explore": ".explorer",
    "start": ".notebook",
    "stop": ".notebook",
    "load_ipython_extension": ".magics",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module 'spnb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
