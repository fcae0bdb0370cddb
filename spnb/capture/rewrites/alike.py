"""Finds constants that are the same for every image of a batch.

A network is captured with all images of a batch.  So a constant, such as coordinates that
``expand`` repeats for each image, has all images too.  If it is the same for all, a micro-batch
takes the first few.  Its values are not known yet, so this follows from the calls that compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...ir.node import Node, Ref, Weight, leaves
from ...rules.elementwise import ELEMENTWISE

FILLED = ("full", "zeros", "ones", "full_like", "zeros_like", "ones_like")
"""Operators that fill their result with one number."""

BROADCASTING = frozenset([*ELEMENTWISE.split(), "expand", "expand_as", "repeat"])
"""Operators that repeat operands along new dimensions."""

RESHAPED = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze")


def same_for_each_image(node: Node, alike: Collection[str]) -> bool:
    """Whether a constant is the same at each position of its first dimension.

    Parameters
    ----------
    node
        The call that computes it.
    alike
        Names of the earlier constants that are.
    """
    operands = [o for o in leaves(node.args) if isinstance(o, (Ref, Weight))]

    def same(leaf: object) -> bool:
        """Whether an operand is such a constant, or is broadcast along the first dimension."""
        if not isinstance(leaf, Weight):
            return False
        if broadcasts and (len(leaf.shape) < len(node.shape) or leaf.shape[0] == 1):
            return True
        return leaf.shape[:1] == (1,) == node.shape[:1] or leaf.name.removeprefix("=") in alike

    rule, broadcasts = _RULES.get(node.kind), node.kind in BROADCASTING
    if not node.shape or node.parts or not (broadcasts or (rule is not None and rule(node))):
        return False
    return node.kind in FILLED or all(map(same, operands))


def _keeps_first(node: Node) -> bool:
    """Whether a reshape does not change the first dimension."""
    operand = next(o for o in leaves(node.args) if isinstance(o, Weight))
    return bool(operand.shape) and operand.shape[0] == node.shape[0]


def _is_beside(node: Node) -> bool:
    """Whether tensors are joined along another dimension than the first."""
    return bool(node.args["dim"] % len(node.shape))


def _moves_others(node: Node) -> bool:
    """Whether a call permutes only dimensions after the first."""
    if node.kind == "permute":
        return node.args["dims"][0] % len(node.shape) == 0
    return all(node.args[name] % len(node.shape) for name in ("dim0", "dim1"))


_RULES: dict[str, Callable[[Node], bool]] = {
    **dict.fromkeys(FILLED, lambda node: True),
    "affine_grid_generator": lambda node: True,
    **dict.fromkeys(RESHAPED, _keeps_first),
    **dict.fromkeys(("cat", "stack", "slice", "select"), _is_beside),
    **dict.fromkeys(("permute", "transpose"), _moves_others),
}
"""By operator, whether the result of a call is the same for each image if its operands are."""
