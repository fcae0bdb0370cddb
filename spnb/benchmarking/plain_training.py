"""Plain PyTorch's training step, in processes that are timed and whose memory is measured.

``python -m spnb.benchmarking.plain_training`` is such a process.  A step is that of a usual loop:
forward, loss and backward of each micro-batch, then the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import nn

from ..driver.training.evaluation import FUNCTIONS
from ..ir.module_state import set_training_modes
from ..ir.schedule import micro_batches
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..kernels.compat import pytree
from ..runtime import process_memory
from ..runtime.allocator import joining_blocks, keep_blocks
from ..training.recipe import OPTIMIZERS, Recipe
from .contestants import on_one_rank
from .timed_process import Step, TimedProcess, Unavailable, serve

MEMORY_STEPS = 3
"""Steps after which memory is measured: optimizers have their state from the first one on."""

TURN_STEPS = 2
"""Steps of a contestant's turn; the first one is not counted, since it finds the caches cold."""


@dataclass(frozen=True)
class PlainTraining:
    """A network that one process trains with plain PyTorch.

    Attributes
    ----------
    job
        The network, the shape of its images, and its micro-batches.
    recipe
        The loss and the optimizer.
    threads
        Number of threads; None for PyTorch's default, which is one for each core.
    keeps_blocks
        Whether the allocator keeps large blocks from one operator to the next, as it does in spnb's
        engines.
    """

    job: Job
    recipe: Recipe
    threads: int | None = None
    keeps_blocks: bool = False

    @classmethod
    def whole(cls, plan: JobPlan, recipe: Recipe, keeps_blocks: bool) -> list[PlainTraining]:
        """The whole image of a plan, with all cores."""
        return [cls(replace(on_one_rank(plan.job)), recipe, None, keeps_blocks)]

    @classmethod
    def tiles(cls, plan: JobPlan, recipe: Recipe, keeps_blocks: bool) -> list[PlainTraining]:
        """Each tile of a plan's first stage as an image of its own, with one thread.

        Raises
        ------
        Unavailable
            If there are no tiles to compare with.
        """
        job, tiling = on_one_rank(plan.job), plan.stages[0].team.tiling
        if not tiling.spatial:
            raise Unavailable("the first stage is not tiled")
        if plan.job.replicas > 1:
            raise Unavailable("replicas divide the batch")
        batch, channels, *_ = job.input_shape
        found = []
        for number in range(tiling.num_tiles):
            _, *size = tiling.region((batch, *plan.extent), number).shape
            shapes = None if job.input_shapes is None else ((batch, channels, *size),)
            alone = job.replace(image_size=tuple(size), input_shapes=shapes)
            found.append(cls(replace(alone), recipe, 1, keeps_blocks))
        return found

    def step(self) -> Step:
        """Make the network and random examples; return a function that takes a step."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.keeps_blocks:
            keep_blocks()
        network, recipe = self._network(), self.recipe
        trained = [p for p in network.parameters() if p.requires_grad]
        make, rate = OPTIMIZERS[recipe.optimizer], recipe.learning_rate
        optimizer = make(trained, lr=rate, weight_decay=recipe.weight_decay)
        torch.manual_seed(self.job.seed)
        batch, *shape = self.job.input_shape
        sizes = micro_batches(batch, self.job.num_micro_batches)
        images = [torch.rand(size, *shape, dtype=self.job.dtype) for size in sizes]
        targets: dict[int, torch.Tensor] = {}
        loss = FUNCTIONS[recipe.loss]

        def step() -> None:
            optimizer.zero_grad()
            for number, each in enumerate(images):
                (output,) = pytree.tree_leaves(network(each))
                if number not in targets:  # the first output shows their shape
                    targets[number] = self._targets(output)
                (loss(output, targets[number]) * (len(each) / batch)).backward()
            optimizer.step()

        return step

    def _network(self) -> nn.Module:
        """The network in the modes in which it is trained."""
        network = self.job.module
        set_training_modes(network, self.job.network.skeleton)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in self.job.network.trained)
        return network

    def _targets(self, output: torch.Tensor) -> torch.Tensor:
        if self.recipe.loss != "cross_entropy":
            return torch.rand_like(output)
        classes = output.shape[1]
        return torch.randint(0, classes, (len(output), *output.shape[2:]))


def largest(trainings: Sequence[PlainTraining]) -> PlainTraining:
    """The one with the largest image, which takes the most memory."""
    return max(trainings, key=lambda each: math.prod(each.job.input_shape))


class PlainProcesses:
    """Processes that train side by side, without a message between them.

    Parameters
    ----------
    trainings
        What each process trains.

    Raises
    ------
    Unavailable
        If a process cannot train, as for a network that takes no image of a tile's size.
    """

    def __init__(self, trainings: Sequence[PlainTraining]):
        self._processes: list[TimedProcess] = []
        try:
            for each in trainings:
                environment = joining_blocks() if each.keeps_blocks else None
                self._processes.append(TimedProcess(__name__, each, environment))
            for process in self._processes:
                process.prepared()
            for _ in range(MEMORY_STEPS - 1):
                self._step()
            self.peak_bytes = max(process.peak_bytes() for process in self._processes)
        except BaseException:
            self.stop()
            raise

    def turn(self) -> float:
        """Take the steps of a turn, begun at the same moment; the median seconds of the slowest."""
        return median([self._step() for _ in range(TURN_STEPS)][1:])

    def stop(self) -> None:
        """End the processes; safe to call again."""
        for process in self._processes:
            process.stop()

    def _step(self) -> float:
        for process in self._processes:
            process.begin_step()
        return max([process.end_step() for process in self._processes])


if __name__ == "__main__":
    process_memory.bytes_before_any_network()  # as an engine does before its idle size is taken
    torch.optim.SGD([torch.empty(0)])  # imports PyTorch's compiler, which counts as an import
    serve(PlainTraining.step, with_first_step=True)
