"""One rank in training: its stage's parameters, and a step over a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..capture.export import cast
from ..ir.node import Node
from ..ir.program import Compute
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.schedule import SCHEDULES, in_turns
from ..ir.tags import OVERFLOW
from ..ir.weights import add_constants
from ..kernels.devices import CPU, computing_on
from ..kernels.half_conv import HALVES, convolving
from ..rules.dropout import noise
from ..runtime.role import PipelineStage, pipeline_stages_of, turns_in
from ..runtime.state import Piece, Read
from ..runtime.worker import heard
from ..transport import Transport
from ..transport.allreduce import Sum
from .losses import Loss
from .reducer import Gathering, buckets_of
from .running_stats import Averages
from .scaling import Scaling
from .tape import Tape

Wanted = Callable[[str, Region], torch.Tensor]
"""What an output should be over a region of the whole batch, by its name."""


@dataclass(frozen=True)
class Step:
    """What a rank has to show for one step.

    Attributes
    ----------
    loss
        Its share of the loss: those of all ranks add up to the mean over the batch.
    pieces
        The regions of the outputs that it computed.
    held
        Most micro-batches that it held at once.
    early
        Sums of gradients over ranks that began before the last pass was over.
    finite
        Whether the gradients of all ranks are; if not, there are none.
    """

    loss: float
    pieces: list[Piece]
    held: int
    early: int
    finite: bool = True


class Learner:
    """One rank of a training plan.

    Parameters
    ----------
    rank_plan
        Its share of the plan.
    weights
        Parameters, buffers and literals that its stage's weights are made of; copied.
    trained
        Those that are parameters.
    transport
        Its end of the carrier.
    loss
        Of a piece of an output.
    schedule
        A key of `spnb.ir.schedule.SCHEDULES`.
    recompute
        Whether values are computed anew on the way back, in place of being held.
    device
        Where it computes.

    Attributes
    ----------
    parameters
        By name; each has its gradient, over all ranks and micro-batches, after a `step`.  In half
        precision they are fp32, and rounded for each step.
    scaling
        Of the loss, in fp16.
    """

    def __init__(
        self,
        rank_plan: RankPlan,
        weights: Mapping[str, torch.Tensor],
        trained: Collection[str],
        transport: Transport,
        loss: Loss,
        schedule: str = "1f1b",
        recompute: bool = False,
        device: torch.device = CPU,
    ):
        self.rank_plan, self.transport, self.loss = rank_plan, transport, loss
        self.recompute, self.device = recompute, device
        self.scaling = Scaling() if rank_plan.dtype == torch.float16 else None
        self.roles, parts = pipeline_stages_of(rank_plan), rank_plan.with_mirror
        self.weights = {name: tensor.to(device, copy=True) for name, tensor in weights.items()}
        self.parameters = {
            name: tensor.requires_grad_()
            for name, tensor in self.weights.items()
            if name in trained
        }
        self.passes = in_turns(SCHEDULES[schedule], rank_plan.num_stages, turns_in(self.roles))
        self.averages = Averages(parts)
        self._tapes: dict[int, Tape] = {}  # of micro-batches on their way
        shared = (each for rank_plan in parts for each in rank_plan.shared)
        self.buckets = buckets_of(shared, self.parameters, self.averages.known, self.weights)

    @cached_property
    def _known_after(self) -> dict[tuple[int, int], list[str]]:
        """By pass and step of its program: parameters that no later one has a gradient of."""
        last: dict[str, tuple[int, int]] = {}
        for index, (number, kind, micro_batch) in enumerate(self.passes):
            rank_plan = self.roles[number].rank_plan
            (program,) = rank_plan.programs[rank_plan.micro_batch_sizes[micro_batch]]
            if kind == "backward":
                for k, step in reversed(list(enumerate(program.steps))):
                    if isinstance(step, Compute):
                        last |= {w.name: (index, k) for w in rank_plan.nodes[step.node].weights}
        makers = {
            w.name for role in self.roles for c in role.rank_plan.constants for w in c.weights
        }
        found: dict[tuple[int, int], list[str]] = {}
        for name in self.parameters:
            if name in last and name not in makers:
                found.setdefault(last[name], []).append(name)
        return found

    def step(self, read: Read, wanted: Wanted, seed: int = 0) -> Step:
        """Forward and backward over the batch; then each parameter has its gradient.

        Parameters
        ----------
        read
            Where the image comes from.
        wanted
            What the outputs should be.
        seed
            Of what dropout drops.

        Raises
        ------
        RankError
            If an operator fails here; the other ranks are told.
        PeerFailed
            If another rank fails.
        """
        on_device, fast = computing_on(self.device), convolving(self.rank_plan.dtype, self.device)
        self._tapes.clear()
        with on_device, heard(self.transport, lambda: self.at), fast:
            return self._step(read, wanted, seed)

    @property
    def at(self) -> str:
        """In which stage it does what, to say so where it fails."""
        latest = next(reversed(self._tapes.values()), None)
        if latest is None:
            return f"stage {self.rank_plan.stage}, between micro-batches"
        return f"stage {latest.rank_plan.stage}, {latest.at}"

    def _step(self, read: Read, wanted: Wanted, seed: int) -> Step:
        batches, tapes = self.rank_plan.micro_batch_sizes, self._tapes
        leaves = self._leaves()
        made, weights = self._with_constants(leaves)
        for parameter in self.parameters.values():
            parameter.grad = None  # before others are made
        every = made | self.weights
        each = {name: every[name] for name in (*self.parameters, *made, *self.averages.known)}
        gathering = Gathering(self.buckets, each, self.transport)
        sums = gathering.sums

        def learn(name: str, gradient: torch.Tensor) -> None:
            sums[name] += gradient

        total, held, pieces = 0.0, 0, []
        losses: dict[int, list[torch.Tensor]] = {}
        self.transport.barrier()
        for index, (role, kind, number) in enumerate(self.passes):
            role, first_image = self.roles[role], sum(batches[:number])
            if kind == "forward":
                (program,) = role.rank_plan.programs[batches[number]]
                facts = (role.rank_plan, role.rules, program, weights, role.over(self.transport))
                tapes[number] = tape = Tape(*facts, first_image, self.recompute)

                def computed(
                    node: Node,
                    given: Sequence[Any],
                    role: PipelineStage = role,
                    number: int = number,
                ) -> None:
                    if role.tells:
                        self.averages.note(node, given, role.rank_plan, number, sums)

                with noise(seed, first_image, sum(batches)):
                    tape.forward(read, computed)
                shares = [self._share(piece, wanted) for piece in tape.pieces]
                total += sum(share for share, _ in shares)
                losses[number] = [gradient for _, gradient in shares]
                pieces += tape.pieces
                held = max(held, len(tapes))
            else:

                def passed(step: int, index: int = index) -> None:
                    if self.rank_plan.replicas.overlapped:
                        gathering.know(self._known_after.get((index, step), ()))

                with noise(seed, first_image, sum(batches)):  # for what is computed anew
                    tapes[number].backward(losses.pop(number), learn, passed)
                del tapes[number]
        early = len(gathering.under_way)
        self._add_made(sums, made, leaves)
        gathering.finish()
        finite = self._finish(sums)
        self.transport.flush()
        return Step(total, pieces, held, early, finite)

    def _leaves(self) -> dict[str, torch.Tensor]:
        """All weights as they are computed with: of half precision they are rounded copies."""
        dtype = self.rank_plan.dtype
        if dtype not in HALVES:
            return self.weights
        return {
            name: w.detach().to(cast(w, dtype)).requires_grad_(w.requires_grad)
            for name, w in self.weights.items()
        }

    def _with_constants(
        self, leaves: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """What is made of parameters, as it is now; and all weights, with it."""
        every: dict[str, Any] = dict(leaves)
        with torch.enable_grad():
            for role in self.roles:
                add_constants(every, role.rank_plan.constants)
        read = {name for role in self.roles for name in role.rank_plan.weights}
        made = {
            name: tensor
            for name, tensor in every.items()
            if name not in self.parameters and tensor.requires_grad and name in read
        }
        ends = {name: tensor.detach().requires_grad_() for name, tensor in made.items()}
        return made, every | ends

    def _share(self, piece: Piece, wanted: Wanted) -> tuple[float, torch.Tensor]:
        """A piece's share of the loss, and the gradient of that."""
        output = piece.tensor.detach()
        output = (output.float() if output.dtype in HALVES else output).requires_grad_()
        with torch.enable_grad():
            whole = self.rank_plan.outputs[piece.value]
            share = self.loss(output, wanted(piece.value, piece.region), whole)
        (gradient,) = torch.autograd.grad(share, output)
        if self.scaling is not None:
            gradient = gradient * self.scaling.factor
        return float(share.detach()), gradient.to(piece.tensor.dtype)

    def _add_made(
        self,
        sums: dict[str, torch.Tensor],
        made: Mapping[str, torch.Tensor],
        leaves: Mapping[str, torch.Tensor],
    ) -> None:
        """Gradients of what is made of parameters, on to those of the parameters."""
        if not made:
            return
        names = list(self.parameters)
        found = torch.autograd.grad(
            list(made.values()),
            [leaves[name] for name in names],
            [sums[name] for name in made],
            allow_unused=True,
        )
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                sums[name] += gradient

    def _finish(self, sums: Mapping[str, torch.Tensor]) -> bool:
        """Move running statistics, and give each parameter its gradient if all are finite."""
        self.averages.move(self.weights, sums)
        finite, factor = True, 1.0
        if self.scaling is not None:
            factor = self.scaling.factor
            wrong = sum(not bool(sums[name].isfinite().all()) for name in self.parameters)
            everybody = range(self.rank_plan.num_ranks)
            wrong = Sum(torch.tensor(float(wrong)), everybody, self.transport, OVERFLOW.tag())
            finite = not wrong.result()
            self.scaling = self.scaling.after(finite)
        for name, parameter in self.parameters.items():
            parameter.grad = sums[name].div_(factor) if finite else None
        return finite
