"""Loads plans and weights on the ranks of a session, and notices where they are outdated."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..engine.service import Call, RankService
from ..io.examples import Examples
from ..io.resident import ResidentSources
from ..job.job_plan import JobPlan
from ..training.epoch import OptimizerState
from ..training.loss_scale import LossScale
from ..training.own_optimizer import OwnOptimizer
from ..training.recipe import Recipe
from .rank_calls import RankCalls
from .weight_files import weight_names, weights_hash, write_weight_file


class RankLoading(RankCalls):
    """Ranks, and what they were given: a plan, weights, and files of images.

    Attributes
    ----------
    scratch
        The folder of the files that ranks read.
    sources
        The images among these files.
    """

    def __init__(self, plan: JobPlan):
        plan.build_module()  # refuses a bad checkpoint before any rank starts
        self.plan = plan
        self.scratch = Path(tempfile.mkdtemp(prefix="spnb-"))
        self._clean = weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        self.sources = ResidentSources(self.scratch)
        self._loaded_plan: JobPlan | None = None  # the plan that the ranks have
        self._loaded_weights: int | None = None  # hash of the weights that they have

    @abstractmethod
    def _say(self, text: str) -> None:
        """Print a line, unless the user wants none."""

    def _load_weights(self, plan: JobPlan, module: nn.Module) -> None:
        """Load a plan with the weights of a module."""
        stages_of = [plan.stages_on(rank) for rank in range(plan.num_ranks)]
        files = {
            stages: write_weight_file(plan, module, stages, self.scratch)
            for stages in dict.fromkeys(stages_of)
        }
        self._load(
            plan, [(plan.rank_plan(rank), files[stages]) for rank, stages in enumerate(stages_of)]
        )
        self.plan = self._loaded_plan = plan
        self._loaded_weights = weights_hash(module)

    def _follow_network(self) -> None:
        """Load the weights again if they changed since; refuse other layers and settings."""
        self.plan.refuse_if_outdated()
        if self._loaded_weights != weights_hash(self.plan.module):
            self._say(f"the weights of {self.plan.job.name} changed: loading them again")
            self._load_weights(self.plan, self.plan.module)

    def begin_training(
        self,
        module: nn.Module,
        trained: Sequence[str],
        recipe: Recipe,
        optimizer_state: OptimizerState,
        num_workers: int = 0,
        loss_scale: LossScale | None = None,
        own: OwnOptimizer = OwnOptimizer(),  # noqa: B008 - it is frozen
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Make every rank ready to train; `train` calls it before the first epoch.

        Parameters
        ----------
        module
            The network with the weights to begin with.
        trained
            Names of the parameters that are trained.
        recipe
            Loss, optimizer, learning rates and schedule.
        optimizer_state
            The optimizer's state by parameter, at the end of an earlier epoch; each rank receives
            that of its own parameters.
        num_workers
            Threads of each rank that read the next batch.
        loss_scale
            The scale of the loss at the end of an earlier epoch, in fp16.
        own
            What the user gives in place of the recipe's optimizer and learning rates.
        progress
            The optimizer's groups and the scheduler at the end of an earlier epoch.
        """
        known = self._loaded_plan is self.plan and self._loaded_weights is not None
        if not known or self._loaded_weights != weights_hash(module):
            self._load_weights(self.plan, module)
        self._loaded_weights = None  # training changes the weights on the ranks
        calls = []
        for rank in range(self.plan.num_ranks):
            names = weight_names(self.plan, self.plan.stages_on(rank))
            held = [name for name in names if name in set(trained)]
            state = {name: optimizer_state[name] for name in held if name in optimizer_state}
            given = (held, recipe, state, num_workers, loss_scale, own, progress)
            calls.append(Call.to(RankService.begin_training, *given))
        self._ask(calls)

    def share(self, examples: Examples) -> list[Examples]:
        """Prepare examples for the ranks; an image in memory is written to a file once.

        Parameters
        ----------
        examples
            Images and targets.

        Returns
        -------
        list of Examples
            The examples in a form that each rank can read, in rank order.
        """
        source = self.sources.resident(examples.source)
        return [replace(examples, images=source)] * self.plan.num_ranks
