"""The most bytes that each rank holds, computed from its program; nothing is run.

In inference, `MemoryModel` follows a rank's program step by step, with the memory that
`spnb.runtime` would use.  `spnb.analysis.training_memory` does so for training.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.axes import rows_beside
from ..ir.exchange import HOST
from ..ir.node import Node
from ..ir.program import Compute, Free, Keep, Receive, Send, Step, held_by_host
from ..ir.region import Region
from ..planner.plan import Plan
from ..rules import rule_of
from ..rules.convolutions import Convolution
from ..rules.core_first import CoreFirst
from ..rules.fused import Fused
from ..runtime.buffer_plan import Place, plan_buffers
from .patched_memory import patched_bytes_in_the_middle, patched_value_bytes
from .sample_ranks import sample_ranks
from .segments import segments_of
from .training_memory import TrainingMemory, bytes_from_system, held_at_once
from .weight_memory import bytes_beside_weights, held_weight_bytes

KERNEL = 128 << 10
"""Bytes of oneDNN's code for a convolution of one shape, and of its call (measured)."""


def memory(plan: Plan) -> list[tuple[int, int]]:
    """Return, for each stage, the bytes of weights and of values of the rank that holds most.

    Values are those that the rank holds at one time.  The workspace of operators and the process
    itself are not counted.
    """
    return [
        (
            held_weight_bytes(plan, stage.team.ranks[0]),
            max(held_value_bytes(plan, rank) for rank in sample_ranks(plan, stage.index)),
        )
        for stage in plan.stages
    ]


def memory_in_the_middle(plan: Plan) -> int:
    """Return the bytes of weights and values of the rank that holds most of those in the middle.

    The rank in the middle of each stage's grid, which has the most neighbours, stands for all of
    the stage; `memory` looks at several.
    """
    teams = [stage.team for stage in plan.stages]
    middle = [team.rank_at([n // 2 for n in team.tiling.grid]) for team in teams]
    if plan.finer is None:
        values = [held_value_bytes(plan, rank) for rank in middle]
    else:
        values = [patched_bytes_in_the_middle(plan, rank) for rank in middle]
        if plan.graph.training:
            values = [
                v + bytes_beside_weights(plan, r) for v, r in zip(values, middle, strict=True)
            ]
    weights = [held_weight_bytes(plan, rank) for rank in middle]
    return max(map(sum, zip(weights, values, strict=True)))


def held_value_bytes(plan: Plan, rank: int) -> int:
    """Return the most bytes of values that a rank holds at once, in training or inference.

    Values of its mirrored stage are included.
    """
    if plan.graph.training:
        # A mirrored rank is in two pipelines, and holds values of one of them at a time.
        values = max(
            training_value_bytes(plan, plan_rank) for plan_rank in plan.plan_ranks_of(rank)
        )
        return values + bytes_beside_weights(plan, rank)
    if plan.finer is not None:
        return patched_value_bytes(plan, rank)
    return sum(activation_bytes(plan, plan_rank) for plan_rank in plan.plan_ranks_of(rank))


def activation_bytes(plan: Plan, rank: int) -> int:
    """Return the most bytes of values that a rank of the plan holds at once in inference."""
    return MemoryModel(plan, rank).most_bytes()


class MemoryModel:
    """The values that a rank holds in inference, step by step of its program.

    A value is in one of three places.  Results of convolutions are in the *arena*, which has a
    fixed size (see `spnb.runtime.buffer_plan`).  Outputs have memory that the host holds.  All
    other values are on the *heap*, which never shrinks: its largest size counts.  The workspace of
    operators is not counted, but their code is: patches differ in shape, and each shape has its
    own.  `spnb.analysis.weight_memory.PROCESS` has that of one patch.

    Parameters
    ----------
    plan
        A plan for inference.
    rank
        A rank of the plan.
    """

    def __init__(self, plan: Plan, rank: int):
        self.plan = plan
        self.nodes = plan.stage_of(rank).nodes
        self.programs = plan.programs(rank, max(plan.micro_batch_sizes))
        self.given_to_host = {
            value for program in self.programs for value in held_by_host(program, self.nodes)
        }
        self.heap: dict[str, int] = {}
        self.outputs: dict[str, int] = {}
        self.heap_peak = self.assembly_peak = 0
        self.computed: dict[str, Region] = {}
        self.covered: dict[str, Region] = {}  # by memory: a tile, or tile and halo together
        # Values with a halo stored beside the tile, and the region of tile and halo together: see
        # `spnb.runtime.halo_tile`.
        self.halo_beside: dict[str, Region] = {}
        self.places: Mapping[str, Place] = {}
        self.kernels: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()

    def most_bytes(self) -> int:
        """Return the most bytes of values that the rank holds at once."""
        rules = [rule_of(node) for node in self.nodes]
        arena = of_first = 0
        for program in self.programs:
            buffers = plan_buffers(program, self.nodes, rules)
            self.places = buffers.places
            arena = max(arena, buffers.size)
            for step in program.steps:
                self.follow(step)
            of_first = of_first or len(self.kernels)
        images, outputs = len(self.plan.micro_batch_sizes), sum(self.outputs.values())
        # What an assembled value no longer needs takes the outputs of the last micro-batch.
        assembled = self.assembly_peak + outputs * (images - 1) // images
        code = KERNEL * (len(self.kernels) - of_first)
        return arena + max(self.heap_peak + outputs, assembled) + code

    def follow(self, step: Step) -> None:
        """Account for one step of the program."""
        match step:
            case Compute():
                self._compute(step)
            case Send():
                self._send(step)
            case Keep():
                self._keep(step)
            case Receive():
                self._receive(step)
            case Free():
                self._free(step)
        self._note_peak()

    def _compute(self, step: Compute) -> None:
        """An operator computes a result; halos that it cannot read separately are joined first."""
        node = self.nodes[step.node]
        if isinstance(rule_of(node), Convolution):
            self.kernels.add((step.node, step.region.shape, step.clipped[0].shape))
        for number, value in enumerate(node.operands):
            beside = self.halo_beside.get(value)
            if beside is None or _reads_beside(node, number, self.computed[value], step):
                continue
            self._make(value, beside)
            del self.halo_beside[value]
        other = self._copied_other(node, step)
        if step.overwrites and not other:
            self._drop(node.operands[-1])
        copied = self._copied(node, step) + other
        self._note_peak(copied)
        self._make(node.name, step.region, copied)
        if step.overwrites:
            self._drop(node.operands[-1])
        self.computed[node.name] = step.region

    def _drop(self, value: str) -> None:
        """Forget a value in whose place the result lies, or would lie if it were one run."""
        self.heap.pop(value, None)
        self.outputs.pop(value, None)

    def _copied(self, node: Node, step: Compute) -> int:
        """Bytes of the image that oneDNN copies, since a part of it is no run of memory.

        Where a convolution has a stride, its first window may begin after a tile's first column.
        """
        rule, value = rule_of(node), node.operands[0] if node.operands else ""
        held = self.covered.get(value)
        if not isinstance(rule, Fused) or step.padding is not None or held is None:
            return 0
        if value in self.halo_beside:  # the core reads all of the tile
            return 0
        part = rule.left_over(held, step.clipped[0])
        whole = part == held or part not in held or rows_beside(held, part, node.operand_axes[0])
        if whole or rule.scratch(part, step.region):
            return 0
        return value_bytes(self.plan, value, part)

    def _copied_other(self, node: Node, step: Compute) -> int:
        """Bytes of the tensor that a convolution adds, which oneDNN copies if it is no run."""
        if not isinstance(rule_of(node), Fused) or node.args["other"] is None:
            return 0
        value, part = node.operands[-1], step.clipped[-1]
        held = self.covered.get(value, part)
        if held == part or rows_beside(held, part, node.operand_axes[-1]):
            return 0
        return value_bytes(self.plan, value, part)

    def _send(self, step: Send) -> None:
        """A value that is sent to the host is now an output; each micro-batch has its own."""
        if any(t.target == HOST for t in step.transfers):
            size = value_bytes(self.plan, step.value, self.computed[step.value])
            self.outputs[step.value] = size * len(self.plan.micro_batch_sizes)
            self.heap.pop(f"tile {step.value}", None)

    def _keep(self, step: Keep) -> None:
        """A patch is copied into its tile; the tile's memory is allocated at the first patch."""
        self.heap[f"tile {step.value}"] = value_bytes(self.plan, step.value, step.whole)
        self.computed[step.value] = step.whole
        self.heap.pop(step.value, None)

    def _receive(self, step: Receive) -> None:
        """Messages arrive in the arena, or on the heap; there beside the tile, if it is held."""
        place = self.places.get(step.value)
        if place is not None and step.region in place.region:
            return
        arriving = sum(value_bytes(self.plan, step.value, t.region) for t in step.transfers)
        if any(t.source == HOST for t in step.transfers):
            # For a moment an image is held twice: its bytes as they are decoded, and as floats.
            self._note_peak(arriving + arriving // 4)
        elif step.value not in self.computed and len(step.transfers) > 1:
            # Pieces from several ranks alone are assembled in other memory, and freed afterwards.
            held = sum(self.heap.values())
            self.assembly_peak = max(self.assembly_peak, held + 2 * arriving)
        self.heap[step.value] = self.heap.get(step.value, 0) + arriving
        if step.value in self.computed:
            self.halo_beside[step.value] = step.region

    def _free(self, step: Free) -> None:
        for value in step.values:
            self.heap.pop(value, None)
            self.halo_beside.pop(value, None)

    def _make(self, value: str, region: Region, more: int = 0) -> None:
        """Allocate memory for a region of a value; its earlier memory is freed afterwards.

        For that time there are some bytes more.
        """
        size = value_bytes(self.plan, value, region)
        self.covered[value] = region
        if value in self.given_to_host:
            self.outputs[value] = size * len(self.plan.micro_batch_sizes)
        elif value not in self.places or value in self.halo_beside:
            self._note_peak(size + more)
            self.heap[value] = size

    def _note_peak(self, more: int = 0) -> None:
        """Compare the heap, with some bytes more for a moment, to its largest size so far."""
        self.heap_peak = max(self.heap_peak, sum(self.heap.values()) + more)


def _reads_beside(node: Node, number: int, own: Region, step: Compute) -> bool:
    """Whether a call reads an operand whose tile and halo are stored beside each other."""
    if step.clipped[number] in own:
        return True
    rule = rule_of(node)
    if number > 0 or step.padding is not None or not isinstance(rule, CoreFirst):
        return False
    return rule.core_and_boundary(own, step.region) is not None


def training_value_bytes(plan: Plan, rank: int) -> int:
    """Return the most bytes that a rank of the plan needs for values in training.

    Parameters
    ----------
    plan
        A plan for training.
    rank
        A rank of the plan.
    """
    if plan.finer is not None:
        return patched_value_bytes(plan, rank)
    all_held = TrainingMemory(plan, rank)
    found = TrainingMemory(plan, rank, segments_of(plan, rank)) if plan.recompute else all_held
    return bytes_from_system(all_held, found, held_at_once(plan, rank))


def value_bytes(plan: Plan, value: str, region: Region) -> int:
    """Return the bytes of a region of a value, channels included."""
    return region.size * plan.graph.channels(value) * plan.graph.itemsize(value)
