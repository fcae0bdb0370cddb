"""A forward pass of the network in a program of the user's own, and the backward pass after it.

PyTorch's autograd sees the whole pass as one operation, whose operands are this rank's tiles and
parameters::

    x (tiles) ──►┌───────────────────────────────────────────┐──► y (tiles) ──►  the user's loss
    parameters ─►│ NetworkPass: a tape for each micro-batch  │
                 └───────────────────────────────────────────┘
    x.grad ◄──── halos back, and sums over the ranks  ◄─────────── gradient of y

So what autograd does with an operation works here: gradients accumulate, one loss may go through
several networks, and it may be any function.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...ir.node import Node
from ...ir.program import Receive
from ...ir.rank_plan import RankPlan
from ...ir.region import Region
from ...rules.dropout import noise
from ...runtime.pipeline_stage import PipelineStage
from ...runtime.state import Piece
from ...transport import Transport
from ..reducer import Bucket, Reducer, buckets_of, completed_by_step
from ..running_stats import RunningStats
from ..step_weights import StepWeights
from ..sums import Sums
from ..tapes.tape import Tape
from ..tapes.taped_program import TapedPrograms
from .local_pieces import LocalPieces

Record = Callable[[int, Node, Sequence[Any]], None]
"""Called with the number of a micro-batch, a call and its operands, when the call is computed."""

Together = Callable[[Callable[[], str]], AbstractContextManager[Any]]
"""Gives the context of a call of all ranks, from a function that says what this rank is at."""


@dataclass(frozen=True)
class RankNetwork:
    """What a rank computes of a network: its stage, its regions, and its weights.

    Attributes
    ----------
    stage
        Its stage.
    inputs, outputs
        Its regions of each input and of each output, by name.
    weights
        Its parameters, buffers and literals by name.
    trainable
        Names of the parameters that have a gradient, unless they are frozen.
    statistics
        The groups in which running statistics are summed over ranks.
    running_stats
        The running statistics that it updates.
    programs
        Its programs, prepared for its passes.
    """

    stage: PipelineStage
    inputs: Mapping[str, LocalPieces]
    outputs: Mapping[str, LocalPieces]
    weights: Mapping[str, torch.Tensor]
    trainable: Sequence[str]
    statistics: Sequence[Bucket]
    running_stats: RunningStats
    programs: TapedPrograms

    @property
    def rank_plan(self) -> RankPlan:
        """The rank's share of the plan."""
        return self.stage.rank_plan

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the parameters that have a gradient at this moment."""
        return tuple(name for name in self.trainable if self.weights[name].requires_grad)

    def gradients_of(self, trained: Collection[str]) -> list[Bucket]:
        """The groups in which gradients are summed over ranks."""
        return buckets_of(self.rank_plan.shared, trained, (), self.weights)


class NetworkPass:
    """One forward pass over the batch, and the backward pass after it.

    Parameters
    ----------
    network
        What this rank computes.
    transport
        Carries its messages.
    together
        The context of a call of all ranks.
    seed
        Seed of dropout's random numbers.
    recorded
        Whether a backward pass may follow.
    """

    def __init__(
        self,
        network: RankNetwork,
        transport: Transport,
        together: Together,
        seed: int,
        recorded: bool,
    ):
        self.network, self.transport, self.together = network, transport, together
        self.seed, self.recorded = seed, recorded
        self.trained = network.trained
        self.weights = StepWeights.of(
            weights=network.weights,
            parameters=self.trained,
            rank_plans=[network.rank_plan],
            dtype=network.rank_plan.dtype,
        )
        self._tapes: list[tuple[int, Tape]] = []  # with the numbers of their micro-batches
        self._latest: Tape | None = None
        self.of_inputs = False

    @property
    def at(self) -> str:
        """The stage and the operation that the rank is at, for the message of an error."""
        return f"stage {self.network.rank_plan.stage}, {self._latest.at if self._latest else ''}"

    # --- forward ----------------------------------------------------------------------------

    def forward(self, inputs: Sequence[torch.Tensor], of_inputs: bool) -> list[torch.Tensor]:
        """Run forward; every rank must be called.

        Parameters
        ----------
        inputs
            The rank's regions of each input.
        of_inputs
            Whether the inputs have a gradient.

        Returns
        -------
        list of torch.Tensor
            The rank's regions of each output.
        """
        self.of_inputs = of_inputs
        moved = {name: self.network.weights[name] for name in self.network.running_stats.moves}
        with self.together(lambda: self.at):
            statistics = Reducer(self.network.statistics, moved, self.transport)
            pieces = self._forward_all(inputs, partial(self._record_statistics, statistics.sums))
            statistics.finish()
            self.network.running_stats.update(self.network.weights, statistics.sums)
            self.transport.flush()
        found = {(piece.value, piece.region): piece.tensor for piece in pieces}
        return [
            local.join([found[value, region] for region in local.regions])
            for value, local in self.network.outputs.items()
        ]

    def forward_again(self, inputs: Sequence[torch.Tensor]) -> None:
        """Run forward once more, for another backward pass; every rank must be called.

        Parameters
        ----------
        inputs
            The rank's regions of each input, as they were.
        """
        with self.together(lambda: self.at), torch.autocast(inputs[0].device.type, enabled=False):
            self._forward_all(inputs, lambda number, node, operands: None)
            self.transport.flush()

    @property
    def is_over(self) -> bool:
        """Whether the backward pass was run, which frees the values."""
        return not self._tapes

    def _forward_all(self, inputs: Sequence[torch.Tensor], record: Record) -> list[Piece]:
        """Run all micro-batches forward; return the regions of the outputs that were computed."""
        given = _by_region(self.network.inputs, inputs)
        pieces: list[Piece] = []
        for number in self.network.stage.pipeline.numbers:
            pieces += self._forward(number, given, record)
        return pieces

    def _forward(
        self,
        number: int,
        given: Mapping[tuple[str, Region], torch.Tensor],
        record: Record,
    ) -> list[Piece]:
        """Run a micro-batch forward; return the regions of the outputs that it computed."""
        stage = self.network.stage
        view = stage.view(self.transport)
        tape = self._latest = Tape.of(
            programs=self.network.programs,
            stage=stage,
            number=number,
            weights=self.weights.every,
            transport=view,
            recorded=self.recorded,
            of_inputs=self.of_inputs,
        )
        with self._noise(number):
            tape.forward(
                lambda value, region: given[value, region],
                partial(record, number),
            )
        if self.recorded:
            self._tapes.append((number, tape))
        return tape.pieces

    def _noise(self, number: int) -> AbstractContextManager[None]:
        sizes = self.network.rank_plan.micro_batch_sizes
        return noise(self.seed, self.network.rank_plan.first_image(number), sum(sizes))

    def _record_statistics(
        self, sums: Sums, number: int, node: Node, operands: Sequence[Any]
    ) -> None:
        if self.network.stage.records_statistics:
            rank_plan = self.network.rank_plan
            self.network.running_stats.record(node, operands, rank_plan, number, sums)

    # --- backward ---------------------------------------------------------------------------

    def backward(
        self, gradients: Sequence[torch.Tensor | None]
    ) -> tuple[list[torch.Tensor | None], dict[str, torch.Tensor]]:
        """Run backward; every rank must be called.

        Parameters
        ----------
        gradients
            The gradient of the rank's regions of each output; None where the loss reads none.

        Returns
        -------
        list of torch.Tensor
            The gradient of the rank's regions of each input; None where there is none.
        dict
            The gradients of its trained parameters by name, summed over the ranks.
        """
        with self.together(lambda: self.at):
            return self._backward(gradients)

    def _backward(
        self, gradients: Sequence[torch.Tensor | None]
    ) -> tuple[list[torch.Tensor | None], dict[str, torch.Tensor]]:
        network, weights = self.network, self.weights
        summed = {**weights.made, **network.weights}
        like = {name: summed[name] for name in (*self.trained, *weights.made)}
        reducer = Reducer(network.gradients_of(self.trained), like, self.transport)
        given = _by_region(network.outputs, gradients)
        complete = self._complete_after()
        found: dict[tuple[str, Region], torch.Tensor] = {}
        for index in range(len(self._tapes)):
            number, tape = self._tapes.pop()
            self._latest = tape

            def passed(step: int, index: int = index) -> None:
                reducer.mark_ready(complete.get((index, step), ()))

            with self._noise(number):  # values that are computed again need the same mask
                tape.backward(
                    [given.get((piece.value, piece.region)) for piece in tape.pieces],
                    reducer.sums.add,
                    passed,
                )
            found |= self._of_inputs(number, tape)
        weights.add_gradients_of_made(reducer.sums, self.trained)
        reducer.finish()
        self.transport.flush()
        of_inputs = [self._joined(value, found) for value in network.inputs]
        return of_inputs, {name: reducer.sums[name] for name in self.trained}

    def _joined(
        self, value: str, found: Mapping[tuple[str, Region], torch.Tensor]
    ) -> torch.Tensor | None:
        """The gradient of the rank's regions of an input: zeros where no output depends on it."""
        local = self.network.inputs[value]
        if not (self.of_inputs and local.dtype.is_floating_point):
            return None
        zeros = torch.zeros(local.shape, dtype=local.dtype)
        pieces = zip(local.regions, local.split(zeros), strict=True)
        return local.join([found.get((value, region), zero) for region, zero in pieces])

    def _complete_after(self) -> Mapping[tuple[int, int], Sequence[str]]:
        """By backward pass and step: the parameters with complete gradients after it."""
        passes = [(0, "backward", number) for number, _ in reversed(self._tapes)]
        return completed_by_step(passes, [self.network.stage], self.trained)

    def _of_inputs(self, number: int, tape: Tape) -> dict[tuple[str, Region], torch.Tensor]:
        """The gradients of the regions of inputs that a micro-batch read."""
        rank_plan, found = self.network.rank_plan, {}
        first_image = rank_plan.first_image(number)
        for step in tape.program.steps:
            if isinstance(step, Receive) and step.kind == "input":
                gradient = tape.values.gradients.get(step.value, [None])[0]
                if gradient is not None:
                    region = rank_plan.in_batch(step.region, step.axes, first_image)
                    found[step.value, region] = gradient
        return found


def _by_region(
    pieces: Mapping[str, LocalPieces], tensors: Sequence[torch.Tensor | None]
) -> dict[tuple[str, Region], torch.Tensor]:
    """The piece over each region of each value."""
    return {
        (value, region): piece.detach()
        for (value, local), tensor in zip(pieces.items(), tensors, strict=True)
        if tensor is not None
        for region, piece in zip(local.regions, local.split(tensor), strict=True)
    }
