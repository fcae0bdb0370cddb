"""The rank of this process, for ``%%px`` cells: ``spnb.here``.

The module is longer than others since every public member has an example.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from ..display.cards import Card, Shown, Table, stage_grid
from ..ir.axes import Axes
from ..ir.exchange import Exchange, Spans, region_at
from ..ir.region import Region
from ..ir.tags import CELL
from ..runtime.halo_tile import cut
from ..runtime.state import Piece
from .halo_picture import pixels_of, widest_received_halo
from .rank import Rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes as PlotAxes


class Here(Shown, Rank):
    """The rank of this process: its place in the plan, and the operations of a cell.

    Attributes
    ----------
    plan
        Its share of the plan, a `spnb.ir.rank_plan.RankPlan`.  Before a plan is loaded, and if the
        plan does not need this rank, it is ``None``, and so are `rank`, `stage`, `tile` and
        `region`.

    Examples
    --------
    On an engine ``spnb.here`` is such an object; `spnb.InProcess.run` passes one for each rank.
    The examples of the methods go on from this one.

    >>> import spnb
    >>> import torch
    >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
    >>> session = spnb.InProcess(spnb.plan(job), progress=False)
    >>> print(session.run(repr)[0].replace(", owns", ",\\nowns"))
    spnb.here: rank 0 of 3, stage 0, tile 0 of 1×2,
    owns Region(images 0:1, rows 0:32, columns 0:16)
    """

    @property
    def rank(self) -> int | None:
        """Number of this rank among all ranks of the plan.

        Examples
        --------
        >>> session.run(lambda here: here.rank)
        [0, 1, 2]
        """
        return None if self.plan is None else self.plan.world_rank

    @property
    def stage(self) -> int | None:
        """Number of its stage.

        Examples
        --------
        >>> session.run(lambda here: here.stage)
        [0, 0, 1]
        """
        return None if self.plan is None else self.plan.stage

    @property
    def tile(self) -> int | None:
        """Number of its tile in the stage.

        Examples
        --------
        >>> session.run(lambda here: here.tile)
        [0, 1, 0]
        """
        return None if self.plan is None else self.plan.tile

    @property
    def region(self) -> Region | None:
        """The region of the stage's first input that it owns, over ``(batch, *spatial)``.

        Examples
        --------
        >>> session.run(lambda here: here.region.shape)[:2]
        [(1, 32, 16), (1, 32, 16)]
        """
        return None if self.plan is None else self.plan.region

    @property
    def neighbours(self) -> dict[str, int]:
        """Ranks of the tiles around its own, by direction: ``{"right": 1, "down": 2, …}``.

        Raises
        ------
        RuntimeError
            If no plan is loaded on this rank.

        Examples
        --------
        >>> session.run(lambda here: here.neighbours)
        [{'right': 1}, {'left': 0}, {}]
        """
        rank_plan = self._loaded()
        team, mine = rank_plan.team, rank_plan.position
        found: dict[str, int] = {}
        world = rank_plan.replicas.of(rank_plan.replica)[0].ranks
        words = (("front", "back"), ("up", "down"), ("left", "right"))[-(len(mine) - 1) :]
        for steps in itertools.product((-1, 0, 1), repeat=len(mine) - 1):
            place = (mine[0], *(k + step for k, step in zip(mine[1:], steps, strict=True)))
            inside = all(0 <= k < n for k, n in zip(place, team.tiling.grid, strict=True))
            if any(steps) and inside:
                names = (pair[step > 0] for pair, step in zip(words, steps, strict=True) if step)
                found["-".join(names)] = world[team.rank_at(place)]
        return found

    def plot(self, x: torch.Tensor | None = None, ax: PlotAxes | None = None) -> PlotAxes:
        """Draw this rank's tile and its widest halo; see `spnb.display.plots.halo`.

        Parameters
        ----------
        x
            Pixels to show: this rank's tile of the stage's input with its halo, of shape
            ``(batch, channels, height, width)``, as `exchange` returns it.
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If it has no halo, or the image has other than two axes.

        Examples
        --------
        >>> session.run(lambda here: here.plot().get_title() if here.rank == 0 else None)[0]
        'What rank 0 needs: 32×17 for a tile of 32×16'
        """
        from ..display import plots

        rank_plan = self._loaded()
        step = widest_received_halo(rank_plan)
        own, need = Region(step.retained.spans[1:]), Region(step.region.spans[1:])
        neighbours = [(t.source, Region(t.region.spans[1:])) for t in step.transfers]
        pixels = None if x is None else pixels_of(x, need)
        title = f"What rank {rank_plan.rank} needs"
        return plots.halo(rank_plan.team, rank_plan.rank, own, need, neighbours, pixels, title, ax)

    @property
    def card(self) -> Card:
        """Its place, what it owns, its neighbours, and its stage's ranks, for display.

        Examples
        --------
        >>> session.run(lambda here: len(here.card.grids))[0]
        1
        """
        if self.plan is None:
            return Card(str(self))
        facts = [("owns", str(self.region)), ("operators", str(len(self.plan.nodes)))]
        facts += [(f"{where} of it", f"rank {rank}") for where, rank in self.neighbours.items()]
        tiles = stage_grid(self.plan.stage, self.plan.team)
        return Card(str(self), [Table(("", ""), facts)], [tiles])

    def __repr__(self) -> str:
        if self.plan is None:
            return "spnb.here: no plan is loaded on this rank"
        grid = "×".join(map(str, self.plan.team.tiling.grid[1:]))
        return (
            f"spnb.here: rank {self.rank} of {self.plan.num_ranks}, stage {self.stage},"
            f" tile {self.tile} of {grid}, owns {self.region}"
        )

    def forward(self, x: torch.Tensor | None = None) -> list[Piece]:
        """Run the network on the tiles of the ranks of stage 0; every rank must call it.

        Parameters
        ----------
        x
            On a rank of stage 0, its tile: ``(batch, channels, *spatial)`` over ``here.region``.
            ``None`` on the others.

        Returns
        -------
        list of Piece
            The regions of the network's outputs that this rank computed.

        Raises
        ------
        ValueError
            If ``x`` is not this rank's tile, or the plan has several replicas.

        Examples
        --------
        >>> def run(here):
        ...     return here.forward(torch.rand(1, 3, 32, 16) if here.stage == 0 else None)
        >>> [len(pieces) for pieces in session.run(run)]
        [0, 0, 1]
        """
        rank_plan, worker = self._loaded(), self._worker()
        if rank_plan.replicas.num_micro_batches > rank_plan.replicas.micro_batches:
            raise ValueError(
                "forward runs one replica of a plan, but this has more (replicas, gems)"
            )
        if rank_plan.stage > 0:
            if x is not None:
                raise ValueError(
                    f"rank {rank_plan.rank} is in stage {rank_plan.stage}: only stage 0 takes x"
                )
            return worker.infer(self._no_image).pieces
        if rank_plan.team.tiling.grid[0] > 1:
            raise ValueError("forward takes tiles, but the ranks of stage 0 share a batch")
        needs = rank_plan.entry_needs
        assert needs is not None  # the first operator of stage 0 reads the network's input
        grown = self._grow(x, needs)
        held = region_at(needs, rank_plan.position)
        axes = Axes.image((2, grown.shape[1], *[2] * (grown.ndim - 2)))
        return worker.infer(lambda name, region: cut(grown, held, region, axes)).pieces

    def exchange(self, x: torch.Tensor, halo: int | tuple[int, ...] = 1) -> torch.Tensor:
        """Add a halo from the neighbours to this rank's tile; every rank of the stage must call it.

        Parameters
        ----------
        x
            This rank's tile of the stage's input, over ``here.region``; any number of channels.
        halo
            Positions on each side: one number for all spatial axes, or one for each.

        Returns
        -------
        torch.Tensor
            The tile with its halo; nothing is added at the border of the image.

        Raises
        ------
        ValueError
            If ``x`` is not over this rank's region.

        Examples
        --------
        >>> tile = torch.rand(1, 3, 32, 16)
        >>> grown = session.run(lambda here: here.exchange(tile) if here.stage == 0 else None)
        >>> grown[0].shape
        torch.Size([1, 3, 32, 17])
        """
        return self._grow(x, self._loaded().grown(halo))

    def _grow(self, x: torch.Tensor | None, needs: Spans) -> torch.Tensor:
        rank_plan = self._loaded()
        if x is None or (*x.shape[:1], *x.shape[2:]) != rank_plan.region.shape:
            images, *sizes = rank_plan.region.shape
            wanted = ", ".join(map(str, (images, "channels", *sizes)))
            given = None if x is None else tuple(x.shape)
            raise ValueError(
                f"rank {rank_plan.rank} owns {rank_plan.region}: x must be that tile, of shape"
                f" ({wanted}), not {given}"
            )
        has = rank_plan.team.tiling.spans(rank_plan.extent)
        team = rank_plan.team
        exchange = Exchange(CELL.tag(), "x", "halo", team, team, has, needs, 0)
        axes = Axes.image((2, x.shape[1], *[2] * (x.ndim - 2)))  # the sizes do not matter here
        return self._worker().exchange(exchange, x, axes)

    def _no_image(self, name: str, region: Region) -> torch.Tensor:
        raise ValueError(f"stage {self.stage} reads the image itself, and forward has none for it")


here = Here()
