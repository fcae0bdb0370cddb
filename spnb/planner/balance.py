"""Cuts a network into stages between blocks: where that is possible, and where it is even."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PlanError
from ..ir.cost import CORE
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.region import Tiling
from ..rules import has_rule, rule_of, whole_axes


@dataclass(frozen=True)
class Obstacle:
    """Why a node cannot run in a stage, and the way out."""

    node: Node
    reason: str
    advice: str


def obstacle(
    graph: Graph, node: Node, tiling: Tiling, cut_batch: bool, allow_gather: bool = False
) -> Obstacle | None:
    """What keeps a node out of a stage with this grid; ``None`` where nothing does."""
    grid = shape_text(tiling.grid[1:])
    for call in rule_of(node).lower(tiling) if _spatial(tiling) else ():
        rule = rule_of(call)
        found = [k for k in range(len(call.operands)) if whole_axes(rule, k, tiling)]
        if not found or allow_gather:
            continue
        extent = shape_text(call.operand_axes[found[0]].extent[1:])
        reason = (
            f"{node.kind}, used like this, needs the whole extent {extent} of its input"
            if rule.known
            else f"there is no tiling rule for the operator {_operator(node)}"
            + ", used like this" * has_rule(node.op)
        )
        return Obstacle(
            node,
            f"{reason}, but the stage is cut into {grid} tiles",
            "gather it on every tile (allow_gather=True, --allow-gather)"
            + (", give the operator a rule (spnb.rule)" if not rule.known else "")
            + ", or let the tiled stages end before this layer",
        )
    rule = rule_of(node)
    each = graph.training and rule.by_micro_batch
    if cut_batch and not ((rule.keeps_images_apart and _of_images(graph, node)) or each):
        return Obstacle(
            node,
            f"it is not known that {node.kind}, used like this, treats the {graph.batch} images of"
            " a batch independently",
            "use parts=1 and local_DP=1 (--parts, --local-DP), or give the operator a rule",
        )
    return None


def _of_images(graph: Graph, node: Node) -> bool:
    """Whether the result is of single images: a view may take a batch apart into a few clips."""
    images = [axes.extent[0] for axes in (node.axes, *node.operand_axes)]
    return not images[0] % graph.batch or all(n % graph.batch for n in images)


def _operator(node: Node) -> str:
    namespace, kind, _ = node.op.split(".")
    return kind if namespace == "aten" else f"{namespace}.{kind}"


def stage_blocks(
    graph: Graph,
    tilings: Sequence[Tiling],
    cut_batch: bool,
    given: Sequence[int] | None,
    allow_gather: bool = False,
    patches: int = 1,
) -> list[int]:
    """Number of blocks in each stage.

    Parameters
    ----------
    tilings
        Grid of each stage: of tiles, or of their patches.
    cut_batch
        Whether batches are cut into micro-batches or slices.
    given
        The user's own numbers; ``None`` for an even balance: the contiguous split with the
        smallest largest cost per rank, among those that can run.
    allow_gather
        Whether a tile may gather the whole of a value that an operator looks at whole.
    patches
        How many parts of the first stage's grid one rank computes.

    Raises
    ------
    PlanError
        If the numbers do not fit the network, or a layer cannot run in its stage.
    """
    stages, blocks = len(tilings), len(graph.blocks)
    if not blocks:
        raise PlanError("the network has no operator that reads its input: there is nothing to run")
    if stages > blocks:
        raise PlanError(
            f"{stages} stages, but the network has {blocks} blocks to cut between:"
            f" use --split-size {blocks} or less"
        )
    if given is not None:
        if len(given) != stages or sum(given) != blocks or min(given) < 1:
            raise PlanError(
                f"the balance {','.join(map(str, given))} has {len(given)} entries with the sum"
                f" {sum(given)}, but there are {stages} stages and {blocks} blocks: give {stages}"
                f" positive numbers that add up to {blocks}"
            )
        for stage, (start, count) in enumerate(zip(_starts(given), given, strict=True)):
            for block in range(start, start + count):
                if found := _block_obstacle(graph, block, tilings[stage], cut_batch, allow_gather):
                    raise _refusal(graph, stage, block, tilings, found)
        return list(given)
    return _even(graph, tilings, cut_batch, allow_gather, patches)


def _even(
    graph: Graph, tilings: Sequence[Tiling], cut_batch: bool, allow_gather: bool, patches: int
) -> list[int]:
    stages, blocks = len(tilings), len(graph.blocks)
    costs = [_shares(graph, tiling) for tiling in tilings]
    costs[0] = [cost * patches for cost in costs[0]]
    first_obstacle = [
        next(
            (
                (block, found)
                for block in range(blocks)
                if (found := _block_obstacle(graph, block, tiling, cut_batch, allow_gather))
            ),
            None,
        )
        for tiling in tilings
    ]
    # best[b]: (largest cost per rank, cuts) of the stages so far over the first b blocks
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for stage, tiling in enumerate(tilings):
        found = first_obstacle[stage]
        limit = found[0] if found and _spatial(tiling) else blocks
        if found and not _spatial(tiling):
            raise _refusal(graph, stage, found[0], tilings, found[1])
        grown: dict[int, tuple[float, list[int]]] = {}
        for start, (worst, cuts) in best.items():
            for stop in range(start + 1, min(limit, blocks - (stages - stage - 1)) + 1):
                share = costs[stage][stop] - costs[stage][start]
                candidate = (max(worst, share), [*cuts, stop - start])
                if stop not in grown or candidate < grown[stop]:
                    grown[stop] = candidate
        if not grown:
            raise _refusal(graph, stage, found[0], tilings, found[1]) if found else AssertionError
        best = grown
    if blocks not in best:
        stage = stages - 1
        raise _refusal(graph, stage, first_obstacle[stage][0], tilings, first_obstacle[stage][1])
    return best[blocks][1]


def _shares(graph: Graph, tiling: Tiling) -> list[float]:
    """Running sum, over the blocks, of the cost for the rank with the most to do."""
    sums = [0.0]
    for block in graph.blocks:
        parts = (
            CORE.seconds(node) / max(1, math.prod(map(min, tiling.grid, node.axes.extent)))
            for node in graph.nodes[block.start : block.stop]
        )
        sums.append(sums[-1] + sum(parts))
    return sums


def shape_text(shape: Sequence[int]) -> str:
    """A shape as messages write it.

    >>> shape_text((97, 131))
    '97×131'
    """
    return "×".join(map(str, shape)) or "1"


def _spatial(tiling: Tiling) -> bool:
    return math.prod(tiling.grid[1:]) > 1


def _starts(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:k]) for k in range(len(counts))]


def _block_obstacle(
    graph: Graph, block: int, tiling: Tiling, cut_batch: bool, allow_gather: bool
) -> Obstacle | None:
    nodes = graph.nodes[graph.blocks[block].start : graph.blocks[block].stop]
    found = (obstacle(graph, node, tiling, cut_batch, allow_gather) for node in nodes)
    return next(filter(None, found), None)


def _refusal(
    graph: Graph, stage: int, block: int, tilings: Sequence[Tiling], found: Obstacle
) -> PlanError:
    advice, tiled = found.advice, sum(map(_spatial, tilings))
    blocks = len(graph.blocks)
    if "before this layer" in advice:
        if tiled == len(tilings) and block >= tiled:
            advice += f": add an untiled stage (split_size={tiled + 1}, --split-size {tiled + 1})"
        elif block >= tiled and tiled == 1 and len(tilings) == 2:
            advice += (
                f": at most {block} of the {blocks} blocks can be tiled: balance"
                f" {block},{blocks - block}"
            )
        elif block >= tiled:
            advice += f": at most {block} of the {blocks} blocks can be tiled: see balance"
        elif block == 0:
            advice += (
                f": it is in the first of {blocks} blocks, so no tiled stage fits; a network of"
                " finer modules, or spatial_size=0 (--spatial-size 0), would do"
            )
        else:
            advice += f": it is in block {block + 1}, too early for {tiled} tiled stages"
    return PlanError(f"stage {stage}, {found.node.label}: {found.reason}: {advice}")
