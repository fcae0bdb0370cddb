"""Runs plans: one face for every place where the ranks may live.

`Session` does what is common: it prepares weights and image so that each rank is given its own
part only.  `InProcess` has all ranks as threads of this process; `spnb.driver.cluster` has MPI
engines, `spnb.driver.mpi_launch` the processes that ``mpiexec`` started.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from ..engine.here import Here
from ..engine.report import Report
from ..io.datasets import Scaled
from ..io.examples import Examples
from ..io.resident import resident
from ..io.sources import ArraySource, Repeated, Source
from ..io.stage_weights import read_weights, write_weights
from ..io.writers import Store
from ..ir.weights import tensors_of
from ..job.job_plan import JobPlan
from ..runtime.state import Piece
from ..training.epoch import EpochReport
from ..training.loss_scale import LossScale
from ..training.recipe import Recipe
from ..transport.local import World
from . import training_loop
from .result import Result

T = TypeVar("T")


class Session(ABC):
    """A loaded plan, and ranks that can run it.

    Subclasses say how parts and images reach the ranks: `_load`, `_infer`, `_fetch`.
    """

    progress = True  # whether bars are shown

    def __init__(self, plan: JobPlan):
        plan.module  # noqa: B018 - a bad checkpoint is refused before any rank starts
        self.scratch = Path(tempfile.mkdtemp(prefix="spnb-"))
        self._clean = weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        self._written = weakref.WeakKeyDictionary()  # image in memory → its file
        self._runs, self._released = itertools.count(), []
        self.plan = plan

    def load(self, plan: JobPlan) -> None:
        """Give every rank its part of a plan and its stage's weights."""
        self._require_open()
        held = [plan.stages_on(rank) for rank in range(plan.num_ranks)]
        files = {stages: self._weights_file(plan, stages) for stages in dict.fromkeys(held)}
        self._load(
            plan, [(plan.rank_plan(rank), files[stages]) for rank, stages in enumerate(held)]
        )
        self.plan, self._given = plan, weakref.ref(plan.module)

    def infer(self, image: Any = None) -> Result:
        """Run the network on an image.

        Parameters
        ----------
        image
            An array, tensor, path, sample name or image source (see `spnb.io.open.open_source`);
            ``None`` for a synthetic image.  What ``plan.open(…)`` returns is made ready for the
            ranks once, and may be run again at no cost.  A list or dict of them for several inputs
            (see `spnb.job.job_plan.JobPlan.open_inputs`).

        Raises
        ------
        ValueError
            If the image does not fit the plan.
        """
        self._require_open()
        if self.plan.training:
            raise ValueError("this plan is for training: load one made with spnb.plan(job)")
        opened = self.plan.open_inputs(image)
        sources = {name: self._resident(source) for name, source in opened.items()}
        start = time.perf_counter()
        run = next(self._runs)
        released, self._released[:] = list(self._released), []
        reports = self._infer(sources, run, released)
        seconds = time.perf_counter() - start
        fetch, save = partial(self._fetch, run), partial(self._save, run)
        result = Result(self.plan, sources, reports, seconds, fetch, save, self.progress)
        weakref.finalize(result, self._released.append, run)  # then its output may go
        return result

    def train(
        self, images: Any = None, targets: Any = None, *, loss: str | None = None
    ) -> training_loop.Training:
        """Train the network of a plan that was made with ``training=True``.

        Steps, gradients and batch statistics are those of the untiled network with the same
        micro-batches.  Each epoch takes all examples in an order of its own, in whole batches.
        Where the job has a checkpoint file, it is written after each epoch, and training goes on
        from it.

        Parameters
        ----------
        images
            ``(examples, channels, *spatial)``: an array, tensor, path or image source; ``None``
            for those of the job's ``app``.  What `spnb.driver.training_loop.examples_of` returns
            is all that is needed.
        targets
            Class numbers ``(examples,)`` or ``(examples, *spatial)``, or numbers like the
            network's output.
        loss
            ``cross_entropy`` (classes), ``mse`` or ``l1``, averaged over the whole batch.

        Returns
        -------
        spnb.driver.training_loop.Training

        Raises
        ------
        ValueError
            If the examples do not fit the plan.
        WeightsError
            If the checkpoint is of another network or recipe.

        Examples
        --------
        >>> import spnb
        >>> import torch
        >>> import spnb
        >>> job = spnb.Job(torch.nn.Conv2d(1, 2, 3, padding=1), image_size=8, batch_size=2,
        ...                split_size=1, num_spatial_parts=2)
        >>> images, labels = torch.rand(4, 1, 8, 8), torch.ones(4, 8, 8, dtype=torch.long)
        >>> session = InProcess(spnb.plan(job, training=True), progress=False)
        >>> training = session.train(images, labels)
        >>> len(training.history)
        2
        """
        self._require_open()
        return training_loop.train(self, images, targets, loss=loss, say=self._say)

    def _say(self, text: str) -> None:
        if self.progress:
            print(text, flush=True)

    def begin(
        self,
        trained: Sequence[str],
        recipe: Recipe,
        kept: Mapping[str, Any],
        workers: int = 0,
        scaling: LossScale | None = None,
    ) -> None:
        """Make every rank ready to train; what the optimizer kept goes where it is used."""
        if self._given() is not self.plan.module:
            self.load(self.plan)  # with the weights that it has by now
        self._given = lambda: None  # ranks change what they were given
        each = []
        for rank in range(self.plan.num_ranks):
            names = self._names(self.plan, self.plan.stages_on(rank))
            mine = [name for name in names if name in set(trained)]
            known = {name: kept[name] for name in mine if name in kept}
            each.append((mine, recipe, known, workers, scaling))
        self._each("begin", each)

    def share(self, examples: Examples) -> list[Examples]:
        """Examples as each rank can read them; what is written for it is written once."""
        source = self._resident(examples.images)
        return [replace(examples, images=source)] * self.plan.num_ranks

    def epoch(self, shares: Sequence[Examples], epoch: int) -> list[EpochReport]:
        """Train on all examples once, of which each rank has its share; what each rank tells."""
        return self._each("epoch", [(each, epoch) for each in shares])

    def weights_of(self, ranks: Collection[int]) -> list[tuple[dict, dict]]:
        """Weights of some ranks, and what their optimizers keep, by name."""
        told = self._each("weights", [(rank in ranks,) for rank in range(self.plan.num_ranks)])
        return [told[rank] for rank in ranks]

    def _resident(self, source: Source) -> Source:
        """A source that ranks can read; what is written for it goes when it does.

        Of one source it is written once: an image that `spnb.job.job_plan.JobPlan.open` returned
        may be run again and again at no cost.
        """
        inner = source.source if isinstance(source, (Repeated, Scaled)) else source
        if not isinstance(inner, ArraySource):
            return source
        found = self._written.get(inner)
        if found is None:
            found = self._written[inner] = resident(inner, self.scratch)
            weakref.finalize(found, Path(found.path).unlink, missing_ok=True)
        return found if inner is source else replace(source, source=found)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return not self._clean.alive

    def stop(self) -> None:
        """Give back what the session holds; safe to call again."""
        self._clean()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _require_open(self) -> None:
        if self.stopped:
            raise RuntimeError(f"this {type(self).__name__} is stopped: make a new one")

    def _weights_file(self, plan: JobPlan, stages: Sequence[int]) -> Path:
        path = self.scratch / f"stage-{'-'.join(map(str, stages))}.pt"
        path.unlink(missing_ok=True)  # ranks may still map the file of the plan before
        weights = tensors_of(plan.module, self._names(plan, stages), plan.graph)
        write_weights(path, weights)
        return path

    @staticmethod
    def _names(plan: JobPlan, stages: Sequence[int]) -> list[str]:
        """Weights that ranks of stages get; in training what others are made of, too."""
        read = dict.fromkeys(name for stage in stages for name in plan.stages[stage].weights)
        return list(plan.graph.made_of(read)[0] if plan.training else read)

    @abstractmethod
    def _load(self, plan: JobPlan, parts: Sequence[tuple[Any, Path]]) -> None:
        """Give each rank its part of a plan, and the file of its stage's weights."""

    @abstractmethod
    def _each(self, name: str, args: Sequence[tuple]) -> list[Any]:
        """Call a method of `Rank` on every rank of the plan; results in rank order."""

    @abstractmethod
    def _infer(self, sources: dict[str, Source], run: int, released: Sequence[int]) -> list[Report]:
        """Run on every rank; the outputs of released runs may be dropped."""

    @abstractmethod
    def _fetch(self, run: int, ranks: Sequence[int]) -> list[list[Piece]]:
        """The outputs of a run that ranks kept to themselves."""

    def _save(self, run: int, ranks: Sequence[int], value: str, store: Store) -> None:
        """Write an output that these ranks have; here by the caller, one rank's after another's."""
        for rank in ranks:
            for piece in self._fetch(run, [rank])[0]:
                if piece.value == value:
                    store.write(piece.region, piece.tensor)


class InProcess(Session):
    """All ranks of a plan as threads of this process; to try a plan, and for tests.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size="33x47", batch_size=1, num_spatial_parts=2)
    >>> result = InProcess(spnb.plan(job)).infer()
    >>> result.check().passed
    True
    """

    def __init__(self, plan: JobPlan, deadline: float = 3600.0, progress: bool = True):
        super().__init__(plan)
        self.deadline, self.progress = deadline, progress
        self.load(plan)

    def load(self, plan: JobPlan) -> None:
        """Give every rank its part of a plan and its stage's weights."""
        if plan.job.backend != "mpi":
            raise ValueError(
                f"backend is {plan.job.backend}, but threads of one process need no carrier: leave"
                " it out, or use spnb.Cluster"
            )
        super().load(plan)

    def _load(self, plan: JobPlan, parts: Sequence[tuple[Any, Path]]) -> None:
        self._ranks = [Here() for _ in parts]
        for rank, (here, (rank_plan, path)) in enumerate(zip(self._ranks, parts, strict=True)):
            here.load(rank_plan, read_weights(path), None, rank)

    def _each(self, name: str, args: Sequence[tuple]) -> list[Any]:
        return self.run(lambda here: getattr(here, name)(*args[here.transport.rank]))

    def _infer(self, sources: dict[str, Source], run: int, released: Sequence[int]) -> list[Report]:
        for here, old in itertools.product(self._ranks, released):
            here.outputs.pop(old, None)
        reports = self.run(lambda here: here.infer(sources, run))
        for report, here in zip(reports, self._ranks, strict=True):
            report.pieces = here.outputs[run]  # no need to leave them behind: one process
            report.peak_memory_bytes = 0  # not known: all ranks share the process
        return reports

    def _fetch(self, run: int, ranks: Sequence[int]) -> list[list[Piece]]:
        return [self._ranks[rank].outputs_of(run) for rank in ranks]

    def _save(self, run: int, ranks: Sequence[int], value: str, store: Store) -> None:
        self.run(lambda here: here.save(run, value, store) if here.rank in ranks else None)

    def run(self, work: Callable[[Here], T]) -> list[T]:
        """Have every rank do something, each in a thread of its own; results in rank order."""

        def at_rank(transport: Any) -> T:
            here = self._ranks[transport.rank]
            here.connect(transport)
            return work(here)

        return World(self.plan.num_ranks, self.deadline).run(at_rank)
