"""A rank's place in one copy of the plan, ready to run: its weights, and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch

from ..ir.axes import Axes
from ..ir.cost import CORE
from ..ir.exchange import Exchange, region_at
from ..ir.program import Compute, Program, Send, receive_step
from ..ir.region import Region
from ..kernels.devices import CPU, computing_on
from ..kernels.preallocated import Arena
from .buffer_plan import Buffers, plan_buffers
from .compiled_program import CompiledProgram
from .role import PipelineStage
from .state import Action


class CompiledStage:
    """What a rank does in one of its pipelines, with all worked out but the numbers.

    Parameters
    ----------
    role
        What it is there.
    weights
        The parameters and buffers that it reads, in the plan's dtype.
    device
        Where it computes.

    Attributes
    ----------
    compiled_programs
        For each number of images that a micro-batch may have, what is done, one after the other.
    """

    def __init__(
        self, role: PipelineStage, weights: Mapping[str, torch.Tensor], device: torch.device
    ):
        self.role, self.rank_plan, self.rules, self.device = (
            role,
            role.rank_plan,
            role.rules,
            device,
        )
        weights = {name: weight.to(device) for name, weight in weights.items()}
        self.weights = [
            {w.name: weights[w.name] for w in node.weights} for node in self.rank_plan.nodes
        ]
        self._pack_weights()
        self.compiled_programs: dict[int, list[CompiledProgram]] = {}
        self.compile_programs()

    def _pack_weights(self) -> None:
        """Bring weights into the order that kernels like, where that is another."""
        packed = False
        for step in self._programs[0].steps:
            if isinstance(step, Compute) and not step.region.empty:
                axes = self.rank_plan.nodes[step.node].operand_axes[0]
                known = self.weights[step.node]
                shape = axes.local_shape(step.clipped[0])
                self.weights[step.node] = self.rules[step.node].prepare(known, shape)
                packed |= self.weights[step.node] is not known
        if packed:  # then what is left of the file that they were mapped from is let go
            plain = [(n, w) for each in self.weights for n, w in each.items() if not w.is_mkldnn]
            copies = {name: weight.clone() for name, weight in dict(plain).items()}
            self.weights = [
                {name: w if w.is_mkldnn else copies[name] for name, w in each.items()}
                for each in self.weights
            ]

    def compile_programs(self) -> None:
        """Work out compiled_programs, in memory of their own."""
        on_host = self.device == CPU  # elsewhere PyTorch's allocator keeps its memory
        buffers = {
            images: [
                plan_buffers(program, self.rank_plan.nodes, self.rules) if on_host else Buffers()
                for program in programs
            ]
            for images, programs in self.rank_plan.programs.items()
        }
        size = max(each.size for several in buffers.values() for each in several)
        arena = Arena(size) if on_host else None
        for images, programs in self.rank_plan.programs.items():
            held: dict[str, Region] = {}
            self.compiled_programs[images] = []
            for program, each in zip(programs, buffers[images], strict=True):
                known = (
                    program,
                    self.rank_plan,
                    self.rules,
                    self.weights,
                    held,
                    each.places,
                    arena,
                )
                with computing_on(self.device):
                    self.compiled_programs[images].append(CompiledProgram(*known))
                held = self.compiled_programs[images][-1].left

    @property
    def _programs(self) -> tuple[Program, ...]:
        """Of the largest micro-batch."""
        return self.rank_plan.programs[max(self.rank_plan.micro_batch_sizes)]

    @cached_property
    def costs(self) -> list[float]:
        """About the seconds that each node takes, to show how far a run is."""
        return [CORE.seconds(node) for node in self.rank_plan.nodes]

    @cached_property
    def cost(self) -> float:
        """Of a micro-batch."""
        steps = (step for program in self._programs for step in program.steps)
        return sum(self.costs[step.node] for step in steps if isinstance(step, Compute))

    def moving(
        self, exchange: Exchange, axes: Axes, dtype: torch.dtype
    ) -> tuple[CompiledProgram, Action, Action]:
        """A compiled that has this rank's tile of a value, and how it sends of it and receives."""
        rank, value = self.rank_plan.rank, exchange.value
        own = region_at(exchange.has, exchange.source.position(rank))
        compiled = CompiledProgram(
            Program(()), self.rank_plan, self.rules, self.weights, {value: own}
        )
        send = Send(exchange.tag, value, exchange.kind, exchange.sends(rank), axes)
        receive = receive_step(exchange, rank, axes, dtype)
        return compiled, compiled.send(send), compiled.receive(receive)
