"""From a job to its plan, to look at and to run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import survey
from .balance import shape_text, stage_blocks
from .capture import capture
from .images import open_source
from .layout import PlanError
from .options import Job
from .plan import Plan
from .sources import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class JobPlan(Plan):
    """The plan of a job: stages, tiles, transfers and every rank's program.

    Parameters
    ----------
    job
        What to plan; kept as ``plan.job``.

    Raises
    ------
    PlanError
        If the split cannot be exact, naming stage, layer, operator, extent and a way out.
    CaptureError
        If the network cannot be captured.
    """

    def __init__(self, job: Job):
        tilings, sizes = job.tilings, job.input_shape[2:]
        for stage, tiling in enumerate(tilings):
            if any(n > size for n, size in zip(tiling.grid[1:], sizes, strict=True)):
                raise PlanError(
                    f"stage {stage}: an image of {shape_text(sizes)} pixels cannot be cut into"
                    f" {shape_text(tiling.grid[1:])} tiles: use fewer tiles or a larger image"
                )
        graph = capture(job.skeleton, job.input_shape, job.dtype)
        cut_batch = job.parts > 1 or job.local_DP > 1
        balance = stage_blocks(graph, tilings, cut_batch, job.balance, job.allow_gather)
        super().__init__(graph, tilings, balance, job.parts, job.fused, job.home)
        self.job = job

    def open(self, image: Any = None) -> Source:
        """An image as a source that fits the plan: see `spnb.images.open_source`.

        A picture that is named by file or sample is resized to the plan's size; what is passed as
        an array must have it.

        Raises
        ------
        ValueError, FileNotFoundError
            If it cannot be read or does not fit.
        """
        batch, channels, *size = self.job.input_shape
        return open_source(
            image,
            batch_size=batch,
            channels=channels,
            size=tuple(size),
            seed=self.job.seed,
            resize=isinstance(image, (str, Path)),
        )

    def plot_tiles(
        self, image: Any = None, stage: int | None = None, ax: Axes | None = None
    ) -> Any:
        """Draw tile boundaries and halo bands over an image, for one or for each tiled stage.

        Parameters
        ----------
        image
            What `open` takes; by default the synthetic image.
        stage
            A tiled stage; by default all of them, side by side.
        ax
            Where to draw, with one stage.

        Returns
        -------
        matplotlib.axes.Axes, or an array of them for several stages
        """
        from . import plots  # engines import this module, and draw nothing

        return plots.plan_tiles(self, self.open(image), stage, ax)

    def __repr__(self) -> str:
        return survey.describe(self, self.job.name)


def plan(job: Job) -> JobPlan:
    """Plan a job; nothing is started. See `JobPlan` for what is refused.

    Examples
    --------
    >>> plan(Job("resnet20_v1", image_size=64, batch_size=1)).num_ranks
    5
    """
    return JobPlan(job)
