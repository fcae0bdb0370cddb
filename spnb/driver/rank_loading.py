"""Loads plans and weights on the ranks of a session, and notices where they are outdated."""

from __future__ import annotations

import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..engine.report import Report
from ..engine.service import Call, InferTask, RankService, RankShare
from ..errors import OptionError
from ..io.datasets.examples import Examples
from ..io.disk.scratch import remove_scratch, scratch_folder
from ..io.resident import ResidentSources
from ..io.sources import Source, files_opened
from ..io.stage_weights import read_weights
from ..io.writing.writers import Store
from ..ir.rank_plan import RankPlan
from ..job.job_plan import JobPlan
from ..training.evaluation import EvaluationReport, EvaluationTask
from ..training.start import TrainingStart
from .rank_calls import RankCalls
from .rank_sources import examples_for_ranks, sources_for_rank
from .saved_outputs import makers_of
from .visible_files import VisibleFiles, unseen_text
from .weight_files import weight_names, weights_hash, write_weight_file


def stages_by_rank(plan: JobPlan) -> list[tuple[int, ...]]:
    """Numbers of the stages that each rank works in, in rank order."""
    return [plan.stages_on(rank) for rank in range(plan.num_ranks)]


def weight_files(plan: JobPlan, module: nn.Module, folder: Path) -> list[Path]:
    """Write the weights of all stages into files of a folder; the file of each rank."""
    stages_of = stages_by_rank(plan)
    files = {
        stages: write_weight_file(plan, module, stages, folder)
        for stages in dict.fromkeys(stages_of)
    }
    return [files[stages] for stages in stages_of]


@dataclass(frozen=True)
class PlanBeside:
    """A plan for inference that ranks run beside the plan that is loaded.

    Attributes
    ----------
    plan
        The plan.
    rank_plans
        The share of each rank of the loaded plan; None for a rank that this plan does not need.
    """

    plan: JobPlan
    rank_plans: tuple[RankPlan | None, ...]

    @classmethod
    def of(cls, plan: JobPlan, loaded: JobPlan) -> PlanBeside:
        """A plan beside a loaded one, which has as many ranks or more."""
        shares = map(plan.rank_plan, range(plan.num_ranks))
        return cls(plan, (*shares, *[None] * (loaded.num_ranks - plan.num_ranks)))


class RankLoading(RankCalls):
    """Ranks, and what they were given: a plan, weights, and files of images.

    Attributes
    ----------
    scratch
        The folder of the files that ranks read.
    sources
        The images among these files.
    files
        Tells which ranks see a file.
    shares_files
        Whether all ranks see the files of the folder.
    """

    def __init__(self, plan: JobPlan):
        plan.build_module()  # refuses a bad checkpoint before any rank starts
        self.plan = plan
        self.scratch = scratch_folder()
        self._clean = weakref.finalize(self, remove_scratch, self.scratch)
        self.sources = ResidentSources(self.scratch)
        self._loaded_plan: JobPlan | None = None  # the plan that the ranks have
        self._loaded_weights: int | None = None  # hash of the weights that they have
        self._rank_plans: list[RankPlan] = []
        self.files = VisibleFiles()
        self.shares_files = True  # those of its folder

    @abstractmethod
    def _say(self, text: str) -> None:
        """Print a line, unless the user wants none."""

    def _load_weights(self, plan: JobPlan, module: nn.Module) -> None:
        """Load a plan with the weights of a module."""
        files = weight_files(plan, module, self.scratch)
        self._rank_plans = [plan.rank_plan(rank) for rank in range(plan.num_ranks)]
        self._load(plan, list(zip(self._rank_plans, files, strict=True)))
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

    def evaluate_shares(
        self,
        shares: Sequence[Examples],
        task: EvaluationTask,
        beside: PlanBeside | None = None,
        module: nn.Module | None = None,
    ) -> list[EvaluationReport]:
        """Sum loss and metrics over examples on the ranks; `evaluate` and `train` call it.

        Parameters
        ----------
        shares
            The examples in a form that each rank can read.
        task
            What is summed over which of the examples.
        beside
            A plan that is run in place of the loaded one, which stays loaded.
        module
            The network with the weights for that plan.

        Returns
        -------
        list of EvaluationReport
            The report of each rank, in rank order.
        """
        if beside is None:
            return self._ask_to_evaluate(shares, task, [None] * len(shares))
        assert module is not None  # a plan beside the loaded one has weights of its own
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            files = weight_files(beside.plan, module, Path(folder))
            needed = zip(beside.rank_plans, files, strict=False)
            rank_shares = [RankShare(own, self._weights_for_rank(file)) for own, file in needed]
            rank_shares += [RankShare(None)] * (len(shares) - len(files))
            return self._ask_to_evaluate(shares, task, rank_shares)

    def _ask_to_evaluate(
        self,
        shares: Sequence[Examples],
        task: EvaluationTask,
        rank_shares: Sequence[RankShare | None],
    ) -> list[EvaluationReport]:
        given = zip(shares, rank_shares, strict=True)
        return self._ask([Call.to(RankService.evaluate, each, task, own) for each, own in given])

    def _weights_for_rank(self, file: Path) -> Path | Mapping[str, torch.Tensor]:
        """The weights of a file as they are sent to ranks; the file itself if all see it."""
        return file if self.shares_files else dict(read_weights(file))

    def _infer(self, sources: dict[str, Source], task: InferTask) -> list[Report]:
        """Run on every rank; the outputs of released runs may be freed."""
        return self._ask(self._calls_of_infer(sources, task))

    def _calls_of_infer(self, sources: dict[str, Source], task: InferTask) -> list[Call[Report]]:
        """The call of each rank, with the sources that it can read."""
        seen = {name: self._sees(source) for name, source in sources.items()}
        calls = []
        for rank, rank_plan in enumerate(self._rank_plans):
            unseen = [name for name in sources if not seen[name][rank]]
            own = sources_for_rank(sources, rank_plan, unseen)
            calls.append(Call.to(RankService.infer, own, task))
        return calls

    def _sees(self, source: Source) -> list[bool]:
        """Whether each rank can open the files of an image."""
        seen = [self.files.seen(file, self.plan.num_ranks) for file in files_opened(source)]
        return [all(each[rank] for each in seen) for rank in range(self.plan.num_ranks)]

    def _save(self, run: int, ranks: Sequence[int], value: str, store: Store) -> None:
        """Write an output of which these ranks have regions.

        If one of them does not see the file, this process writes it, and holds the regions of one
        rank at a time.
        """
        assert store.new is not None  # the file was made
        seen = self.files.seen(store.new, self.plan.num_ranks)
        unseen = [rank for rank in ranks if not seen[rank]]
        if not unseen:
            self._ask_some(ranks, Call.to(RankService.save, run, value, store))
            return
        self._say(f"{unseen_text(unseen, store.path.parent)}: this process writes the output")
        for rank in ranks:
            (pieces,) = self._fetch(run, [rank])
            for piece in pieces:
                if piece.value == value:
                    store.write(piece.region, piece.tensor)

    def share(
        self, examples: Examples, rank_plans: Sequence[RankPlan | None] | None = None
    ) -> list[Examples]:
        """Prepare examples for the ranks; what is in memory is written to files once.

        Parameters
        ----------
        examples
            Images and targets.
        rank_plans
            The share of each rank in a plan that is run beside the loaded one; by default those of
            the loaded plan.

        Returns
        -------
        list of Examples
            In rank order, with the files that the rank sees, or with the regions that it needs.
        """
        images = self.sources.resident(examples.source)
        plans = self._rank_plans if rank_plans is None else rank_plans
        folder = self.scratch if self.shares_files else None
        return examples_for_ranks(examples, images, plans, self._sees(images), folder)


def require_seen(ranks: RankLoading, path: Path, value: str) -> None:
    """Refuse a file for an output in a folder that not all ranks with regions of it see.

    Parameters
    ----------
    ranks
        The ranks, with a plan.
    path
        The file.
    value
        Name of the output in the graph.

    Raises
    ------
    OptionError
        With these ranks, and what to do.
    """
    seen = ranks.files.seen_in(path.parent, ranks.plan.num_ranks)
    if unseen := [rank for rank in makers_of(ranks.plan, value) if not seen[rank]]:
        raise OptionError(
            f"{unseen_text(unseen, path.parent)}, where --save-output writes: name a folder"
            " that all hosts share, or add --gather-output, and rank 0 writes the output"
        )
