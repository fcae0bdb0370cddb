"""Loads plans and weights on the ranks of a session, and notices where they are outdated."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..engine.service import Call, RankService
from ..io.examples import Examples
from ..io.resident import ResidentSources
from ..job.job_plan import JobPlan
from ..training.start import TrainingStart
from .rank_calls import RankCalls
from .weight_files import weight_names, weights_hash, write_weight_file


def stages_by_rank(plan: JobPlan) -> list[tuple[int, ...]]:
    """Numbers of the stages that each rank works in, in rank order."""
    return [plan.stages_on(rank) for rank in range(plan.num_ranks)]


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
        stages_of = stages_by_rank(plan)
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

    def begin_training(self, module: nn.Module, start: TrainingStart) -> None:
        """Make every rank ready to train; `train` calls it before the first epoch.

        Parameters
        ----------
        module
            The network with the weights to begin with.
        start
            What is trained and how, and the state of the optimizer; each rank receives that of its
            own parameters.
        """
        known = self._loaded_plan is self.plan and self._loaded_weights is not None
        if not known or self._loaded_weights != weights_hash(module):
            self._load_weights(self.plan, module)
        self._loaded_weights = None  # training changes the weights on the ranks
        names = [weight_names(self.plan, stages) for stages in stages_by_rank(self.plan)]
        starts = [start.restricted_to(each) for each in names]
        self._ask([Call.to(RankService.begin_training, each) for each in starts])

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
