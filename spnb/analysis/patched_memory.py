"""What a rank holds in memory, and on disk, if the patches of its tile wait for each other."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ..ir.exchange import HOST
from ..ir.program import Segments, Send
from ..ir.region import Region
from ..planner.plan import Plan
from .training_memory import TrainingMemory

IN_PATCHES = 1.35
"""Bytes from the system for each byte of a patch's values, which have many sizes (measured)."""


def patched_value_bytes(plan: Plan, rank: int) -> int:
    """Return the most bytes of values that a rank has in memory.

    They are the values of one patch, in training with all that autograd saves of one segment, and
    the tile's outputs, in training with their gradients.

    Parameters
    ----------
    plan
        A plan with patches that exchange.
    rank
        A rank of the plan.
    """
    memories = _memories(plan, rank % plan.replicas.ranks_each)
    training = plan.graph.training
    of_patch = max(each.peak if training else each.forward_peak for each in memories)
    outputs = sum(map(_output_bytes, memories)) * (2 if training else 1)
    return int(IN_PATCHES * of_patch) + outputs


def patched_bytes_in_the_middle(plan: Plan, rank: int) -> int:
    """Return about the same bytes, of which a patch in the middle stands for all of a rank's."""
    memory = _memory_of(plan, middle_patch(plan, rank))
    training, count = plan.graph.training, plan.owners.count(rank)
    of_patch = memory.peak if training else memory.forward_peak
    return int(IN_PATCHES * of_patch) + _output_bytes(memory) * count * (2 if training else 1)


def disk_bytes_in_the_middle(plan: Plan, rank: int) -> int:
    """Return about the bytes of `disk_bytes`, of which a patch in the middle stands for all."""
    memory = _memory_of(plan, middle_patch(plan, rank))
    return _waiting_bytes(memory) * plan.owners.count(rank)


def middle_patch(plan: Plan, rank: int) -> int:
    """Return the rank in the finer plan of a patch in the middle of those of a rank."""
    patches = [patch for patch, owner in enumerate(plan.owners) if owner == rank]
    return patches[len(patches) // 2]


def disk_bytes(plan: Plan, rank: int) -> int:
    """Return the most bytes of values that a rank has on disk: those of a micro-batch.

    Parameters
    ----------
    plan
        A plan with patches that exchange.
    rank
        A rank of the plan.
    """
    return sum(map(_waiting_bytes, _memories(plan, rank % plan.replicas.ranks_each)))


@lru_cache(maxsize=64)
def _memories(plan: Plan, rank: int) -> list[TrainingMemory]:
    """The memory of each patch of a rank."""
    assert plan.finer is not None
    found = []
    for patch, owner in enumerate(plan.owners):
        if owner == rank:
            found.append(_memory_of(plan, patch))
    return found


def _memory_of(plan: Plan, patch: int) -> TrainingMemory:
    assert plan.finer is not None
    (program,) = plan.finer.programs(patch, max(plan.micro_batch_sizes))
    segments = Segments.between_waits(program)
    return TrainingMemory(plan.finer, patch, segments, on_disk=True)


def _waiting_bytes(memory: TrainingMemory) -> int:
    """Bytes of a patch on disk: values where segments begin, each once, and what arrived."""
    if not memory.plan.graph.training:
        alive = [memory.alive[number] for number in memory.segments.starts]
        return max(_bytes(memory, values.items()) for values in alive)
    values = {item for number in memory.segments.starts for item in memory.alive[number].items()}
    return _bytes(memory, values) + sum(memory.arrived.values())


def _bytes(memory: TrainingMemory, values: Iterable[tuple[str, Region]]) -> int:
    return sum(memory.bytes_of(value, region) for value, region in values)


def _output_bytes(memory: TrainingMemory) -> int:
    """Bytes of a patch's outputs."""
    sends = [step for step in memory.program.steps if isinstance(step, Send)]
    return sum(
        memory.bytes_of(step.value, transfer.region)
        for step in sends
        for transfer in step.transfers
        if transfer.target == HOST
    )
