"""An evaluation on a rank: with the loaded plan, with another one, or waiting for other ranks."""

from __future__ import annotations

from pathlib import Path

import torch

from ..io.datasets.examples import Examples
from ..io.stage_weights import read_weights
from ..runtime.worker import Worker, share_failures
from ..training.evaluation import EvaluationReport, EvaluationTask, Evaluator
from ..training.patched_worker import worker_for
from ..transport import Transport
from .operators import import_operators
from .progress import Publish, Throttled
from .service import RankShare


def worker_of(share: RankShare, transport: Transport, device: torch.device) -> Worker | None:
    """The worker of a share of another plan; None if that plan does not need this rank.

    Parameters
    ----------
    share
        The share and its weights.
    transport
        Carries the rank's messages.
    device
        Where the rank computes.
    """
    if share.rank_plan is None:
        return None
    import_operators(share.rank_plan)
    weights = share.weights
    tensors = read_weights(weights) if isinstance(weights, Path) else weights
    return worker_for(share.rank_plan, tensors, transport, device)


def evaluated(
    worker: Worker, examples: Examples, task: EvaluationTask, idle_bytes: int, publish: Publish
) -> EvaluationReport:
    """Carry out an evaluation, and publish the number of batches that are done.

    Parameters
    ----------
    worker
        Runs the plan.
    examples, task
        What is computed of which examples.
    idle_bytes
        Memory of the process before a network was loaded.
    publish
        Makes the progress visible to the caller.
    """
    throttled = Throttled(publish)
    evaluator = Evaluator(worker, task)
    return evaluator.run(examples, idle_bytes, lambda done: throttled({"evaluated": done}))


def waited_for_others(task: EvaluationTask, transport: Transport) -> EvaluationReport:
    """Take part in the barrier of each batch, which is one of all ranks of the loaded plan.

    Parameters
    ----------
    task
        What the other ranks compute.
    transport
        Carries the rank's messages.
    """
    batches = task.batches
    with share_failures(transport, lambda: "waiting for the ranks that evaluate"):
        for _ in batches:
            transport.barrier()
    nothing = torch.zeros(3, task.classes, dtype=torch.int64)
    return EvaluationReport(0.0, {}, nothing, [0.0] * len(batches), 0)
