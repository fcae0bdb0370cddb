"""The pictures of a plan: arrays and tables are collected here, and drawn by `spnb.display`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.clock import clock_table
from ..analysis.halos import halo_of, widest_halo
from ..analysis.memory import held_value_bytes, held_weight_bytes, weight_bytes
from ..analysis.traffic import traffic_matrix
from ..analysis.untiled import untiled
from ..io.sources import Source
from ..io.thumbnail import thumbnail
from ..ir.region import Region
from ..planner.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PlanPictures(Plan, ABC):
    """A plan that draws itself; every picture returns matplotlib `Axes`."""

    @abstractmethod
    def open(self, image: Any = None) -> Source:
        """An image as a source that fits the plan."""

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
        from ..display import plots  # engines import this module, and draw nothing

        if len(self.extent) != 2:
            raise ValueError(
                f"tiles are drawn over 2-D images, this one has {len(self.extent)} axes"
            )
        shown = [s for s in self.stages if s.tiled] if stage is None else [self.stages[stage]]
        if not shown:
            raise ValueError("no stage of this plan is tiled (spatial_size 0): nothing to draw")
        source = self.open(image)
        panels = [plots.TilesPanel(s.index, widest_halo(self, s.index), s.patches) for s in shown]
        return plots.stages(panels, self.extent, thumbnail(source), source.name, ax)

    def plot_halo(
        self, rank: int = 0, image: Any = None, layer: str | None = None, ax: Axes | None = None
    ) -> Axes:
        """Draw the halo of one rank, enlarged, coloured by the neighbour that owns each part.

        Parameters
        ----------
        rank
            Whose halo.
        image
            What `open` takes, to see its pixels.
        layer
            Whose result is exchanged; by default the widest halo of the rank's stage.
        ax
            Where to draw.

        Raises
        ------
        ValueError
            If the rank's stage has no such halo.
        """
        from ..display import plots

        if len(self.extent) != 2:
            raise ValueError(
                f"a halo is drawn over 2-D images, this one has {len(self.extent)} axes"
            )
        found = halo_of(self, rank, layer)
        where = "of the image" if found.layer == "the image" else f"of {found.layer}"
        return plots.halo(
            found.team,
            rank,
            _spatial(found.own(rank)),
            _spatial(found.need(rank)),
            [(t.source, _spatial(t.region)) for t in found.neighbours(rank)],
            None if image is None else self._pixels(self.open(image), found.extent[1:]),
            f"What rank {rank} needs {where}",
            ax,
        )

    def _pixels(self, source: Source, extent: Sequence[int]) -> Callable[[Region], np.ndarray]:
        """The image under a region of a value that has this extent over space."""
        scale = [n / m for n, m in zip(self.extent, extent, strict=True)]

        def pixels(region: Region) -> np.ndarray:
            spans = [
                (int(a * s), min(n, max(int(a * s) + 1, round(b * s))))
                for (a, b), s, n in zip(region.spans, scale, self.extent, strict=True)
            ]
            return thumbnail(source, 512, tuple(spans))

        return pixels

    def plot_clock(self, ax: Axes | None = None) -> Axes:
        """Draw which micro-batch is in which stage at which tick; in training, there and back."""
        from ..display import plots

        return plots.clock(clock_table(self), ax)

    def plot_traffic(self, ax: Axes | None = None) -> Axes:
        """Draw the bytes that each rank sends to each other in one pass over the batch."""
        from ..display import plots

        borders = [stage.team.ranks[0] for stage in self.stages[1:]]
        return plots.traffic(traffic_matrix(self), borders, ax)

    def plot_memory(
        self, ax: Axes | None = None, *, measured: Mapping[int, int] | None = None
    ) -> Axes:
        """Draw what each rank will hold at most, against the need of the untiled network.

        Parameters
        ----------
        ax
            Where to draw.
        measured
            Growth of each rank's process during a run, in bytes; drawn as marks.
        """
        from ..display import plots

        ranks = range(self.num_ranks)
        weights = np.array([held_weight_bytes(self, rank) for rank in ranks])
        values = np.array([held_value_bytes(self, rank) for rank in ranks])
        whole = untiled(self)
        need = weight_bytes(whole, 0) + held_value_bytes(whole, 0)
        return plots.memory(weights, values, need, measured, ax)


def _spatial(region: Region) -> Region:
    """The region without the batch."""
    return Region(region.spans[1:])
