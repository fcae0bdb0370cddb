"""Spatial parallelism of convolutional networks, from a notebook.

>>> import spnb
>>> job = spnb.Job("resnet20_v1", image_size=64, batch_size=1, num_spatial_parts=4)
>>> plan = spnb.plan(job)
>>> plan.num_ranks
5
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmarking.benchmark import bench
    from .driver.cluster import Cluster
    from .driver.in_process import InProcess
    from .driver.parallel import parallel
    from .engine.here import here
    from .errors import CaptureError, PlanError
    from .job.job import Job
    from .job.job_plan import plan
    from .rules import rule
    from .ui.explorer import explore
    from .ui.notebook import run, start, stop

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
    "parallel",
    "plan",
    "rule",
    "run",
    "start",
    "stop",
]

# Loaded on first use: the command line answers --help without PyTorch, and engines need neither
# ipyparallel's client nor matplotlib.
_MODULES = {
    "CaptureError": ".errors",
    "Cluster": ".driver.cluster",
    "InProcess": ".driver.in_process",
    "Job": ".job.job",
    "PlanError": ".errors",
    "bench": ".benchmarking.benchmark",
    "explore": ".ui.explorer",
    "here": ".engine.here",
    "load_ipython_extension": ".ui.magics",
    "parallel": ".driver.parallel",
    "plan": ".job.job_plan",
    "rule": ".rules",
    "run": ".ui.notebook",
    "start": ".ui.notebook",
    "stop": ".ui.notebook",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'spnb' has no attribute {name!r}")
    found = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
