"""The widest halo that a rank receives, and its pixels: what `spnb.here.plot` draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..ir.exchange import Exchange, Transfer
from ..ir.rank_plan import RankPlan
from ..ir.region import Region


class ReceivedHalo(NamedTuple):
    """A halo of a rank: the region that it has, the one that it needs, and the transfers."""

    retained: Region
    region: Region
    transfers: Sequence[Transfer]


def widest_received_halo(rank_plan: RankPlan) -> ReceivedHalo:
    """The widest halo of a 2-D value that a rank receives from others, or reads from the image.

    Raises
    ------
    ValueError
        If it has none.
    """
    found = [
        ReceivedHalo(step.retained, step.region, step.transfers)
        for step in rank_plan.received("halo")
        if step.retained is not None  # a rank without a part of the value has no halo
    ]
    if rank_plan.entry_needs is not None:  # a rank reads the halo of the image itself
        team, has = rank_plan.team, rank_plan.team.tiling.spans(rank_plan.extent)
        read = Exchange(0, "x", "input", team, team, has, rank_plan.entry_needs, 0)
        found.append(
            ReceivedHalo(rank_plan.region, read.need(rank_plan.rank), read.receives(rank_plan.rank))
        )
    found = [each for each in found if each.transfers and len(each.retained.spans) == 3]
    if not found:
        raise ValueError(
            f"rank {rank_plan.rank} of stage {rank_plan.stage} has no halo of a 2-D value: nothing"
            " to draw"
        )
    return max(found, key=lambda each: each.region.size - each.retained.size)


def pixels_of(x: torch.Tensor, need: Region) -> Callable[[Region], np.ndarray]:
    """The pixels of any region of a tensor, scaled to [0, 1].

    Parameters
    ----------
    x
        ``(batch, channels, height, width)``; its first image is shown, in colours if it has three
        channels or more.
    need
        The region over ``(height, width)`` that it covers.

    Returns
    -------
    callable
        From a region to an array ``(height, width, 3)``.
    """
    values = x[0].float()
    values = (values - values.min()) / (values.max() - values.min() or 1.0)
    shown = values[[0, 1, 2] if len(values) > 2 else [0, 0, 0]].movedim(0, -1).numpy()

    def pixels(region: Region) -> np.ndarray:
        spans = zip(region.spans, need.spans, shown.shape[:2], strict=True)
        scaled = [
            slice(int((a - low) * n / (high - low)), math.ceil((b - low) * n / (high - low)))
            for (a, b), (low, high), n in spans
        ]
        return shown[tuple(scaled)]

    return pixels
