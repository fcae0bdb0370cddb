"""Spatial parallelism of convolutional networks, from a notebook.

::

    result = spnb.run(net, image, tiles=4)     # a torch.nn.Module, an array or a file: that is all
    result.check()                             # raises if it differs from the untiled run

    job = spnb.Job(net, image_size=1411, batch_size=1, tiles=4)    # the same, step by step
    plan = spnb.plan(job)                      # tiles, messages, memory; starts nothing
    spnb.explore(job)                          # sliders;  spnb.compare([job, …]): side by side
    spnb.tune(job, ranks=8, memory="4GiB")     # the best splits;  spnb.calibrate(): this machine
    cluster = spnb.start(plan)                 # one process for each rank, and it stays
    result = cluster.infer(image)              # cluster.train(images, targets), .evaluate(…)
    result.show()                              # image, output, tiles and events, to zoom and hover
    spnb.stop()

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
    from .benchmarking.calibration import calibrate
    from .driver.cluster import Cluster
    from .driver.in_process import InProcess
    from .driver.parallel import parallel
    from .engine.here import here
    from .errors import CaptureError, PlanError
    from .job.comparison import compare
    from .job.job import Job
    from .job.job_plan import plan
    from .job.tuning.search import tune
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
    "calibrate",
    "compare",
    "explore",
    "here",
    "parallel",
    "plan",
    "rule",
    "run",
    "start",
    "stop",
    "tune",
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
    "calibrate": ".benchmarking.calibration",
    "compare": ".job.comparison",
    "explore": ".ui.explorer",
    "here": ".engine.here",
    "load_ipython_extension": ".ui.magics",
    "parallel": ".driver.parallel",
    "plan": ".job.job_plan",
    "rule": ".rules",
    "run": ".ui.notebook",
    "start": ".ui.notebook",
    "stop": ".ui.notebook",
    "tune": ".job.tuning.search",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'spnb' has no attribute {name!r}")
    found = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
