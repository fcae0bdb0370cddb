"""The ranks that ``mpiexec`` or ``srun`` launched, each a process that runs this same program.

Rank 0 plans and shows the result; the others wait politely for their part, run it, and wait until
rank 0 is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..engine.here import here
from ..engine.rank import share_cores
from ..engine.report import Report
from ..errors import PeerFailed
from ..io.sources import Source
from ..io.stage_weights import read_weights
from ..io.writers import Store
from ..job.job_plan import JobPlan
from ..runtime.process_memory import keep_blocks
from ..runtime.state import Piece
from .session import Session


class Launched(Session):
    """The other ranks, as rank 0 sees them: it hands out orders, all carry them out."""

    def __init__(self, plan: JobPlan, post: Post):
        super().__init__(plan)
        if plan.num_ranks > post.comm.size:
            raise ValueError(
                f"the plan needs {plan.num_ranks} ranks, but the launcher started"
                f" {post.comm.size}: start {plan.num_ranks}"
            )
        self.post = post
        self.load(plan)

    def _load(self, plan: JobPlan, parts: Sequence[tuple[Any, Path]]) -> None:
        if plan.job.backend != "mpi":
            self.post.order("carry", [plan.job.backend] * self.post.comm.size)
        self._order("load", [(rank_plan, dict(read_weights(path))) for rank_plan, path in parts])

    def _each(self, name: str, args: Sequence[tuple]) -> list[Any]:
        return self._order("each", [(name, each) for each in args])

    def _infer(self, sources: dict[str, Source], run: int, released: Sequence[int]) -> list[Report]:
        return self._order("infer", [(sources, run)] * self.plan.num_ranks)

    def _order(self, what: str, each: Sequence[Any]) -> list[Any]:
        """Have the ranks of a plan do something; those that it does not need stay idle."""
        idle = [None] * (self.post.comm.size - len(each))
        return self.post.order(what, [*each, *idle])[: len(each)]

    def _fetch(self, run: int, ranks: Sequence[int]) -> list[list[Piece]]:
        orders = [run if rank in ranks else None for rank in range(self.post.comm.size)]
        return [pieces for pieces in self.post.order("fetch", orders) if pieces is not None]

    def _save(self, run: int, ranks: Sequence[int], value: str, store: Store) -> None:
        order = (run, value, store)
        self.post.order(
            "save", [order if rank in ranks else None for rank in range(self.post.comm.size)]
        )


class Post:
    """Carries orders from rank 0 to all ranks, and their answers back."""

    def __init__(self):
        from mpi4py import MPI

        from ..transport.mpi import MPITransport
        from ..transport.waiting import politely

        self.comm = MPI.COMM_WORLD
        self._politely = politely
        self.transport = MPITransport(self.comm)
        keep_blocks()

    def order(self, what: str, each: Sequence[Any]) -> list[Any]:
        """On rank 0: have every rank do something; the answers in rank order.

        Raises
        ------
        Exception
            The one that a rank raised; the cause, where others failed in consequence.
        """
        self._meet()
        self.comm.scatter([(what, item) for item in each])
        answers = self._answer(what, each[0])
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        for error in sorted(errors, key=lambda e: isinstance(e, PeerFailed)):
            raise error
        return answers

    def serve(self) -> None:
        """On the other ranks: carry out orders until the last."""
        while True:
            self._meet()
            what, item = self.comm.scatter(None)
            if what == "leave":
                return
            self._answer(what, item)

    def _answer(self, what: str, item: Any) -> Any:
        try:
            answer = self._do(what, item)
        except Exception as error:
            answer = error
        self._meet()
        return self.comm.gather(answer)

    def leave(self) -> None:
        """On rank 0: let the others go."""
        self._meet()
        self.comm.scatter([("leave", None)] * self.comm.size)

    def _meet(self) -> None:
        """Wait for all ranks without taking the core of one that still computes."""
        request = self.comm.Ibarrier()
        self._politely(request.Test, lambda: None, float("inf"))

    def _do(self, what: str, item: Any) -> Any:
        if item is None:
            return None
        if what == "carry":
            self.transport.backend = item
            return self.transport.reset()
        if what == "load":
            rank_plan, weights = item
            self.transport.num_ranks = rank_plan.num_ranks
            share_cores(rank_plan, self.transport.local_size)
            return here.load(rank_plan, weights, self.transport, self.transport.local_rank)
        if what == "infer":
            return here.infer(*item)
        if what == "each":
            name, args = item
            return getattr(here, name)(*args)
        return here.save(*item) if what == "save" else here.outputs_of(item)


def run_launched(drive: Callable[[Post], int]) -> int:
    """Run a program that rank 0 drives while the others serve; the exit code."""
    post, code = Post(), 0
    try:
        if post.comm.rank > 0:
            post.serve()
        else:
            try:
                code = drive(post)
            finally:
                post.leave()
    finally:
        post.transport.backend = "mpi"
        post.transport.reset()  # nothing is left on its way
    return code
