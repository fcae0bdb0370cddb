"""The pictures of a plan: arrays and tables are collected here, and drawn by `spnb.display`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.clock import clock_table
from ..analysis.halos import halo_of, widest_halo
from ..analysis.memory import held_value_bytes
from ..analysis.traffic import traffic_matrix
from ..analysis.untiled import untiled
from ..analysis.weight_memory import PROCESS, held_weight_bytes, weight_bytes
from ..io.sources import NOT_GIVEN, Source, given
from ..io.thumbnail import thumbnail
from ..ir.region import Region
from .plan_inputs import PlanInputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..viewer.run_view import RunView


class PlanPictures(PlanInputs):
    """A plan that draws itself; every picture returns matplotlib `Axes`."""

    def plot_tiles(
        self, image: Any = NOT_GIVEN, stage: int | None = None, ax: Axes | None = None
    ) -> Any:
        """Draw tile boundaries and halo bands over an image, for one or for each tiled stage.

        Parameters
        ----------
        image
            What `open` takes; by default the synthetic image.
        stage
            A tiled stage; by default all of them, side by side.
        ax
            Where to draw one stage; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes, or an array of them for several stages

        Raises
        ------
        ValueError
            If the image has other than two axes, or no stage is tiled.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=64, batch_size=1, resize=True)
        >>> spnb.plan(job).plot_tiles("retina").get_title().splitlines()
        ['Stage 0: retina resized from 1411x1411', '64×64 pixels, 2×2 tiles']
        """
        from ..display import plots  # engines import this module, and need no matplotlib

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

    def show(self, image: Any = NOT_GIVEN) -> RunView:
        """Show an image of any size with the tiles of the plan in a widget; nothing is run.

        The image is read by region, at the resolution of the screen, and never held whole.

        Parameters
        ----------
        image
            What `open` takes; by default the synthetic image.

        Returns
        -------
        spnb.viewer.run_view.RunView
            A widget.

        Raises
        ------
        ValueError
            If the image has other than two axes.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=64, batch_size=1)
        >>> view = spnb.plan(job).show()
        >>> [tile["region"] for tile in view.scene["stages"][0]["tiles"]][3]
        [32, 64, 32, 64]
        """
        from ..viewer.layer import Layer
        from ..viewer.views import view_of

        return view_of(self, {"image": Layer.of_image(self.open(image))})

    def plot_halo(
        self,
        rank: int = 0,
        image: Any = NOT_GIVEN,
        layer: str | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw the halo of one rank, enlarged, in the colours of the neighbours that own it.

        Parameters
        ----------
        rank
            The rank whose halo is drawn.
        image
            What `open` takes; its pixels are drawn under the halo.  By default, no pixels are
            drawn.
        layer
            The layer whose result is exchanged; by default the one with the stage's widest halo.
        ax
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If the rank's stage has no such halo, or the image has other than two axes.

        Examples
        --------
        >>> import spnb
        >>> plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=1))
        >>> plan.plot_halo(rank=2).get_title()
        'What rank 2 needs of block3_0.branch.0: 9×9 for a tile of 8×8'
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
            self._pixels(self.open(image), found.extent[1:]) if given(image, "image") else None,
            f"What rank {rank} needs {where}",
            ax,
        )

    def _pixels(self, source: Source, extent: Sequence[int]) -> Callable[[Region], np.ndarray]:
        """Return a function that reads the pixels under a region of a value of some extent."""
        scale = [n / m for n, m in zip(self.extent, extent, strict=True)]

        def pixels(region: Region) -> np.ndarray:
            rows, columns = (
                (int(a * s), min(n, max(int(a * s) + 1, round(b * s))))
                for (a, b), s, n in zip(region.spans, scale, self.extent, strict=True)
            )
            return thumbnail(source, 512, (rows, columns))

        return pixels

    def plot_clock(self, ax: Axes | None = None) -> Axes:
        """Draw which micro-batch is in which stage at which tick, in training forward and back.

        Parameters
        ----------
        ax
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import spnb
        >>> plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=3, parts=3))
        >>> plan.plot_clock().get_title()
        '3 micro-batches through 2 stages: idle 25%'
        """
        from ..display import plots

        return plots.clock(clock_table(self), ax)

    def plot_traffic(self, ax: Axes | None = None, *, beside: Sequence[PlanPictures] = ()) -> Axes:
        """Draw the bytes that each rank sends to each other in one pass over the batch.

        Parameters
        ----------
        ax
            Where to draw; a new figure by default.
        beside
            Other plans that are drawn beside this one: all have one scale of colours.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import spnb
        >>> plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=1))
        >>> plan.plot_traffic().get_xlabel()
        'to rank'
        """
        from ..display import plots

        borders = [stage.team.ranks[0] for stage in self.stages[1:]]
        return plots.traffic(traffic_matrix(self), borders, ax, [*map(traffic_matrix, beside)])

    def plot_memory(
        self, ax: Axes | None = None, *, measured: Mapping[int, int] | None = None
    ) -> Axes:
        """Draw the most that each rank will need, against the need of the untiled network.

        Parameters
        ----------
        ax
            Where to draw; a new figure by default.
        measured
            By rank: growth of its process during a run, in bytes; drawn as marks.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import spnb
        >>> plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=1))
        >>> plan.plot_memory().get_xlabel()
        'rank'
        """
        from ..display import plots

        ranks = range(self.num_ranks)
        weights = np.array([held_weight_bytes(self, rank) for rank in ranks])
        values = np.array([held_value_bytes(self, rank) for rank in ranks])
        whole = untiled(self)
        need = PROCESS + weight_bytes(whole, 0) + held_value_bytes(whole, 0)
        return plots.memory(weights, values, PROCESS, need, measured, ax)


def _spatial(region: Region) -> Region:
    """Return a region without the batch."""
    return Region(region.spans[1:])
