"""Operator calls that cannot run in a stage, since they need a whole extent or a whole batch."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.option_words import option
from ..ir.region import shape_text
from ..ir.tiling import Tiling
from ..rules import gathered_axes, has_rule, rule_of
from ..rules.merged.reductions import Reduction


@dataclass(frozen=True)
class Obstacle:
    """Why a node cannot run in a stage, and the way out."""

    node: Node
    reason: str
    advice: str


def obstacle(
    graph: Graph, node: Node, tiling: Tiling, cut_batch: bool, allow_gather: bool = False
) -> Obstacle | None:
    """Return why a node cannot run in a stage with this grid; ``None`` if it can.

    Parameters
    ----------
    graph, node
        The network, and one of its calls.
    tiling
        Grid of the stage over ``(batch, *spatial)``.
    cut_batch
        Whether batches are cut into micro-batches or slices.
    allow_gather
        Whether a tile may gather a whole value that an operator reads.
    """
    found = None
    if tiling.spatial and not allow_gather:
        found = _obstacle_in_space(node, tiling)
    if found is None and cut_batch:
        found = _obstacle_in_batch(graph, node, tiling)
    return found


def _obstacle_in_space(node: Node, tiling: Tiling) -> Obstacle | None:
    """The obstacle if a node needs the whole extent of an operand, and tiles have parts of it."""
    for call in rule_of(node).lower(tiling):
        rule = rule_of(call)
        whole = [k for k in range(len(call.operands)) if gathered_axes(rule, k, tiling)]
        if not whole:
            continue
        if rule.known:
            extent = shape_text(call.operand_axes[whole[0]].extent[1:])
            reason = f"{node.kind}, used like this, needs the whole extent {extent} of its input"
            own_rule = ""
        else:
            use = ", used like this" if has_rule(node.op) else ""
            reason = f"there is no tiling rule for the operator {_operator(node)}{use}"
            own_rule = ", give the operator a rule (spnb.rule)"
        return Obstacle(
            node,
            f"{reason}, but the stage is cut into {shape_text(tiling.grid[1:])} tiles",
            f"gather it on every tile ({option('allow_gather', True)}){own_rule}"
            ", or let the tiled stages end before this layer",
        )
    return None


def _obstacle_in_batch(graph: Graph, node: Node, tiling: Tiling) -> Obstacle | None:
    """The obstacle if a node may mix the images of a batch."""
    rule = rule_of(node)
    if rule.keeps_images_apart and _of_images(graph, node):
        return None
    if graph.training and rule.by_micro_batch:
        return None
    # A loss is that of a micro-batch, as in plain PyTorch.
    if node.name in graph.loss_calls and (isinstance(rule, Reduction) or tiling.grid[0] == 1):
        return None
    return Obstacle(
        node,
        f"it is not known that {node.kind}, used like this, treats the {graph.batch} images of"
        " a batch independently",
        f"use {option('parts', 1)} and {option('local_DP', 1)}, or give the operator a rule",
    )


def _of_images(graph: Graph, node: Node) -> bool:
    """Whether the result consists of whole images; a view may divide a batch into clips."""
    images = [axes.extent[0] for axes in (node.axes, *node.operand_axes)]
    return images[0] % graph.batch == 0 or all(n % graph.batch for n in images)


def _operator(node: Node) -> str:
    namespace, kind, _ = node.op.split(".")
    return kind if namespace == "aten" else f"{namespace}.{kind}"
