"""The images and examples of one rank: files that it sees, or the regions that it needs."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..io.background import Background
from ..io.datasets.examples import Examples, Unread
from ..io.sources import HeldSource, Source
from ..io.tensors import numpy_floats
from ..ir.rank_plan import RankPlan
from ..ir.region import Region


def sources_for_rank(
    sources: Mapping[str, Source], rank_plan: RankPlan, unseen: Collection[str] = ()
) -> dict[str, Source]:
    """The inputs that a rank reads.

    Parameters
    ----------
    sources
        A source for each input, by the input's name.
    rank_plan
        The rank's share of the plan.
    unseen
        Names of the inputs whose files the rank cannot open.

    Returns
    -------
    dict
        The sources themselves; in place of those whose files the rank cannot open, the regions that
        it needs, read now.
    """
    needs: dict[str, Region] = {}
    for step in (step for step in rank_plan.received("input") if step.value in sources):
        needs[step.value] = needs.get(step.value, step.region) | step.region
    dtype = numpy_floats(rank_plan.dtype)

    def given(name: str, region: Region) -> Source:
        source, hold = sources[name], partial(HeldSource.of, region=region, dtype=dtype)
        if name not in unseen:
            return source
        return source.over(hold) if isinstance(source, Background) else hold(source)

    return {name: given(name, region) for name, region in needs.items()}


def examples_for_ranks(
    examples: Examples,
    images: Source,
    rank_plans: Sequence[RankPlan | None],
    seen: Sequence[bool],
    folder: Path | None,
) -> list[Examples]:
    """The examples of each rank, of whose images it reads what `sources_for_rank` returns.

    Parameters
    ----------
    examples
        The targets, and the order of the examples.
    images
        The images.
    rank_plans
        The share of each rank, None if the plan does not need it; the targets of a loss in the
        plan are no images.
    seen
        Whether each rank can open the files of the images.
    folder
        Where targets are written to files, which are removed with the list's first item; None to
        send them.

    Returns
    -------
    list of Examples
        In rank order; a rank that reads no image has the targets only.
    """
    shares = []
    if folder is not None:
        folder = Path(tempfile.mkdtemp(prefix="targets-", dir=folder))
        examples = examples.filed(folder)
    for rank_plan, sees in zip(rank_plans, seen, strict=True):
        own: Source | Unread = Unread(examples.images.shape)
        if rank_plan is not None:
            inputs = {step.value for step in rank_plan.received("input")} - set(rank_plan.targets)
            unseen = () if sees else inputs
            read = sources_for_rank(dict.fromkeys(inputs, images), rank_plan, unseen)
            own = next(iter(read.values()), own)
        shares.append(replace(examples, images=own))
    if folder is not None:
        weakref.finalize(shares[0], shutil.rmtree, folder, ignore_errors=True)
    return shares
