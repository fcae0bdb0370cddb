"""MPI engines that run plans, started and watched from a notebook through ipyparallel.

The module is longer than others since it overrides most calls of a session, each documented.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from ..display.cards import Card, Shown
from ..display.progress import (
    Bar,
    notebook,
    show_epoch,
    show_evaluation,
    show_output,
    show_run,
)
from ..engine import remote
from ..engine.report import Report
from ..engine.service import Call, InferTask, RankService, RankShare, answered
from ..errors import EngineError, RunError
from ..io.datasets.examples import Examples
from ..io.sources import Source
from ..ir.rank_plan import RankPlan
from ..job.job_plan import JobPlan
from ..runtime.host_memory import host_memory
from ..training.epoch import EpochReport, Steps
from ..training.evaluation import EvaluationReport, EvaluationTask
from .cluster_card import cluster_card
from .enough_memory import require_memory
from .launch.engine_calls import Poll
from .launch.engines import Engines
from .launch.placement import HERE, Placement
from .run_display import UnderWay, displayed, first_readable
from .session import Session
from .visible_files import VisibleFiles

if TYPE_CHECKING:
    from ipyparallel import Client, DirectView

OWN_ERRORS = ("RankError", "PeerFailed", "WaitTimeout")
"""Remote errors with the number of the rank in their message."""

T = TypeVar("T")


class Cluster(Shown, Session):
    """A plan on MPI engines.

    The engines start when the object is made.  They stop at the end of a ``with`` block, by `stop`,
    or when this process ends for any reason.

    Parameters
    ----------
    plan
        As `spnb.plan` returns it.  ``plan.num_ranks`` engines are started; `load` takes another
        plan later.
    client
        An ipyparallel client of your own.  Its engines must be the ranks of one MPI world, however
        you started them (on Slurm, with a host file, from a profile).  No engine is started then,
        and `stop` leaves them running.
    placement
        Where engines are started: on this host by default, or on others, by mpiexec, ssh or Slurm.
        `spnb.start` takes its options one by one.
    timeout
        Seconds to wait for engines to start; those of a job in the queue do not count.
    deadline
        Seconds after which a rank that does not answer is named, by default those of the plan's
        job.  It is stopped, or waits for a disk; a rank that computes may do so for as long as it
        takes, and one that fails or dies is found at once.  In a notebook the run then waits on,
        and can be interrupted; elsewhere it fails.
    progress
        Whether to show bars while engines start, and while a run takes longer than a second.
    live
        Whether a notebook shows a widget in place of a run's bar: tiles in the colour of what their
        ranks do, and the time of each rank.  It may be set between runs.

    Raises
    ------
    StartError
        If the engines do not start, or are not the ranks of one MPI world.
    WeightsError
        If the job's checkpoint cannot be read.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, split_size=1,
    ...                num_spatial_parts=2)
    >>> plan = spnb.plan(job)
    >>> with spnb.Cluster(plan, progress=False) as cluster:
    ...     passed = cluster.infer().check().passed
    ...     tiles = cluster.view.apply(lambda: __import__("spnb").here.tile)
    ...     cluster.load(spnb.plan(job.replace(slice_method="horizontal")))
    ...     shape = tuple(cluster.infer().output.shape)
    ...     cluster.restart()
    ...     engines = len(cluster.client.ids)
    ...     state = cluster.card.title.split(",")[0]
    >>> passed, tiles, shape, engines, cluster.stopped, state, cluster.deadline
    (True, [0, 1], (1, 10), 2, True, 'Cluster: 2 engines on 1 host', 60)
    """

    live = True  # whether a notebook shows a widget in place of a run's bar

    def __init__(
        self,
        plan: JobPlan,
        *,
        client: Client | None = None,
        placement: Placement = HERE,
        timeout: float = 120.0,
        deadline: float | None = None,
        progress: bool = True,
        live: bool = True,
    ):
        super().__init__(plan)
        self._deadline = deadline  # None for that of the plan's job
        self.progress, self.live, self._failed = progress, live, False
        self._offered: Client | None = None  # the client that the notebook's variable `rc` holds
        bar = Bar(progress)
        self.engines = Engines(
            plan.num_ranks,
            timeout=timeout,
            on_progress=bar.show,
            deadline=self.deadline,
            placement=placement,
        )
        try:
            if client is None:
                self._require_memory(plan)
                self.engines.start()
            else:
                self.engines = Engines.adopt(client, self.deadline)
            self._prepare()
            if client is not None or not placement.is_here:
                self._require_memory(plan)
            super().load(plan)
        except BaseException:
            self.stop()
            raise
        finally:
            bar.close()

    @property
    def client(self) -> Client | None:
        """The ipyparallel client, ``None`` once stopped; engine ids may differ from ranks.

        The class has an example.
        """
        return self.engines.client

    @property
    def view(self) -> DirectView | None:
        """A view of the engines in the order of their ranks; it blocks.  ``None`` once stopped.

        The class has an example.
        """
        return self.engines.view

    @property
    def deadline(self) -> float:
        """Seconds after which a rank that does not answer is named.

        The class has an example.
        """
        return self.plan.job.deadline if self._deadline is None else self._deadline

    def load(self, plan: JobPlan) -> None:
        """Load another plan; more engines are started if it needs more than there are.

        The class has an example.

        Parameters
        ----------
        plan
            As `spnb.plan` returns it.

        Raises
        ------
        RuntimeError
            If the cluster is stopped, or needs more engines than a client of your own has.
        """
        self._require_open()
        self._require_memory(plan)
        if self.engines.ensure(plan.num_ranks):
            self._prepare()
        super().load(plan)
        self.engines.change_deadline(self.deadline)

    def _load_weights(self, plan: JobPlan, module: nn.Module) -> None:
        self._recover(plan)  # an interrupted cell may have left messages
        super()._load_weights(plan, module)

    def restart(self) -> None:
        """Start new engines and load the plan again, for instance after an engine died.

        A training goes on with the epochs that were done.

        The class has an example.

        Raises
        ------
        RuntimeError
            If the cluster is stopped, or the engines are those of a client of your own.
        """
        self._require_open()
        self.engines.restart()
        self._prepare()
        self._load_weights(self.plan, self.plan.module)

    def stop(self) -> None:
        """Stop the engines, except those of a client of your own; safe to call again.

        A ``with`` block calls it at its end; the class has an example.
        """
        self.engines.stop()
        super().stop()

    @property
    def card(self) -> Card:
        """Engines, hosts and state, and the plan that is loaded.  The class has an example."""
        if self.stopped:
            return Card("Cluster: stopped")
        return cluster_card(self.plan, self.engines.hosts, self.engines.alive)

    def _require_memory(self, plan: JobPlan) -> None:
        """Refuse a plan that a host has too little memory for, and warn if too little is free."""
        if self.engines.alive and len(self.engines.ids) >= plan.num_ranks:
            require_memory(plan, self._call(host_memory, [()] * plan.num_ranks))
        elif self.engines.placement.is_here:
            require_memory(plan, [replace(host_memory(), held=0)] * plan.num_ranks)

    def _prepare(self) -> None:
        token = self.scratch / "token"
        token.touch()
        hosts = self.engines.hosts
        self._failed = False
        path = [str(Path(folder).absolute()) for folder in sys.path]
        given = token, self.deadline, socket.gethostname(), path
        seen = self._call(remote.prepare, [given] * len(hosts))
        self.shares_files = all(seen)
        if set(hosts) != {socket.gethostname()}:
            self.files = VisibleFiles(lambda mark: self._call(remote.sees, [(mark,)] * len(hosts)))
        view = self.view
        assert view is not None  # the engines run
        view.execute("import spnb, torch, numpy as np", silent=True)
        if shell := notebook():
            view.block = True
            view.activate()
            # New engines have a new client; a variable `rc` that the user has set stays unchanged.
            if shell.user_ns.get("rc") in (None, self._offered):
                shell.user_ns["rc"] = self._offered = self.client

    def _load(self, plan: JobPlan, shares: Sequence[tuple[RankPlan, Path]]) -> None:
        loads = [(rank_plan, self._weights_for_rank(path)) for rank_plan, path in shares]
        idle = len(self.engines.ids) - len(loads)
        with Bar(self.progress) as bar:

            def show(published: list[dict]) -> None:
                bar.show("loading ranks", sum(map(len, published)), len(loads))

            self._call(remote.load, [*loads, *[(None, {})] * idle], show)

    def _ask(self, calls: Sequence[Call[T] | None], poll: Poll | None = None) -> list[T]:
        if self._failed:
            self._recover()
        return answered(self._call(remote.answer, [(call,) for call in calls], poll))

    def _infer(self, sources: dict[str, Source], task: InferTask) -> list[Report]:
        calls = self._calls_of_infer(sources, task)
        count = len(self.plan.micro_batch_sizes)
        source = next(iter(sources.values()))
        run = UnderWay(self.plan, f"infer {self.plan.job.name}", {"run": task.run}, source)
        bar = partial(show_run, run=task.run, micro_batches=count)
        with displayed(run, self.progress, self.live, bar) as show:
            return self._ask(calls, show)

    def train_epoch(
        self, shares: Sequence[Examples], epoch: int, steps: Steps | None = None
    ) -> list[EpochReport]:
        """Train on all examples once, with a bar; `train` calls it for each epoch.

        Parameters
        ----------
        shares
            The examples in a form that each rank can read, as `share` returns them.
        epoch
            Number of the epoch, from 0.
        steps
            The steps to take, if not all of the epoch are taken in one call.

        Returns
        -------
        list of EpochReport
            The report of each rank, in rank order.
        """
        count = len(shares[0]) // self.plan.job.batch_size
        calls = [Call.to(RankService.train_epoch, each, epoch, steps) for each in shares]
        source, title = first_readable(shares), f"epoch {epoch + 1} of {self.plan.job.name}"
        run = UnderWay(self.plan, title, {"epoch": epoch}, source, count)
        bar = partial(show_epoch, epoch=epoch, steps=count)
        with displayed(run, self.progress, self.live, bar) as show:
            return self._ask(calls, show)

    def _ask_to_evaluate(
        self,
        shares: Sequence[Examples],
        task: EvaluationTask,
        rank_shares: Sequence[RankShare | None],
    ) -> list[EvaluationReport]:
        given, count = zip(shares, rank_shares, strict=True), len(task.batches)
        calls = [Call.to(RankService.evaluate, each, task, own) for each, own in given]
        with Bar(self.progress) as bar:
            return self._ask(calls, lambda published: show_evaluation(bar, published, count))

    def _recover(self, plan: JobPlan | None = None) -> None:
        backend = (plan or self.plan).job.backend
        self._call(remote.reset, [(backend,)] * len(self.engines.ids))
        self._failed = False

    def _call(
        self, function: Callable[..., T], args: Sequence[tuple], poll: Poll | None = None
    ) -> list[T]:
        try:
            return self.engines.call(function, args, poll=poll, output=show_output)
        except EngineError as error:
            self._failed = True
            raise RunError(error.message if error.name in OWN_ERRORS else str(error)) from None
        except BaseException:
            self._failed = True
            raise
