"""One rank in training: its stage's parameters, and a step over a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .collectives import summed
from .losses import Loss
from .node import Node, Weight
from .program import Part
from .region import Region
from .rules import rule_of
from .rules.noise import noise
from .run import Piece, Read
from .schedule import SCHEDULES
from .tape import Tape
from .transport import Transport
from .weights import add_constants
from .worker import heard

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
    """

    loss: float
    pieces: list[Piece]
    held: int


class Learner:
    """One rank of a training plan.

    Parameters
    ----------
    part
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
        A key of `spnb.schedule.SCHEDULES`.
    recompute
        Whether values are computed anew on the way back, in place of being held.

    Attributes
    ----------
    parameters
        By name; each has its gradient, over all ranks and micro-batches, after a `step`.
    """

    def __init__(
        self,
        part: Part,
        weights: Mapping[str, torch.Tensor],
        trained: Collection[str],
        transport: Transport,
        loss: Loss,
        schedule: str = "1f1b",
        recompute: bool = False,
    ):
        self.part, self.transport, self.loss = part, transport, loss
        self.recompute = recompute
        self.rules = [rule_of(node) for node in part.nodes]
        self.weights = {name: tensor.clone() for name, tensor in weights.items()}
        self.parameters = {
            name: tensor.requires_grad_()
            for name, tensor in self.weights.items()
            if name in trained
        }
        self.passes = SCHEDULES[schedule](len(part.batches), part.num_stages, part.stage)

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
        tapes: dict[int, Tape] = {}

        def at() -> str:
            return next((tape.at for tape in reversed(tapes.values())), "between micro-batches")

        with heard(self.transport, self.part, at):
            return self._step(read, wanted, seed, tapes)

    def _step(self, read: Read, wanted: Wanted, seed: int, tapes: dict[int, Tape]) -> Step:
        part, batches = self.part, self.part.batches
        made, weights = self._with_constants()
        sums = {name: torch.zeros_like(weights[name]) for name in (*self.parameters, *made)}

        def learn(name: str, gradient: torch.Tensor) -> None:
            sums[name] += gradient

        total, held, pieces = 0.0, 0, []
        losses: dict[int, list[torch.Tensor]] = {}
        self.transport.barrier()
        for kind, number in self.passes:
            first_image = sum(batches[:number])
            if kind == "forward":
                (program,) = part.programs[batches[number]]
                facts = (part, self.rules, program, weights, self.transport)
                tapes[number] = tape = Tape(*facts, first_image, self.recompute)
                with noise(seed, first_image, sum(batches)):
                    tape.forward(read, self._note_statistics)
                shares = [self._share(piece, wanted) for piece in tape.pieces]
                total += sum(share for share, _ in shares)
                losses[number] = [gradient for _, gradient in shares]
                pieces += tape.pieces
                held = max(held, len(tapes))
            else:
                with noise(seed, first_image, sum(batches)):  # for what is computed anew
                    tapes[number].backward(losses.pop(number), learn)
                del tapes[number]
        self.transport.flush()
        self._finish(sums, made)
        return Step(total, pieces, held)

    def _with_constants(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """What is made of parameters, as it is now; and all weights, with it."""
        every: dict[str, Any] = dict(self.weights)
        with torch.enable_grad():
            add_constants(every, self.part.constants)
        made = {
            name: tensor
            for name, tensor in every.items()
            if name not in self.parameters and tensor.requires_grad and name in self.part.weights
        }
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in made.items()}
        return made, every | leaves

    def _share(self, piece: Piece, wanted: Wanted) -> tuple[float, torch.Tensor]:
        """A piece's share of the loss, and the gradient of that."""
        output = piece.tensor.detach().requires_grad_()
        with torch.enable_grad():
            share = self.loss(output, wanted(piece.value, piece.region))
            share = share / self.part.positions[piece.value]
        (gradient,) = torch.autograd.grad(share, output)
        return float(share.detach()), gradient

    def _finish(self, sums: dict[str, torch.Tensor], made: dict[str, torch.Tensor]) -> None:
        """Sum gradients over the ranks that share a parameter."""
        if made:
            names = list(self.parameters)
            found = torch.autograd.grad(
                list(made.values()),
                list(self.parameters.values()),
                [sums[name] for name in made],
                allow_unused=True,
            )
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient
        for ranks, names in self.part.sharers:
            mine = [name for name in names if name in self.parameters]
            if mine and len(ranks) > 1:
                flat = summed(torch.cat([sums[n].reshape(-1) for n in mine]), ranks, self.transport)
                sizes = [sums[name].numel() for name in mine]
                for name, gradient in zip(mine, flat.split(sizes), strict=True):
                    sums[name] = gradient.reshape(sums[name].shape)
        for name, parameter in self.parameters.items():
            parameter.grad = sums[name]

    def _note_statistics(self, node: Node, given: Sequence[Any]) -> None:
        """Move a batch norm's running statistics towards those of the micro-batch."""
        args = node.args
        if not node.op.startswith("spnb.normalized.batch_norm"):
            return
        if not isinstance(args.get("running_mean"), Weight):
            return
        count, mean, squares = (figure.reshape(-1) for figure in given[1].detach().unbind(-1))
        variance = squares / (count - 1)
        for name, figure in (("running_mean", mean), ("running_var", variance)):
            running = self.weights[args[name].name]
            running.lerp_(figure.to(running.dtype), args["momentum"])
