"""From a job to its plan."""

from __future__ import annotations

from .balance import shape_text, stage_blocks
from .graph import capture
from .layout import PlanError
from .options import Job
from .plan import Plan


def plan(job: Job) -> Plan:
    """Plan a job: stages, tiles, transfers and every rank's program. Starts nothing.

    Raises
    ------
    PlanError
        If the split cannot be exact, naming stage, layer, operator, extent and a way out.
    CaptureError
        If the network cannot be captured.

    Examples
    --------
    >>> print(plan(Job("resnet20_v1", image_size=64, batch_size=1)).num_ranks)
    5
    """
    tilings = job.tilings
    sizes = job.input_shape[2:]
    for stage, tiling in enumerate(tilings):
        if any(n > size for n, size in zip(tiling.grid[1:], sizes, strict=True)):
            raise PlanError(
                f"stage {stage}: an image of {shape_text(sizes)} pixels cannot be cut into"
                f" {shape_text(tiling.grid[1:])} tiles: use fewer tiles or a larger image"
            )
    graph = capture(job.skeleton, job.input_shape, job.dtype)
    cut_batch = job.parts > 1 or job.local_DP > 1
    balance = stage_blocks(graph, tilings, cut_batch, job.balance)
    return Plan(graph, tilings, balance, job.parts, job.fused, job=job)
