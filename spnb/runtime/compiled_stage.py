"""A rank's pipeline stage made ready to run: its weights in order, and its programs compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from ..ir.axes import Axes
from ..ir.cost import CORE
from ..ir.exchange import Exchange, region_at
from ..ir.program import Compute, Program, Send, receive_step
from ..ir.region import Region
from ..kernels.devices import CPU, computing_on
from ..rules.fused import Fused
from .arena import Arena
from .buffer_plan import Buffers, plan_buffers
from .compiled_program import CompiledProgram
from .exchange_actions import ExchangeActions
from .local_values import LocalValues
from .pipeline_stage import PipelineStage
from .result_places import ResultPlaces
from .state import Action


@dataclass(frozen=True)
class CompiledExchange:
    """One exchange of one value, ready to be done.

    Attributes
    ----------
    send, receive
        Its two steps; `receive` does not wait for the messages.
    values
        What the rank holds of the value once `receive` has begun.
    """

    send: Action
    receive: Action
    values: LocalValues


class CompiledStage:
    """What a rank does in one of its pipelines, with all worked out but the numbers.

    Parameters
    ----------
    pipeline_stage
        The rank's place in the pipeline.
    weights
        The parameters and buffers that the stage reads, by name, in the plan's dtype.
    device
        Where the rank computes.

    Attributes
    ----------
    compiled_programs
        By the number of images of a micro-batch: the programs that it takes, one after the other.
    writes_in_place
        Whether a fused convolution writes its result into memory that was allocated before.
    """

    def __init__(
        self,
        pipeline_stage: PipelineStage,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
    ):
        self.pipeline_stage, self.device = pipeline_stage, device
        self.rank_plan, self.rules = pipeline_stage.rank_plan, pipeline_stage.rules
        on_device = {name: weight.to(device) for name, weight in weights.items()}
        self.weights: list[Mapping[str, torch.Tensor]] = [
            {w.name: on_device[w.name] for w in node.weights} for node in self.rank_plan.nodes
        ]
        self._reorder_weights()
        fused = any(isinstance(rule, Fused) and rule.result_types for rule in self.rules)
        self.writes_in_place = device == CPU and fused
        self.compiled_programs: dict[int, list[CompiledProgram]] = {}
        self.compile_programs()

    def _reorder_weights(self) -> None:
        """Bring weights into the memory order that kernels prefer, where that is another."""
        reordered = False
        for step in self._programs[0].steps:
            if isinstance(step, Compute) and not step.region.empty:
                axes = self.rank_plan.nodes[step.node].operand_axes[0]
                known = self.weights[step.node]
                shape = axes.local_shape(step.clipped[0])
                self.weights[step.node] = self.rules[step.node].prepare(known, shape)
                reordered |= self.weights[step.node] is not known
        if reordered:  # copies of the others let go of the file that all were mapped from
            plain = [(n, w) for each in self.weights for n, w in each.items() if not w.is_mkldnn]
            copies = {name: weight.clone() for name, weight in dict(plain).items()}
            self.weights = [
                {name: w if w.is_mkldnn else copies[name] for name, w in each.items()}
                for each in self.weights
            ]

    def compile_programs(self) -> None:
        """Compile the programs of every micro-batch size, with a new arena for all of them."""
        on_host = self.device == CPU  # a GPU's allocator of PyTorch caches its blocks itself
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
            held: Mapping[str, Region] = {}
            self.compiled_programs[images] = []
            for program, planned in zip(programs, buffers[images], strict=True):
                with computing_on(self.device):
                    compiled = CompiledProgram(
                        program,
                        self.rank_plan,
                        self.rules,
                        self.weights,
                        held=held,
                        places=planned.places,
                        arena=arena,
                    )
                self.compiled_programs[images].append(compiled)
                held = compiled.left

    @property
    def _programs(self) -> tuple[Program, ...]:
        """Of the largest micro-batch."""
        return self.rank_plan.programs[max(self.rank_plan.micro_batch_sizes)]

    @cached_property
    def costs(self) -> list[float]:
        """About the seconds that each node takes, to report how far a run is."""
        return [CORE.seconds(node) for node in self.rank_plan.nodes]

    @cached_property
    def cost(self) -> float:
        """About the seconds that a micro-batch takes."""
        steps = (step for program in self._programs for step in program.steps)
        return sum(self.costs[step.node] for step in steps if isinstance(step, Compute))

    def compile_exchange(
        self, exchange: Exchange, axes: Axes, dtype: torch.dtype
    ) -> CompiledExchange:
        """Make an exchange of a value ready, of which the rank holds its tile.

        Parameters
        ----------
        axes, dtype
            Where the axes of the image lie in the value, and its type.
        """
        rank, value = self.rank_plan.rank, exchange.value
        own = region_at(exchange.has, exchange.source.position(rank))
        values = LocalValues({value: own}, self.rank_plan.paths)
        actions = ExchangeActions(self.rank_plan, values, ResultPlaces({}, None, ()))
        send = Send(exchange.tag, value, exchange.kind, exchange.sends(rank), axes)
        return CompiledExchange(
            send=actions.send(send),
            receive=actions.receive(receive_step(exchange, rank, axes, dtype)),
            values=values,
        )
