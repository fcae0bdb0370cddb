"""The weights of a plan: files of stages from which ranks load theirs, and a hash of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..io.stage_weights import write_weights
from ..ir.module_state import hash_of
from ..ir.weights import named, tensors_of
from ..job.job_plan import JobPlan


def weight_names(plan: JobPlan, stages: Sequence[int]) -> list[str]:
    """Names of the weights of stages; in training also of those that constants are made of.

    Parameters
    ----------
    plan
        The plan.
    stages
        Numbers of the stages.

    Returns
    -------
    list of str
        The names, each once.
    """
    read = dict.fromkeys(name for stage in stages for name in plan.stages[stage].weights)
    return list(plan.graph.made_of(read)[0] if plan.training else read)


def write_weight_file(
    plan: JobPlan, module: nn.Module, stages: Sequence[int], folder: Path
) -> Path:
    """Write the weights of stages into a file of a folder.

    Parameters
    ----------
    plan
        The plan.
    module
        The network with the weights.
    stages
        Numbers of the stages.
    folder
        The folder; a file of an earlier plan is replaced.

    Returns
    -------
    pathlib.Path
        The file.
    """
    path = folder / f"stage-{'-'.join(map(str, stages))}.pt"
    path.unlink(missing_ok=True)  # ranks may still map the file of an earlier plan
    write_weights(path, tensors_of(module, weight_names(plan, stages), plan.graph))
    return path


def weights_hash(module: nn.Module) -> int:
    """A hash of the values of a network's weights.

    Parameters
    ----------
    module
        The network.

    Returns
    -------
    int
        Equal for equal values.
    """
    return hash_of(named(module).values())
