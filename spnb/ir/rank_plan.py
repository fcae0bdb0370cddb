"""All that one rank needs to know of a plan, as plain picklable data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from .axes import Axes
from .exchange import Spans, Team
from .link import SlowLink
from .node import Node
from .program import Program, Receive, Segments
from .region import Region
from .replicas import Replicas


@dataclass(frozen=True)
class Shared:
    """Weights that a group of ranks has in common.

    Attributes
    ----------
    number
        Number of the first of these weights among all weights of the plan; the others follow it.
    ranks
        Ranks of the world that have them, in all copies of the plan.
    names
        Names of the weights.
    """

    number: int
    ranks: Sequence[int]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Patches:
    """The patches that a rank computes in turns; each is a rank of a finer plan.

    Attributes
    ----------
    rank_plans
        The share of each patch in the finer plan.
    owners
        For each rank of the finer plan, the rank that computes it.
    """

    rank_plans: tuple[RankPlan, ...]
    owners: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class RankPlan:
    """One rank's share of a plan: everything that it needs to know, and nothing of other ranks.

    Attributes
    ----------
    rank, num_ranks
        Number of this rank in the plan, and the number of ranks in all copies of the plan.
    stage, tile
        Number of its stage, and of its tile there.
    team
        The stage's ranks in their grid.
    extent, region
        Extent of the stage's first input, and the region of it that this rank owns.
    entry_needs
        Spans of the network's input that the stage's tiles need; ``None`` if they do not read it.
    nodes
        Operator calls of its stage.
    weights
        Names of the parameters and buffers that these calls read.
    paths
        For each value that the calls compute or read, the path of the module it came from.
    micro_batch_sizes
        Images in each micro-batch.
    programs
        For each size in ``micro_batch_sizes`` the programs to run, in order.
    imports
        Modules that define the custom operators among the nodes.
    ruled
        Custom operators that the plan has rules for.
    dtype
        Floating type of the network's values.
    num_stages
        Number of stages of the plan.
    outputs
        Shape of each whole output of the network; the mean of a loss divides by its size.
    targets
        Inputs that are targets of a loss in the plan, in order.
    constants
        Calls that compute weights from other weights.
    shared
        Groups of weights that this rank has in common with others.
    turns
        For each call of a batch norm, ``(k, n)``: it is call k, from 0, of n calls.
    training
        Whether the plan is for training.
    threads
        Number of threads that it computes with; by default its share of its host's cores.
    replicas, replica
        The copies of the plan, and the number of the replica that this rank is in.
    mirror
        The rank's share of the mirrored pipeline, if there is one.
    segments
        In training, for each size in ``micro_batch_sizes``: the parts of its program whose values
        are computed again in the backward pass.
    patches
        The patches that it computes in turns, if they exchange halos and figures.
    device
        Kind of device that it computes on: see `spnb.kernels.devices`.
    slow_link
        What is added to each of its messages, if anything is.
    """

    rank: int
    num_ranks: int
    stage: int
    tile: int
    team: Team
    extent: tuple[int, ...]
    region: Region
    entry_needs: Spans | None
    nodes: tuple[Node, ...]
    weights: tuple[str, ...]
    paths: Mapping[str, str]
    micro_batch_sizes: tuple[int, ...]
    programs: Mapping[int, tuple[Program, ...]]
    imports: tuple[str, ...]
    ruled: tuple[str, ...]
    dtype: torch.dtype
    floating_types: frozenset[torch.dtype]
    default_dtype: torch.dtype
    num_stages: int
    outputs: Mapping[str, tuple[int, ...]]
    targets: tuple[str, ...]
    constants: tuple[Node, ...]
    shared: tuple[Shared, ...]
    turns: Mapping[str, tuple[int, int]]
    replicas: Replicas
    replica: int = 0
    training: bool = False
    threads: int | None = None
    mirror: RankPlan | None = None
    segments: Mapping[int, Segments] = field(default_factory=dict)
    patches: Patches | None = None
    device: str = "cpu"
    slow_link: SlowLink | None = None

    def __repr__(self) -> str:
        steps = sum(len(program.steps) for each in self.programs.values() for program in each)
        return (
            f"RankPlan of rank {self.rank} of {self.num_ranks}: stage {self.stage},"
            f" tile {self.tile}, {self.region} of {self.extent}, {len(self.nodes)} operators,"
            f" {steps} steps"
        )

    @property
    def computed(self) -> RankPlan:
        """The share whose calls it computes: its own, or that of its first patch."""
        return self if self.patches is None else self.patches.rank_plans[0]

    @property
    def with_mirror(self) -> tuple[RankPlan, ...]:
        """The rank's share in each of its pipelines: this one, and its mirror if there is one."""
        return (self,) if self.mirror is None else (self, self.mirror)

    @property
    def world_rank(self) -> int:
        """Number of this rank among those of all copies."""
        return self.replicas.of(self.replica)[0].ranks[self.rank]

    def received(self, kind: str) -> list[Receive]:
        """Every step that receives in an exchange of a kind."""
        groups = (group for each in self.with_mirror for group in each.programs.values())
        steps = (step for group in groups for program in group for step in program.steps)
        return [step for step in steps if isinstance(step, Receive) and step.kind == kind]

    def first_image(self, number: int) -> int:
        """Index in the batch of the first image of a micro-batch."""
        return sum(self.micro_batch_sizes[:number])

    def in_batch(self, region: Region, axes: Axes, first_image: int) -> Region:
        """A region of a micro-batch's value as a region of the whole batch's value.

        Parameters
        ----------
        region
            The region of the micro-batch's value.
        axes
            Axes of the value.
        first_image
            Number in the batch of the micro-batch's first image.
        """
        images, batch = axes.extent[0], sum(self.micro_batch_sizes)
        return region.moved(0 if images % batch else first_image * (images // batch))

    def grown(self, halo: int | Sequence[int]) -> Spans:
        """Spans of the stage's tiles with a halo around each, clipped to the image.

        Parameters
        ----------
        halo
            Positions on both sides: one number for all spatial axes, or one for each.
        """
        axes = len(self.extent) - 1
        widths = (0, *((halo,) * axes if isinstance(halo, int) else halo))
        return tuple(
            tuple((max(0, a - w), min(n, b + w)) for a, b in spans)
            for spans, w, n in zip(
                self.team.tiling.spans(self.extent), widths, self.extent, strict=True
            )
        )

    @property
    def at_once(self) -> int:
        """Number of ranks that may compute at the same time, this one included.

        With a single micro-batch, one stage computes after another.
        """
        if self.replicas.micro_batches == 1 and not self.replicas.times:
            return len(self.team.ranks) * self.replicas.count
        return self.num_ranks

    @property
    def position(self) -> tuple[int, ...]:
        """Coordinates of the tile in its grid over ``(batch, *spatial)``."""
        return self.team.position(self.rank)
