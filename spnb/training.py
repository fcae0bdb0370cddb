"""One rank in training: its stage's parameters, and a step over a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from .capture import cast
from .collectives import Sum
from .copies import Pipeline
from .halves import HALVES, Scaling, convolving
from .losses import Loss
from .node import Node, Weight
from .program import Compute, Part
from .region import Region
from .rules import Rule, rule_of
from .rules.noise import noise
from .run import Piece, Read
from .schedule import SCHEDULES, in_turns
from .tape import Tape
from .transport import Transport
from .transport.lane import Lane
from .weights import add_constants
from .worker import heard

Wanted = Callable[[str, Region], torch.Tensor]
"""What an output should be over a region of the whole batch, by its name."""

BUCKET = 1 << 22
"""Bytes of gradients that are summed over ranks together."""

OVERFLOWS = 1 << 14
"""Number of the sum of infinite gradients, beyond those of any parameter."""

MIRRORED = 1 << 13
"""Added to the tags of a mirrored pipeline's messages."""


@dataclass(frozen=True)
class Role:
    """What a rank is in one of its pipelines."""

    part: Part
    rules: Sequence[Rule]
    pipeline: Pipeline

    @property
    def tells(self) -> bool:
        """Whether it is the one rank of its stage that keeps the statistics of batch norms."""
        return self.part.rank == self.part.home.ranks[-1]

    def over(self, transport: Transport) -> Lane:
        """Its pipeline's messages, on a carrier."""
        return Lane(transport, self.pipeline.ranks, MIRRORED * self.pipeline.mirrored)


@dataclass(frozen=True)
class Bucket:
    """Parameters whose gradients are summed over some ranks in one go, or batch norms' figures."""

    number: int
    ranks: Sequence[int]
    names: tuple[str, ...]


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
        By name; each has its gradient, over all ranks and micro-batches, after a `step`.  In half
        precision they are fp32, and rounded for each step.
    scaling
        Of the loss, in fp16.
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
        self.scaling = Scaling() if part.dtype == torch.float16 else None
        parts = [part] if part.mirror is None else [part, part.mirror]
        self.roles = [
            Role(each, [rule_of(node) for node in each.nodes], pipeline)
            for each, pipeline in zip(parts, part.copies.of(part.replica), strict=True)
        ]
        self.weights = {name: tensor.clone() for name, tensor in weights.items()}
        self.parameters = {
            name: tensor.requires_grad_()
            for name, tensor in self.weights.items()
            if name in trained
        }
        turns = [
            (number, role.part.stage, turn)
            for number, role in enumerate(self.roles)
            for turn in role.pipeline.turns
        ]
        turns.sort(key=lambda turn: turn[2][0])
        self.passes = in_turns(SCHEDULES[schedule], part.num_stages, turns)

    @cached_property
    def _norms(self) -> dict[str, tuple[float, int]]:
        """Running statistics by name, with their momentum and how often a step moves them."""
        found = {}
        for role in self.roles:
            for node in filter(_has_running_statistics, role.part.nodes):
                _, calls = role.part.turns[node.name]
                known = (node.args["momentum"], calls * len(role.part.batches))
                for name in ("running_mean", "running_var"):
                    found[node.args[name].name] = known
        return found

    @cached_property
    def _buckets(self) -> list[Bucket]:
        """What is summed over ranks, in an order that all ranks have; last used first."""
        shared = {each.number: each for role in self.roles for each in role.part.shared}
        found = []
        for number, each in sorted(shared.items()):
            if len(each.ranks) < 2:
                continue
            names = [name for name in reversed(each.names) if name in self.parameters]
            figures = [name for name in each.names if name in self._norms]
            for group in (*_by_size(names, self.weights), figures):
                if group:
                    found.append(Bucket(number, each.ranks, tuple(group)))
                    number += 1
        return found

    @cached_property
    def _known_after(self) -> dict[tuple[int, int], list[str]]:
        """By pass and step of its program: parameters that no later one has a gradient of."""
        last: dict[str, tuple[int, int]] = {}
        for index, (number, kind, micro_batch) in enumerate(self.passes):
            part = self.roles[number].part
            (program,) = part.programs[part.batches[micro_batch]]
            if kind == "backward":
                for k, step in reversed(list(enumerate(program.steps))):
                    if isinstance(step, Compute):
                        last |= {w.name: (index, k) for w in part.nodes[step.node].weights}
        makers = {w.name for role in self.roles for c in role.part.constants for w in c.weights}
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
        tapes: dict[int, Tape] = {}

        def at() -> str:
            return next((tape.at for tape in reversed(tapes.values())), "between micro-batches")

        with heard(self.transport, self.part, at), convolving(self.part.dtype):
            return self._step(read, wanted, seed, tapes)

    def _step(self, read: Read, wanted: Wanted, seed: int, tapes: dict[int, Tape]) -> Step:
        batches = self.part.batches
        leaves = self._leaves()
        made, weights = self._with_constants(leaves)
        for parameter in self.parameters.values():
            parameter.grad = None  # before others are made
        every = made | self.weights
        each = {name: every[name] for name in (*self.parameters, *made, *self._norms)}
        gathering = _Gathering(self._buckets, each, self.transport)
        sums = gathering.sums

        def learn(name: str, gradient: torch.Tensor) -> None:
            sums[name] += gradient

        total, held, pieces = 0.0, 0, []
        losses: dict[int, list[torch.Tensor]] = {}
        self.transport.barrier()
        for index, (role, kind, number) in enumerate(self.passes):
            role, first_image = self.roles[role], sum(batches[:number])
            if kind == "forward":
                (program,) = role.part.programs[batches[number]]
                facts = (role.part, role.rules, program, weights, role.over(self.transport))
                tapes[number] = tape = Tape(*facts, first_image, self.recompute)

                def computed(
                    node: Node, given: Sequence[Any], role: Role = role, number: int = number
                ) -> None:
                    self._note_statistics(node, given, role, number, sums)

                with noise(seed, first_image, sum(batches)):
                    tape.forward(read, computed)
                shares = [self._share(piece, wanted) for piece in tape.pieces]
                total += sum(share for share, _ in shares)
                losses[number] = [gradient for _, gradient in shares]
                pieces += tape.pieces
                held = max(held, len(tapes))
            else:

                def passed(step: int, index: int = index) -> None:
                    if self.part.copies.overlapped:
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
        dtype = self.part.dtype
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
                add_constants(every, role.part.constants)
        read = {name for role in self.roles for name in role.part.weights}
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
            share = self.loss(output, wanted(piece.value, piece.region))
            share = share / self.part.positions[piece.value]
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
        for name, (momentum, moves) in self._norms.items():
            self.weights[name].mul_((1 - momentum) ** moves).add_(sums[name])
        finite, factor = True, 1.0
        if self.scaling is not None:
            factor = self.scaling.factor
            wrong = sum(not bool(sums[name].isfinite().all()) for name in self.parameters)
            everybody = range(self.part.num_ranks)
            wrong = Sum(torch.tensor(float(wrong)), everybody, self.transport, OVERFLOWS)
            finite = not wrong.result()
            self.scaling = self.scaling.after(finite)
        for name, parameter in self.parameters.items():
            parameter.grad = sums[name].div_(factor) if finite else None
        return finite

    def _note_statistics(
        self,
        node: Node,
        given: Sequence[Any],
        role: Role,
        number: int,
        sums: Mapping[str, torch.Tensor],
    ) -> None:
        """What a micro-batch moves a batch norm's running statistics by, in a whole step.

        One after the other they would be ``r ← (1 − m) r + m s``, so of ``n`` that the step has
        the ``k``-th has the weight ``m (1 − m)ⁿ⁻¹⁻ᵏ`` at its end, on whichever rank it is known.
        """
        if not (role.tells and _has_running_statistics(node)):
            return
        turn, calls = role.part.turns[node.name]
        count, mean, squares = (figure.reshape(-1) for figure in given[1].detach().unbind(-1))
        for name, figure in (("running_mean", mean), ("running_var", squares / (count - 1))):
            found = node.args[name].name
            momentum, moves = self._norms[found]
            later = moves - 1 - (number * calls + turn)
            sums[found].add_(figure.to(sums[found].dtype), alpha=momentum * (1 - momentum) ** later)


class _Gathering:
    """Sums over ranks in a step: each begins when all that this rank gives is known.

    Attributes
    ----------
    sums
        By name, zeros at first; those of a bucket lie in one tensor, which is sent as it is.
    under_way
        What has begun.
    """

    def __init__(
        self, buckets: Sequence[Bucket], like: Mapping[str, torch.Tensor], transport: Transport
    ):
        self.buckets, self.transport = buckets, transport
        self.under_way: dict[Bucket, Sum] = {}
        self._bucket_of = {name: bucket for bucket in buckets for name in bucket.names}
        self._unknown = {bucket: set(bucket.names) for bucket in buckets}
        alone = [name for name in like if name not in self._bucket_of]
        self.sums = {name: torch.zeros_like(like[name], requires_grad=False) for name in alone}
        self._flat: dict[Bucket, torch.Tensor] = {}
        for bucket in buckets:
            sizes = [like[name].numel() for name in bucket.names]
            flat = self._flat[bucket] = like[bucket.names[0]].new_zeros(sum(sizes))
            for name, part in zip(bucket.names, flat.split(sizes), strict=True):
                self.sums[name] = part.view(like[name].shape)

    def know(self, names: Sequence[str]) -> None:
        """Nothing more will be added to the sums of these; others go on meanwhile."""
        for each in self.under_way.values():
            each.advance()
        for bucket in (self._bucket_of[name] for name in names if name in self._bucket_of):
            self._unknown[bucket].difference_update(names)
            if not self._unknown[bucket] and bucket not in self.under_way:
                self._begin(bucket)

    def _begin(self, bucket: Bucket) -> None:
        facts = (self._flat[bucket], bucket.ranks, self.transport, bucket.number)
        self.under_way[bucket] = Sum(*facts)

    def finish(self) -> None:
        """Begin what has not begun, and wait for all; in the same order on all ranks."""
        for bucket in self.buckets:
            if bucket not in self.under_way:
                self._begin(bucket)
        for bucket in self.buckets:
            self.under_way[bucket].result()


def _has_running_statistics(node: Node) -> bool:
    batch_norm = node.op.startswith("spnb.normalized.batch_norm")
    return batch_norm and isinstance(node.args.get("running_mean"), Weight)


def _by_size(names: Sequence[str], weights: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names in groups of about `BUCKET` bytes, of one type each."""
    groups: list[list[str]] = []
    size, dtype = 0, None
    for name in names:
        weight = weights[name]
        if not groups or size >= BUCKET or weight.dtype != dtype:
            groups.append([])
            size, dtype = 0, weight.dtype
        groups[-1].append(name)
        size += weight.nbytes
    return groups
