"""The card of a job: its network, its split, and the options that were given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..display.cards import Card, Table

if TYPE_CHECKING:
    from .job import Job


def job_card(job: Job) -> Card:
    """Make the card of a job.

    Parameters
    ----------
    job
        The job.

    Returns
    -------
    Card
        The network, its input, the origin of its weights, the grid of each stage, and every option
        that was given.
    """
    shape = "×".join(map(str, job.input_shape))
    facts = [("network", job.name), ("input", shape), ("weights", job.weights_origin)]
    for stage, tiling in enumerate(job.tilings):
        grid = "×".join(map(str, tiling.grid[1:]))
        facts.append((f"stage {stage}", f"{grid} tiles" if stage < job.spatial_size else "whole"))
    facts += [(name, str(value)) for name, value in job.given().items()]
    return Card("Job", [Table(("", ""), facts)])
