"""From a captured network and a split to every rank's program: plain data, no rank is started.

A `Plan` holds the stages, each with a team of ranks in a grid, and the exchanges between them.
The share of one rank is derived on demand (`Plan.rank_plan`), so a plan for thousands of ranks
takes seconds and little memory, and each rank is sent its own share only.

The module is longer than others since every public member has an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from ..errors import PlanError
from ..ir.exchange import Exchange
from ..ir.graph import Graph
from ..ir.option_words import option
from ..ir.program import Program
from ..ir.rank_plan import Patches, RankPlan
from ..ir.region import shape_text
from ..ir.schedule import micro_batches
from ..ir.tags import SUM
from ..ir.tiling import Tiling, in_patches
from .exchanges import exchanges_of
from .fuse import fuse_calls
from .lower import lowered
from .needs import OperandRegions, StageNeeds, trace_needs
from .pieces.in_pieces import in_pieces
from .rank_places import RankPlaces
from .rank_plans import rank_plan_of
from .rank_programs import RankProgramBuilder
from .stage import Stage


class DependentPatches(PlanError):
    """Patches need results of each other, so they cannot be computed one after another."""


class Plan(RankPlaces):
    """The regions that each rank computes, and the exchanges between ranks.

    Parameters
    ----------
    graph
        The captured network, at the whole batch's shape.
    tilings
        Grid of each stage over ``(batch, *spatial)``.
    blocks
        Number of blocks in each stage (see `spnb.planner.balance.stage_blocks`).
    parts
        Number of micro-batches in each turn of each copy.
    fused
        Number of consecutive blocks that share one exchange; 0 for an exchange before each window
        operator.
    network_module
        The module that defines the network: ranks import it for its custom operators.
    patches
        Grid over the spatial axes that cuts each tile of the first stage into patches; a rank
        computes one at a time.
    patches_exchange
        Whether patches exchange halos and figures, as ranks do.  If not, they must need nothing of
        each other, and halos are fused over all blocks.
    compiled
        Whether `spnb.runtime.worker.Worker` runs the plan in inference: calls are then fused.
    schedule, recompute
        In training, to estimate memory: a key of `spnb.ir.schedule.SCHEDULES`, and whether values
        are computed again in the backward pass.
    replicas, times, overlapped
        Copies of the plan that share the batch: see `spnb.ir.replicas.Replicas`.

    Attributes
    ----------
    patches
        The patches of each tile, as the argument.
    finer
        The plan whose ranks are the patches, if they exchange; else None.
    captured
        The network as it was captured; ``graph`` is the network that ranks run.
    extent
        Spatial extent of the network's first input.
    replicas
        The copies of the plan, with the number of micro-batches in each.
    micro_batch_sizes
        Images in each micro-batch of a step.
    stage_needs
        What each tile owns, computes and needs, by stage and number of images in the micro-batch.
    patch_needs
        The same for the patches of the first stage, by number of images; empty without patches.
    exchanges
        Exchanges between teams, by number of images in the micro-batch.

    Raises
    ------
    PlanError
        If a micro-batch has fewer images than a stage has batch slices, if an operator of a stage
        in patches needs what other patches compute, or if messages have no tags for so many
        exchanges or weights.

    Examples
    --------
    `spnb.plan` makes such a plan of a job.  The examples of the methods go on from this one.

    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=64, batch_size=2, num_spatial_parts=4)
    >>> plan = spnb.plan(job)
    >>> plan.micro_batch_sizes, [list(stage.team.ranks) for stage in plan.stages]
    ((2,), [[0, 1, 2, 3], [4]])
    """

    def __init__(
        self,
        graph: Graph,
        tilings: Sequence[Tiling],
        blocks: Sequence[int],
        *,
        parts: int = 1,
        fused: int = 0,
        network_module: str | None = None,
        patches: Sequence[int] = (),
        patches_exchange: bool = False,
        compiled: bool = True,
        schedule: str = "1f1b",
        recompute: bool = False,
        recompute_memory: int | None = None,
        replicas: int = 1,
        times: int = 0,
        overlapped: bool = True,
    ):
        self.captured, self.schedule, self.recompute = graph, schedule, recompute
        self.recompute_memory = recompute_memory
        self.fused, self.network_module = fused, network_module
        self.patches = tuple(patches or (1,) * (len(tilings[0].grid) - 1))
        self.finer: Plan | None = None
        patches = self.patches
        if patches_exchange:
            patches = (1,) * len(self.patches)
            self.finer = Plan(
                graph,
                in_patches(tilings, self.patches),
                blocks,
                parts=parts,
                fused=fused,
                network_module=network_module,
                compiled=False,
                schedule=schedule,
                replicas=replicas,
                times=times,
                overlapped=overlapped,
            )
        cuts = in_patches(tilings, patches)
        graph = lowered(in_pieces(graph, cuts, blocks), cuts, blocks)
        self.compiled = compiled and not graph.training
        if self.compiled:
            graph = fuse_calls(graph, blocks)
        super().__init__(
            graph,
            tilings,
            blocks,
            patches,
            parts=parts,
            replicas=replicas,
            times=times,
            overlapped=overlapped,
        )
        batch, *extent = graph.extent(next(iter(graph.inputs)))
        self.extent = tuple(extent)
        self.micro_batch_sizes = micro_batches(batch, self.replicas.num_micro_batches)
        self._refuse_empty_slices()
        self._regions = OperandRegions()
        self.stage_needs: dict[tuple[int, int], StageNeeds] = {}
        self.patch_needs: dict[int, StageNeeds] = {}
        self.exchanges: dict[int, tuple[Exchange, ...]] = {}
        for images in sorted(set(self.micro_batch_sizes)):
            needs = {stage.index: self._trace_needs(stage, images) for stage in self.stages}
            self.stage_needs |= {(stage, images): each for stage, each in needs.items()}
            self.exchanges[images] = exchanges_of(self, needs, images)
            for exchange in self.exchanges[images]:
                exchange.verify()
        if graph.training:
            SUM.require(sum(map(len, self.users.values())))

    # --- building ---------------------------------------------------------------------------

    def _refuse_empty_slices(self) -> None:
        """Refuse more ranks along the batch than a micro-batch has images."""
        smallest = min(self.micro_batch_sizes)
        for stage in self.stages:
            slices = stage.team.tiling.grid[0]
            if slices > smallest:
                raise PlanError(
                    f"stage {stage.index}: {slices} ranks share a batch ({option('local_DP')}), but"
                    f" a micro-batch has only {smallest} of the {self.graph.batch} images: use"
                    " fewer parts or a larger batch"
                )

    def _trace_needs(self, stage: Stage, images: int) -> StageNeeds:
        """The needs of a stage's tiles for a micro-batch; records those of its patches too."""
        needs = trace_needs(
            self.graph,
            stage.nodes,
            tiling=stage.cuts,
            batch=images,
            exported=self.exported_by(stage) | self.graph.given_tiles,
            groups=self._groups(stage) if self.fused else None,
        )
        if stage.num_patches > 1:
            self._require_independent_patches(stage, needs)
            self.patch_needs[images] = needs
            needs = needs.merged(stage.patches)
        return needs

    def _groups(self, stage: Stage) -> dict[str, int]:
        """With fused halos, the group of blocks that computes each value of a stage.

        A tile that a rank is given has no halo, so it is in a group of its own.
        """
        first = stage.blocks[0]
        found = {
            node.name: (number - first) // self.fused
            for number in range(*stage.blocks)
            for node in self.graph.nodes_of(self.graph.blocks[number])
        }
        return found | dict.fromkeys(self.graph.given_tiles & found.keys(), -1)

    def _require_independent_patches(self, stage: Stage, needs: StageNeeds) -> None:
        """Refuse patches that need results of other patches, of the same rank or of others."""
        whole = [reader for (index, _), reader in self.gathered.items() if index == stage.index]
        found = whole + [node for node in stage.nodes if node.name in needs.points]
        if found:
            extent = shape_text(found[0].operand_axes[0].extent[1:])
            after, written = stage.nodes[stage.nodes.index(found[0]) :], self.captured.by_name
            labels = (written[node.name].label for node in after if node.name in written)
            label = next(labels, found[0].label)
            raise DependentPatches(
                f"stage {stage.index}, {label}: it needs what all patches compute of"
                f" {extent} positions, but the {stage.num_patches} patches of a tile are computed"
                " one by one: leave out patches, or let the tiled stage end before this layer"
                " (split_size, balance)"
            )

    # --- one rank ---------------------------------------------------------------------------

    def rank_plan(self, rank: int) -> RankPlan:
        """A rank's share of the plan, as plain picklable data.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.

        Returns
        -------
        RankPlan
            Its stage and tile, its programs, and the names of its weights; with mirrored replicas
            also those of its mirror.

        Examples
        --------
        >>> share = plan.rank_plan(3)
        >>> share.stage, share.tile, share.num_ranks
        (0, 3, 5)
        """
        replica = self.replica_of(rank)
        own, *mirror = (self._rank_plan(each, replica) for each in self.plan_ranks_of(rank))
        return replace(own, mirror=mirror[0]) if mirror else own

    def _rank_plan(self, plan_rank: int, replica: int) -> RankPlan:
        """The share of a rank of the plan, in the pipeline that is not mirrored."""
        stage, sizes = self.stage_of(plan_rank), self.micro_batch_sizes
        found = rank_plan_of(
            network=self,
            stage=stage,
            rank=plan_rank,
            replicas=self.replicas,
            replica=replica,
            micro_batch_sizes=sizes,
            needs=self.stage_needs[stage.index, sizes[0]],
            programs={images: self.programs(plan_rank, images) for images in set(sizes)},
            network_module=self.network_module,
        )
        if self.finer is None:
            return found
        patches = [patch for patch, owner in enumerate(self.owners) if owner == plan_rank]
        each = tuple(self.finer._rank_plan(patch, replica) for patch in patches)
        return replace(found, patches=Patches(each, self.owners))

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """For each rank of the finer plan, the rank of this plan that computes it as a patch.

        Examples
        --------
        >>> spnb.plan(job.replace(patches=2)).owners  # patches of four tiles, and a whole image
        (0, 0, 1, 1, 2, 2, 3, 3, 4)
        """
        found: list[int] = []
        for stage, finer in zip(self.stages, self.finer.stages if self.finer else (), strict=True):
            sizes = [
                n // k for n, k in zip(finer.team.tiling.grid, stage.team.tiling.grid, strict=True)
            ]
            for patch in range(finer.team.tiling.num_tiles):
                position = finer.team.tiling.coordinates(patch)
                found.append(
                    stage.team.rank_at([k // n for k, n in zip(position, sizes, strict=True)])
                )
        return tuple(found)

    def programs(self, rank: int, images: int) -> tuple[Program, ...]:
        """The programs that a rank runs for a micro-batch, in order.

        Parameters
        ----------
        rank
            Number of the rank among all ranks.
        images
            Number of images in the micro-batch: one of ``micro_batch_sizes``.

        Returns
        -------
        tuple of Program
            One; or, in a stage with patches, one for each patch, and one that sends.

        Examples
        --------
        >>> (program,) = plan.programs(3, images=2)
        >>> program.steps[0].kind
        'input'
        """
        stage = self.stage_of(rank)
        builder = RankProgramBuilder(
            graph=self.graph,
            stage=stage,
            rank=rank % self.replicas.ranks_each,
            images=images,
            needs=self.stage_needs[stage.index, images],
            patch_needs=self.patch_needs[images] if stage.num_patches > 1 else None,
            exchanges=self.exchanges[images],
            regions=self._regions,
            # Without fused halos the value is exchanged, and the extra positions would have to be
            # cut off again.
            widens=bool(self.fused) and self.compiled,
        )
        return builder.programs()
