"""Finds where the axes of the image lie in the result of each call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import CaptureError
from ...ir.axes import Axes
from ...ir.node import Node
from ...rules import rule_of


def with_axes(node: Node, axes: Mapping[str, Axes], rank: int) -> Node:
    """Return a call with the axes of its operands, and with its result's axes from its rule.

    Parameters
    ----------
    node
        The call.
    axes
        Where the axes of the image lie in each value that it reads.
    rank
        Number of axes of the image.

    Raises
    ------
    CaptureError
        If the rule of the call fails, or gives axes of another shape.
    """
    node = replace(
        node,
        axes=Axes.uncut(node.shape, rank),
        operand_axes=tuple(axes[value] for value in node.operands),
    )
    try:
        found = rule_of(node).axes
    except Exception as error:
        raise CaptureError(
            f"{node.label}: its rule fails ({type(error).__name__}: {error}): mend the rule"
        ) from error
    if found.shape != node.shape:
        raise CaptureError(
            f"{node.label} gives {node.shape}, but its rule says {found.shape}: mend the rule"
        )
    return replace(node, axes=found)
