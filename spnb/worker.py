"""Runs one rank's program: a loop over compute, send, receive and free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from .axes import Axes
from .buffers import Buffers, plan_buffers
from .devices import CPU, computing_on
from .exchange import Exchange, region_at
from .halves import convolving
from .machine import CORE
from .placement import Arena, placing
from .program import Compute, Part, Program, Send, receive_step
from .region import Region
from .routine import Routine
from .rules import rule_of
from .run import Action, Piece, Read, Run
from .trace import Event, recorder_on
from .transport import PeerFailed, Transport

Tell = Callable[[int, float], None]


class RankError(RuntimeError):
    """A rank failed; the message names rank, stage and layer."""


@dataclass(frozen=True)
class Outcome:
    """What a rank has to show for one pass over the batch."""

    pieces: list[Piece]
    events: list[Event]


class Worker:
    """One rank, ready to run.

    Parameters
    ----------
    part
        Its share of the plan.
    weights
        The parameters and buffers that its stage reads, in the plan's dtype.
    transport
        Its end of the carrier; ``None`` until it is connected.
    device
        Where it computes.
    """

    @torch.inference_mode()
    def __init__(
        self,
        part: Part,
        weights: Mapping[str, torch.Tensor],
        transport: Transport | None,
        device: torch.device = CPU,
    ):
        self.part, self.transport, self.device = part, transport, device
        weights = {name: weight.to(device) for name, weight in weights.items()}
        self.rules = [rule_of(node) for node in part.nodes]
        self.weights = [{w.name: weights[w.name] for w in node.weights} for node in part.nodes]
        packed, programs = False, part.programs[max(part.batches)]
        for step in programs[0].steps:
            if isinstance(step, Compute) and not step.region.empty:
                shape = part.nodes[step.node].operand_axes[0].local_shape(step.clipped[0])
                rule = self.rules[step.node]
                prepared = rule.prepare(self.weights[step.node], shape)
                packed |= prepared is not self.weights[step.node]
                self.weights[step.node] = prepared
        if packed:  # then what is left of the file that they were mapped from is let go
            plain = [(n, w) for each in self.weights for n, w in each.items() if not w.is_mkldnn]
            copies = {name: weight.clone() for name, weight in dict(plain).items()}
            self.weights = [
                {name: w if w.is_mkldnn else copies[name] for name, w in each.items()}
                for each in self.weights
            ]
        with computing_on(device):
            self._make_routines()
        self.costs = [CORE.seconds(node) for node in part.nodes]
        self._convolving = convolving(part.dtype, device)
        computed = (s.node for p in programs for s in p.steps if isinstance(s, Compute))
        self._cost = sum(self.costs[node] for node in computed)

    def _make_routines(self) -> None:
        self._stale = False
        part, on_host = self.part, self.device == CPU  # elsewhere the allocator keeps its memory
        buffers = {
            images: [
                plan_buffers(program, part.nodes, self.rules) if on_host else Buffers()
                for program in programs
            ]
            for images, programs in part.programs.items()
        }
        size = max(each.size for several in buffers.values() for each in several)
        arena = Arena(size) if on_host else None
        self.routines: dict[int, list[Routine]] = {}
        for images, programs in part.programs.items():
            held: dict[str, Region] = {}
            self.routines[images] = []
            for program, each in zip(programs, buffers[images], strict=True):
                known = (program, part, self.rules, self.weights, held, each.places, arena)
                self.routines[images].append(Routine(*known))
                held = self.routines[images][-1].left

    @torch.inference_mode()
    def infer(self, read: Read, tell: Tell = lambda done, share: None) -> Outcome:
        """Run the stage over all micro-batches.

        Parameters
        ----------
        read
            Where the image comes from.
        tell
            Called after each operator with the micro-batches done, and the share of all work done.

        Raises
        ------
        RankError
            If an operator fails here; the other ranks are told.
        PeerFailed
            If another rank fails.
        """
        if self._stale:  # what was to arrive in a run that failed may do so still, in that memory
            self._make_routines()
        self._stale = True
        batches, done, cost = self.part.batches, 0, 0.0
        cost_of_all = self._cost * len(batches) or 1.0

        def told(node: int) -> None:
            nonlocal cost
            cost += self.costs[node]
            tell(done, cost / cost_of_all)

        def read_there(value: str, region: Region) -> torch.Tensor:
            return read(value, region).to(self.device)

        run = Run(self.transport, read_there, told, recorder_on(self.device))
        at = heard(self.transport, self.part, lambda: run.at)
        with computing_on(self.device), at, placing(), self._convolving:
            self.transport.barrier()
            run.recorder.start()
            for number in self.part.order:
                run.recorder.micro_batch, run.first_image = number, sum(batches[:number])
                for routine in self.routines[batches[number]]:
                    for action in routine.actions:
                        action(run)
                done += 1
            tell(done, 1.0)
            self.transport.flush()
        self._stale = False
        pieces = [replace(piece, tensor=piece.tensor.to(CPU)) for piece in run.pieces]
        return Outcome(pieces, run.recorder.finish())

    @torch.inference_mode()
    def exchange(self, exchange: Exchange, x: torch.Tensor, axes: Axes) -> torch.Tensor:
        """Take part in an exchange of a tensor that this rank's tile covers; what it then needs."""
        run = Run(self.transport, _no_image, values={exchange.value: x.to(self.device)})
        routine, send, receive = self.moving(exchange, axes, x.dtype)
        whole = routine.operand(exchange.value, exchange.need(self.part.rank), axes)
        with computing_on(self.device), heard(self.transport, self.part, lambda: run.at):
            send(run)
            receive(run)
            result = whole(run)
            self.transport.flush()
        return result.to(x.device)

    def moving(
        self, exchange: Exchange, axes: Axes, dtype: torch.dtype
    ) -> tuple[Routine, Action, Action]:
        """A routine that has this rank's tile of a value, and how it sends of it and receives."""
        rank, value = self.part.rank, exchange.value
        own = region_at(exchange.has, exchange.source.position(rank))
        routine = Routine(Program(()), self.part, self.rules, self.weights, {value: own})
        send = Send(exchange.tag, value, exchange.kind, exchange.sends(rank), axes)
        receive = receive_step(exchange, rank, axes, dtype)
        return routine, routine.send(send), routine.receive(receive)


@contextmanager
def heard(transport: Transport, part: Part, at: Callable[[], str]) -> Iterator[None]:
    """Begin with no memory of earlier failures, and let the other ranks hear of one here.

    Parameters
    ----------
    at
        Says what was being done.
    """
    transport.hear()
    try:
        yield
    except PeerFailed:
        raise
    except BaseException as error:
        place = f"rank {transport.rank}, stage {part.stage}, {at()}"
        text = f"{place}: {type(error).__name__}: {error}"
        transport.fail(text)
        if isinstance(error, Exception):
            raise RankError(text) from error
        raise


def _no_image(name: str, region: object) -> torch.Tensor:
    raise AssertionError("an exchange reads no image")
