"""Writes a rank's regions of an output to a file."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..io.writing.writers import Store
from ..ir.exchange import Exchange, region_at
from ..ir.region import Region
from ..ir.tags import SAVE
from ..runtime.worker import Worker


def save_regions(
    worker: Worker, tensors: Mapping[Region, torch.Tensor], value: str, store: Store
) -> None:
    """Write a rank's regions of an output; every rank that has a region of it must be called.

    One rank writes each chunk of the file.  If a value belongs to a chunk of another rank, it is
    first sent to that rank.

    Parameters
    ----------
    worker
        The rank's worker, which sends and receives.
    tensors
        The regions that the rank computed, over ``(batch, *spatial)``.
    value
        Name of the output in the graph.
    store
        The file.
    """
    for replica, stage in enumerate(worker.stages):
        if any(node.name == value for node in stage.rank_plan.nodes):
            for number in stage.pipeline_stage.pipeline.numbers:
                _save_micro_batch(worker, replica, number, tensors, value, store)


def _save_micro_batch(
    worker: Worker,
    replica: int,
    number: int,
    tensors: Mapping[Region, torch.Tensor],
    value: str,
    store: Store,
) -> None:
    """Write the rank's regions of a micro-batch's output, in one replica of the plan."""
    rank_plan = worker.stages[replica].rank_plan
    # An output may have several rows along the batch for each image.
    rows_each = store.axes.extent[0] // sum(rank_plan.micro_batch_sizes)
    rows = rank_plan.micro_batch_sizes[number] * rows_each or 1
    first = rank_plan.first_image(number) * rows_each
    has = rank_plan.team.tiling.spans((rows, *store.axes.extent[1:]))
    own, needs = region_at(has, rank_plan.position), store.spans(has)
    if own.empty:
        return
    x = tensors[own.moved(first)]
    if needs != has:
        team = rank_plan.team
        exchange = Exchange(SAVE.tag(), value, "save", team, team, has, needs, 0)
        x = worker.exchange(exchange, x, store.axes, replica)
    if not (aligned := region_at(needs, rank_plan.position)).empty:
        store.write(aligned.moved(first), x)
