"""Where each rank of a plan is: its stage, its tile, and its replica."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.graph import Graph
from ..ir.region import Region
from ..ir.replicas import Replicas
from ..ir.tiling import Tiling
from .stage import Stage
from .staged_graph import StagedGraph


class RankPlaces(StagedGraph):
    """A graph cut into stages, with the ranks of all replicas.

    The examples of the methods go on from the example of `spnb.planner.plan.Plan`.

    Parameters
    ----------
    graph
        The network, each call as its stage can run it.
    tilings
        Grid of each stage over ``(batch, *spatial)``.
    blocks
        Number of blocks in each stage.
    patches
        Grid over the spatial axes that cuts each tile of the first stage.
    parts
        Micro-batches of each turn of each replica.
    replicas, times, overlapped
        Replicas that share the batch: see `spnb.ir.replicas.Replicas`.

    Attributes
    ----------
    replicas
        The replicas of the plan, with the number of micro-batches in each.
    """

    def __init__(
        self,
        graph: Graph,
        tilings: Sequence[Tiling],
        blocks: Sequence[int],
        patches: Sequence[int],
        *,
        parts: int,
        replicas: int,
        times: int,
        overlapped: bool,
    ):
        super().__init__(graph, tilings, blocks, patches)
        self.replicas = Replicas(
            ranks_each=self.stages[-1].team.ranks[-1] + 1,
            micro_batches=parts,
            count=replicas,
            times=times,
            overlapped=overlapped,
        )

    @property
    def num_ranks(self) -> int:
        """Number of ranks of all replicas.

        Examples
        --------
        >>> plan.num_ranks
        5
        """
        return self.replicas.num_ranks

    def stage_of(self, rank: int) -> Stage:
        """The stage that a rank belongs to, in the pipeline that is not mirrored.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.

        Returns
        -------
        Stage
            Its calls, its blocks and its team.

        Examples
        --------
        >>> plan.stage_of(4).index
        1
        """
        own = rank % self.replicas.ranks_each
        return next(stage for stage in self.stages if own in stage.team.ranks)

    def replica_of(self, rank: int) -> int:
        """Number of the replica that a rank belongs to.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.

        Returns
        -------
        int
            From 0.

        Examples
        --------
        >>> plan.replica_of(4)
        0
        """
        return rank // self.replicas.ranks_each

    def stages_on(self, rank: int) -> tuple[int, ...]:
        """Stages of which a rank has weights: its own, and that of its mirror if there is one.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.

        Returns
        -------
        tuple of int
            Numbers of the stages, in order.

        Examples
        --------
        >>> plan.stages_on(4)
        (1,)
        """
        return tuple(sorted({self.stage_of(each).index for each in self.plan_ranks_of(rank)}))

    def plan_ranks_of(self, rank: int) -> tuple[int, ...]:
        """The rank of the plan that a rank of the world is, and its mirror if there is one.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.

        Returns
        -------
        tuple of int
            One rank of a replica, or two: the rank and its mirror.

        Examples
        --------
        >>> plan.plan_ranks_of(4)
        (4,)
        """
        own, last = rank % self.replicas.ranks_each, self.replicas.ranks_each - 1
        return (own, last - own) if self.replicas.times else (own,)

    def tile_of(self, rank: int) -> int:
        """Number of a rank's tile in its stage.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.

        Returns
        -------
        int
            From 0, in the order of the rows of the stage's grid.

        Examples
        --------
        >>> plan.tile_of(3)
        3
        """
        return self.stage_of(rank).team.ranks.index(rank % self.replicas.ranks_each)

    def tile_region(self, rank: int) -> Region:
        """The region of its stage's first input that a rank owns.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.

        Returns
        -------
        Region
            Over ``(batch, *spatial)``, for the whole batch.

        Examples
        --------
        >>> plan.tile_region(3)
        Region(images 0:2, rows 32:64, columns 32:64)
        """
        stage = self.stage_of(rank)
        extent = self.graph.extent(self.entry_of(stage))
        return stage.team.tiling.region(extent, self.tile_of(rank))
