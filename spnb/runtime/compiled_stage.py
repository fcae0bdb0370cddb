"""A rank's pipeline stage, compiled: its weights in their best memory order, and its programs."""

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
from .arena import Arena
from .buffer_plan import Buffers, plan_buffers
from .compiled_program import CompiledProgram
from .exchange_actions import ExchangeActions
from .local_values import LocalValues
from .pipeline_stage import PipelineStage
from .prepared_weights import PreparedWeights
from .result_places import ResultPlaces
from .state import Action


@dataclass(frozen=True)
class CompiledExchange:
    """One exchange of one value, compiled.

    Attributes
    ----------
    send, receive
        Its two steps; `receive` does not wait for the messages.
    values
        The pieces of the value that the rank holds once `receive` has begun.
    """

    send: Action
    receive: Action
    values: LocalValues


class CompiledStage:
    """The work of a rank in one of its pipelines, compiled.

    Parameters
    ----------
    pipeline_stage
        The rank's place in the pipeline.
    weights
        The parameters and buffers that the stage reads, by name, in the plan's dtype.
    device
        The device that the rank computes on.

    Attributes
    ----------
    compiled_programs
        By the number of images of a micro-batch: the programs to run, one after another.
    """

    def __init__(
        self,
        pipeline_stage: PipelineStage,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
    ):
        self.pipeline_stage, self.device = pipeline_stage, device
        self.rank_plan, self.rules = pipeline_stage.rank_plan, pipeline_stage.rules
        self.weights = PreparedWeights(
            self.rank_plan.nodes,
            self.rules,
            {name: weight.to(device) for name, weight in weights.items()},
            self._programs[0].steps,
        )
        self.compiled_programs: dict[int, list[CompiledProgram]] = {}
        self.compile_programs()

    def compile_programs(self) -> None:
        """Compile the programs of every micro-batch size, with a new arena for all of them."""
        on_host = self.device == CPU  # on a GPU, PyTorch's allocator already reuses its blocks
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
        """The programs for the largest micro-batch."""
        return self.rank_plan.programs[max(self.rank_plan.micro_batch_sizes)]

    @cached_property
    def costs(self) -> list[float]:
        """Estimated seconds of each node, for reports of progress."""
        return [CORE.seconds(node) for node in self.rank_plan.nodes]

    @cached_property
    def cost(self) -> float:
        """Estimated seconds of a micro-batch."""
        steps = (step for program in self._programs for step in program.steps)
        return sum(self.costs[step.node] for step in steps if isinstance(step, Compute))

    def compile_exchange(
        self, exchange: Exchange, axes: Axes, dtype: torch.dtype
    ) -> CompiledExchange:
        """Compile an exchange of a value; the rank holds its own tile of it.

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
