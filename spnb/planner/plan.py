"""From a captured network and a split to every rank's program: plain data, nothing started.

A `Plan` holds the stages, each with a team of ranks in a grid, and the exchanges between them.
What one rank does is derived when asked for (`Plan.rank_plan`), so a plan for thousands of ranks
takes seconds and little memory, and a rank is sent its own share only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from ..errors import PlanError
from ..ir.exchange import HOST, Exchange, Team
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.program import Program
from ..ir.rank_plan import RankPlan
from ..ir.region import Region, Span, Tiling, in_patches
from ..ir.replicas import Replicas
from ..ir.schedule import micro_batches
from ..ir.tags import FORWARD, SUM
from ..rules import rule_of, whole_axes
from .fuse import joined
from .lower import lowered
from .needs import StageNeeds, extent_in, needed, trace_needs
from .parts import rank_plan_of
from .rank_programs import programs
from .stage import Stage, stages_of


class Plan:
    """Who computes what, and what moves between whom.

    Parameters
    ----------
    graph
        The captured network, at the whole batch's shape.
    tilings
        Grid of each stage over ``(batch, *spatial)``.
    blocks
        Number of blocks in each stage (see `spnb.planner.balance.stage_blocks`).
    parts
        Micro-batches, of each turn of each copy.
    fused
        Exchange once for this many consecutive blocks; 0 for one exchange before each window op.
    network_module
        The module that defines the network: ranks import it for its custom operators.
    patches
        Grid over the spatial axes that cuts each tile of the first stage into what its rank
        computes at one time; with halos fused over all blocks.
    schedule, recompute
        In training, to foresee memory: a key of `spnb.ir.schedule.SCHEDULES`, and whether values
        are computed anew on the way back.
    replicas, times, overlapped
        Copies of the plan that share the batch: see `spnb.ir.replicas.Replicas`.

    Raises
    ------
    PlanError
        If a micro-batch has fewer images than a stage has batch slices, if an operator of a stage
        in patches needs what other patches compute, or if messages have no tags for so many
        exchanges or weights.
    """

    def __init__(
        self,
        graph: Graph,
        tilings: Sequence[Tiling],
        blocks: Sequence[int],
        parts: int = 1,
        fused: int = 0,
        network_module: str | None = None,
        patches: Sequence[int] = (),
        schedule: str = "1f1b",
        recompute: bool = False,
        replicas: int = 1,
        times: int = 0,
        overlapped: bool = True,
    ):
        self.captured, self.schedule, self.recompute = graph, schedule, recompute
        patches = tuple(patches or (1,) * (len(tilings[0].grid) - 1))
        graph = lowered(graph, in_patches(tilings, patches), blocks)
        if not graph.training:
            graph = joined(graph, blocks)
        self.graph, self.fused, self.network_module = graph, fused, network_module
        batch, *extent = graph.extent(next(iter(graph.inputs)))
        self.extent = tuple(extent)
        self.stages = tuple(stages_of(graph, tilings, blocks, patches))
        ranks_each = self.stages[-1].team.ranks[-1] + 1
        self.replicas = Replicas(ranks_each, parts, replicas, times, overlapped)
        self.micro_batch_sizes = micro_batches(batch, self.replicas.num_micro_batches)
        for stage in self.stages:
            slices = stage.team.tiling.grid[0]
            smallest = min(self.micro_batch_sizes)
            if slices > smallest:
                raise PlanError(
                    f"stage {stage.index}: {slices} ranks share a batch (--local-DP), but a"
                    f" micro-batch has only {smallest} of the {batch} images: use fewer"
                    " parts or a larger batch"
                )
        self._spans_needed: dict[str, dict[tuple, Span]] = defaultdict(dict)
        self.host = Team((HOST,), Tiling.even((1,) * len((batch, *extent))))
        self.stage_needs: dict[tuple[int, int], StageNeeds] = {}
        self.patch_needs: dict[int, StageNeeds] = {}
        self.exchanges: dict[int, tuple[Exchange, ...]] = {}
        for images in sorted(set(self.micro_batch_sizes)):
            for stage in self.stages:
                self.stage_needs[stage.index, images] = self._lay_out(stage, images)
            self.exchanges[images] = tuple(self._exchanges(images))
        for exchange in (e for group in self.exchanges.values() for e in group):
            exchange.verify()
        if graph.training:
            SUM.require(sum(map(len, self.users.values())))

    @property
    def num_ranks(self) -> int:
        """Ranks of all copies."""
        return self.replicas.num_ranks

    # --- building ---------------------------------------------------------------------------

    @cached_property
    def producer(self) -> dict[str, int]:
        """Stage that computes each value; the host has the inputs."""
        made = {node.name: stage.index for stage in self.stages for node in stage.nodes}
        return dict.fromkeys(self.graph.inputs, HOST) | made

    @cached_property
    def _readers(self) -> dict[str, list[int]]:
        """Stages, or the host, that read each value, in order."""
        readers: dict[str, dict[int, None]] = defaultdict(dict)
        for stage in self.stages:
            for node in stage.nodes:
                for operand in node.operands:
                    readers[operand][stage.index] = None
        for value in self.graph.outputs:
            readers[value][HOST] = None
        return {value: list(stages) for value, stages in readers.items()}

    def _lay_out(self, stage: Stage, images: int) -> StageNeeds:
        names = {node.name for node in stage.nodes}
        exported = {v for v in names if any(r != stage.index for r in self._readers.get(v, ()))}
        groups = None
        if self.fused:
            first = stage.blocks[0]
            groups = {
                node.name: (number - first) // self.fused
                for number in range(*stage.blocks)
                for node in self.graph.nodes[
                    self.graph.blocks[number].start : self.graph.blocks[number].stop
                ]
            }
        layout = trace_needs(self.graph, stage.nodes, stage.cuts, images, exported, groups)
        if stage.num_patches > 1:
            self._require_alone(stage, layout)
            self.patch_needs[images] = layout
            layout = layout.merged(stage.patches)
        return layout

    def _require_alone(self, stage: Stage, layout: StageNeeds) -> None:
        """Refuse patches that need what other patches compute, of the same rank or of others."""
        whole = [reader for (index, _), reader in self.gathered.items() if index == stage.index]
        found = whole + [node for node in stage.nodes if node.name in layout.points]
        if found:
            extent = "×".join(map(str, found[0].operand_axes[0].extent[1:]))
            after, written = stage.nodes[stage.nodes.index(found[0]) :], self.captured.by_name
            label = next(written[node.name].label for node in after if node.name in written)
            raise PlanError(
                f"stage {stage.index}, {label}: it needs what all patches compute of"
                f" {extent} positions, but the {stage.num_patches} patches of a tile are computed"
                " one by one: leave out patches, or let the tiled stage end before this layer"
                " (split_size, balance)"
            )

    def _exchanges(self, images: int) -> list[Exchange]:
        found: list[Exchange] = []
        for value, readers in self._readers.items():
            made = self.producer[value]
            source = self.host if made == HOST else self.stages[made].team
            extent = extent_in(self.graph, value, images)
            for reader in readers:
                if made == HOST:
                    has = source.tiling.spans(extent)
                else:
                    has = self.stage_needs[made, images].own[value]
                target = self.host if reader == HOST else self.stages[reader].team
                if reader == HOST:
                    needs, kind = target.tiling.spans(extent), "output"
                else:
                    layout = self.stage_needs[reader, images]
                    if value not in layout.need:
                        continue  # read only by nodes whose result nobody needs
                    needs, kind = layout.need[value], "input" if made == HOST else "hand-over"
                    if made == reader:
                        if value not in layout.points:
                            continue
                        kind = self._kind_of_point(value, reader)
                size = self.graph.channels(value) * self.graph.itemsize(value)
                tag = FORWARD.tag(len(found))
                found.append(Exchange(tag, value, kind, source, target, has, needs, size))
        return found

    def _kind_of_point(self, value: str, stage: int) -> str:
        """What an exchange among the tiles of a stage is for."""
        if self.graph.by_name[value].op.startswith(("spnb.partial", "spnb.combined")):
            return "merge"
        return "gather" if (stage, value) in self.gathered else "halo"

    @cached_property
    def gathered(self) -> dict[tuple[int, str], Node]:
        """The calls that need a value whole in a stage that is cut, by stage and value."""
        return {
            (stage.index, value): node
            for stage in self.stages
            if stage.tiled
            for node in stage.nodes
            for index, value in enumerate(node.operands)
            if whole_axes(rule_of(node), index, stage.cuts)
        }

    @cached_property
    def users(self) -> dict[tuple[int, ...], list[str]]:
        """Weights by the stages that have them; none is missing, and each is there once."""
        users: dict[str, list[int]] = defaultdict(list)
        for stage in self.stages:
            for name in self.graph.made_of(stage.weights)[0]:
                users[name].append(stage.index)
        found: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, stages in users.items():
            found[tuple(stages)].append(name)
        return dict(sorted(found.items()))

    def entry_of(self, stage: Stage) -> str:
        """The first value that a stage reads and does not compute."""
        read = (value for node in stage.nodes for value in node.operands)
        outside = (value for value in read if self.producer[value] != stage.index)
        return next(outside, next(iter(self.graph.inputs)))

    # --- one rank ---------------------------------------------------------------------------

    def stage_of(self, rank: int) -> Stage:
        """The stage that a rank belongs to, in the pipeline that is not mirrored."""
        own = rank % self.replicas.ranks_each
        return next(stage for stage in self.stages if own in stage.team.ranks)

    def replica_of(self, rank: int) -> int:
        """Number of the replica that a rank belongs to."""
        return rank // self.replicas.ranks_each

    def stages_on(self, rank: int) -> tuple[int, ...]:
        """The stages that a rank has the weights of: one, or also that of its mirror image."""
        return tuple(sorted({self.stage_of(image).index for image in self.plan_ranks_of(rank)}))

    def plan_ranks_of(self, rank: int) -> tuple[int, ...]:
        """What a rank is: a rank of the plan, and its mirror image where there is one."""
        own, last = rank % self.replicas.ranks_each, self.replicas.ranks_each - 1
        return (own, last - own) if self.replicas.times else (own,)

    def maker_of(self, value: str) -> Stage:
        """The stage that computes a value."""
        return self.stages[self.producer[value]]

    def tile_of(self, rank: int) -> int:
        """Number of a rank's tile in its stage."""
        return self.stage_of(rank).team.ranks.index(rank % self.replicas.ranks_each)

    def rank_plan(self, rank: int) -> RankPlan:
        """All that a rank needs to know, as plain picklable data."""
        replica = self.replica_of(rank)
        rank_plan, *mirror = (
            rank_plan_of(self, image, replica) for image in self.plan_ranks_of(rank)
        )
        return replace(rank_plan, mirror=mirror[0]) if mirror else rank_plan

    def programs(self, rank: int, images: int) -> tuple[Program, ...]:
        """What a rank runs for a micro-batch of this many images, one program after the other."""
        return programs(self, rank % self.replicas.ranks_each, images)

    def needs(self, node: Node, region: Region) -> tuple[Region, ...]:
        """What a region of a call reads of its operands; ranks of a row or column share spans."""
        rule, known = rule_of(node), self._spans_needed[node.name]
        found = []
        for index in range(len(node.operands)):
            spans = []
            for key in ((index, axis, span) for axis, span in enumerate(region.spans)):
                if key not in known:
                    known[key] = needed(rule, *key)
                spans.append(known[key])
            found.append(Region(tuple(spans)))
        return tuple(found)

    def tile_region(self, rank: int) -> Region:
        """The region of its stage's first input that a rank owns."""
        stage = self.stage_of(rank)
        extent = self.graph.extent(self.entry_of(stage))
        return stage.team.tiling.region(extent, self.tile_of(rank))
