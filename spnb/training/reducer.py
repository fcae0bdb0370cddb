"""Sums of gradients over the ranks that share parameters, begun while others are computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..ir.rank_plan import Shared
from ..ir.tags import SUM
from ..transport import Transport
from ..transport.allreduce import Sum

BUCKET = 1 << 22
"""Bytes of gradients that are summed together."""


@dataclass(frozen=True)
class Bucket:
    """Parameters whose gradients are summed over some ranks in one go, or batch norms' figures."""

    number: int
    ranks: Sequence[int]
    names: tuple[str, ...]


def buckets_of(
    shared: Iterable[Shared],
    parameters: Collection[str],
    averages: Collection[str],
    weights: Mapping[str, torch.Tensor],
) -> list[Bucket]:
    """What is summed over ranks, in an order that all of them have; last used first.

    Parameters
    ----------
    shared
        Weights by the ranks that have them.
    parameters, averages
        Names of those that have gradients, and of running statistics.
    weights
        By name.
    """
    found = []
    for number, each in sorted({each.number: each for each in shared}.items()):
        if len(each.ranks) < 2:
            continue
        names = [name for name in reversed(each.names) if name in parameters]
        moved = [name for name in each.names if name in averages]
        for group in (*_by_size(names, weights), moved):
            if group:
                found.append(Bucket(number, each.ranks, tuple(group)))
                number += 1
    return found


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


class Gathering:
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
        facts = (self._flat[bucket], bucket.ranks, self.transport, SUM.tag(bucket.number))
        self.under_way[bucket] = Sum(*facts)

    def finish(self) -> None:
        """Begin what has not begun, and wait for all; in the same order on all ranks."""
        for bucket in self.buckets:
            if bucket not in self.under_way:
                self._begin(bucket)
        for bucket in self.buckets:
            self.under_way[bucket].result()
