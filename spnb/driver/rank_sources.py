"""The images and examples of one rank: files that it sees, or the regions that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..io.examples import Examples, Unread
from ..io.sources import HeldSource, Source
from ..io.tensors import numpy_floats
from ..ir.graph import Graph
from ..ir.rank_plan import RankPlan
from ..ir.region import Region


def sources_for_rank(
    sources: Mapping[str, Source], rank_plan: RankPlan, sees_files: bool
) -> dict[str, Source]:
    """The inputs that a rank reads.

    Parameters
    ----------
    sources
        A source for each input, by the input's name.
    rank_plan
        The rank's share of the plan.
    sees_files
        Whether the rank can open the files of this host.

    Returns
    -------
    dict
        The sources themselves; for a rank that cannot open files, the regions that it needs, read
        now.
    """
    needs: dict[str, Region] = {}
    for step in (step for step in rank_plan.received("input") if step.value in sources):
        needs[step.value] = needs.get(step.value, step.region) | step.region
    if sees_files:
        return {name: sources[name] for name in needs}
    dtype = numpy_floats(rank_plan.dtype)
    return {name: HeldSource.of(sources[name], region, dtype) for name, region in needs.items()}


def examples_for_ranks(
    examples: Examples,
    images: Source,
    graph: Graph,
    rank_plans: Sequence[RankPlan],
    sees_files: bool,
) -> list[Examples]:
    """The examples of each rank, of whose images it reads what `sources_for_rank` returns.

    Parameters
    ----------
    examples
        The targets, and the order of the examples.
    images
        The images.
    graph
        The network; a loss in it has targets as inputs, which are no images.
    rank_plans
        The share of each rank.
    sees_files
        Whether ranks can open the files of this host.

    Returns
    -------
    list of Examples
        In rank order; a rank that reads no image has the targets only.
    """
    shares = []
    inputs = {name: images for name in graph.inputs if name not in graph.target_types}
    for rank_plan in rank_plans:
        seen = sources_for_rank(inputs, rank_plan, sees_files)
        own = next(iter(seen.values()), Unread(examples.images.shape))
        shares.append(replace(examples, images=own))
    return shares
