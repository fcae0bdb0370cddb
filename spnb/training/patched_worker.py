"""A rank in inference that computes its tile in patches which wait for each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..ir.rank_plan import RankPlan
from ..kernels.devices import CPU
from ..runtime.state import RunState
from ..runtime.worker import ReportProgress, Worker
from ..transport import Transport
from .tapes.patched_tape import PatchedTape


class PatchedWorker(Worker):
    """A rank whose patches exchange halos and figures; otherwise as `Worker`.

    Parameters
    ----------
    rank_plan
        Its share of the plan, with patches.
    weights
        The parameters and buffers that its stage reads, by name, in the plan's dtype.
    transport
        Its end of the carrier; ``None`` until it is connected.
    device
        Where it computes.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        weights: Mapping[str, torch.Tensor],
        transport: Transport | None,
        device: torch.device = CPU,
    ):
        super().__init__(rank_plan, weights, transport, device)
        self._weights = dict(weights)

    def _run_all(
        self, run: RunState, transport: Transport, report_progress: ReportProgress
    ) -> None:
        turns = self.turns
        report_progress(0, 0.0, run.recorder)
        for done, (compiled, number) in enumerate(turns):
            stage = compiled.pipeline_stage
            assert stage.rank_plan.patches is not None
            run.recorder.micro_batch = number
            tape = PatchedTape(
                stage.rank_plan,
                stage.rank_plan.patches,
                number,
                self._weights,
                stage.view(transport),
                recorder=run.recorder,
                recorded=False,
            )

            def report(share: float, tape: PatchedTape = tape, done: int = done) -> None:
                run.at = tape.at
                report_progress(done, (done + share) / len(turns), run.recorder)

            tape.forward(run.read, report=report)
            run.pieces += tape.pieces
        report_progress(len(turns), 1.0, run.recorder)


def worker_for(
    rank_plan: RankPlan,
    weights: Mapping[str, torch.Tensor],
    transport: Transport | None,
    device: torch.device,
) -> Worker:
    """The worker that a rank needs for its share of a plan for inference."""
    kind = Worker if rank_plan.patches is None else PatchedWorker
    return kind(rank_plan, weights, transport, device)
