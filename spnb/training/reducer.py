"""Sums of gradients over ranks; a sum begins while other gradients are still computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..ir.program import Compute
from ..ir.rank_plan import Shared
from ..ir.tags import SUM
from ..runtime.pipeline_stage import PipelineStage
from ..transport import Transport
from ..transport.allreduce import AllReduce
from .sums import Sums

BUCKET = 1 << 22
"""Bytes of gradients that are summed in one message."""


@dataclass(frozen=True)
class Bucket:
    """Gradients, or changes of running statistics, that some ranks sum in one message.

    Attributes
    ----------
    number
        Number of the sum; the same on all of its ranks.
    ranks
        The ranks that share the weights.
    names
        The weights' names.
    """

    number: int
    ranks: Sequence[int]
    names: tuple[str, ...]


def buckets_of(
    shared: Iterable[Shared],
    parameters: Collection[str],
    running_stats: Collection[str],
    weights: Mapping[str, torch.Tensor],
) -> list[Bucket]:
    """The buckets of a rank, in an order that is the same on all ranks.

    A weight that the forward pass reads last comes first: its gradient is complete first.

    Parameters
    ----------
    shared
        Weights by the ranks that have them.
    parameters, running_stats
        Names of the weights that have gradients, and of running statistics.
    weights
        Weights by name.
    """
    found = []
    for number, each in sorted({each.number: each for each in shared}.items()):
        if len(each.ranks) < 2:
            continue
        names = [name for name in reversed(each.names) if name in parameters]
        moved = [name for name in each.names if name in running_stats]
        for group in (*_by_size(names, weights), moved):
            if group:
                found.append(Bucket(number, each.ranks, tuple(group)))
                number += 1
    return found


def _by_size(names: Sequence[str], weights: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names in groups of about `BUCKET` bytes, each of one dtype."""
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


def completed_by_step(
    passes: Sequence[tuple[int, str, int]],
    stages: Sequence[PipelineStage],
    parameters: Iterable[str],
) -> dict[tuple[int, int], list[str]]:
    """The point of a step at which each gradient is complete on this rank.

    Parameters
    ----------
    passes
        The rank's passes of a step in their order, as `spnb.ir.schedule.in_turns` gives them.
    stages
        The rank's stage in each of its pipelines.
    parameters
        Names of the weights that have gradients.

    Returns
    -------
    dict
        By the index of a pass and the number of a step of its program: the parameters to which no
        later step adds a gradient.  Parameters that constants are computed from are left out;
        their gradients are complete only after the last pass.
    """
    last: dict[str, tuple[int, int]] = {}
    for index, (number, kind, micro_batch) in enumerate(passes):
        rank_plan = stages[number].rank_plan
        (program,) = rank_plan.programs[rank_plan.micro_batch_sizes[micro_batch]]
        if kind == "backward":
            for k, step in reversed(list(enumerate(program.steps))):
                if isinstance(step, Compute):
                    last |= {w.name: (index, k) for w in rank_plan.nodes[step.node].weights}
    of_constants = {
        weight.name
        for stage in stages
        for constant in stage.rank_plan.constants
        for weight in constant.weights
    }
    found: dict[tuple[int, int], list[str]] = {}
    for name in parameters:
        if name in last and name not in of_constants:
            found.setdefault(last[name], []).append(name)
    return found


class Reducer:
    """Sums over ranks in one step; each begins when this rank's share of it is complete.

    Parameters
    ----------
    buckets
        The groups of gradients, as `buckets_of` gives them.
    like
        A tensor of the same shape and dtype for each name.
    transport
        Carries the sums.

    Attributes
    ----------
    sums
        This rank's, and then those over ranks.  Those of a bucket are views of one tensor, which is
        sent.
    started
        The sums over ranks that have begun.
    """

    def __init__(
        self, buckets: Sequence[Bucket], like: Mapping[str, torch.Tensor], transport: Transport
    ):
        self.buckets, self.transport = buckets, transport
        self.started: dict[Bucket, AllReduce] = {}
        self._under_way: list[AllReduce] = []
        self._bucket_of = {name: bucket for bucket in buckets for name in bucket.names}
        self._incomplete = {bucket: set(bucket.names) for bucket in buckets}
        unshared = [name for name in like if name not in self._bucket_of]
        sums = {name: torch.empty_like(like[name], requires_grad=False) for name in unshared}
        self._flat: dict[Bucket, torch.Tensor] = {}
        for bucket in buckets:
            sizes = [like[name].numel() for name in bucket.names]
            flat = self._flat[bucket] = like[bucket.names[0]].new_empty(sum(sizes))
            for name, section in zip(bucket.names, flat.split(sizes), strict=True):
                sums[name] = section.view(like[name].shape)
        self.sums = Sums(sums)

    def mark_ready(self, names: Sequence[str]) -> None:
        """Record that these sums are complete on this rank, and advance the sums over ranks."""
        self._under_way = [each for each in self._under_way if each.advance()]
        for bucket in (self._bucket_of[name] for name in names if name in self._bucket_of):
            self._incomplete[bucket].difference_update(names)
            if not self._incomplete[bucket] and bucket not in self.started:
                self._start(bucket)

    def _start(self, bucket: Bucket) -> None:
        self.sums.complete(bucket.names)
        self.started[bucket] = found = AllReduce(
            tensor=self._flat[bucket],
            ranks=bucket.ranks,
            transport=self.transport,
            tag=SUM.tag(bucket.number),
        )
        self._under_way.append(found)

    def finish(self) -> None:
        """Begin the remaining sums, and wait for all, in the same order on all ranks."""
        for bucket in self.buckets:
            if bucket not in self.started:
                self._start(bucket)
        for bucket in self.buckets:
            self.started[bucket].result()
