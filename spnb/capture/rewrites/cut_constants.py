"""Lets each tile compute its own part of constants that are as large as the image.

Windows that are shifted need a mask, which a network computes from a constant image, or holds as a
buffer.  The call that reads it says how it must be cut.  From there the axes of the image are
followed back through the calls that compute the constant.  Then they are derived forward again, as
for all other calls; only if both ways agree, the constant is cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ...ir.axes import Axes, axes_in, dim, size_of
from ...ir.node import Node, Ref, Weight, leaves, map_leaves
from ...rules import rule_of
from ...rules.cut_constants import CONSTANT
from ...rules.elementwise import ELEMENTWISE
from ...rules.views import PERMUTES, VIEWS, order_of, reshaped
from .placement import with_axes

LEAST = 1 << 14
"""Smaller constants, such as the biases of one window, are held whole by every rank."""

ALIGNED = frozenset([*ELEMENTWISE.split(), "expand"])
"""Operators that broadcast their operands against each other."""


@dataclass(frozen=True)
class Constants:
    """The constants of a network, and what they may be made of.

    Attributes
    ----------
    calls
        The calls that compute them, in order.
    known
        The types of buffers and literals that no step of training changes, by name.
    rank
        Number of axes of the image.
    """

    calls: Sequence[Node]
    known: Mapping[str, torch.dtype]
    rank: int

    def cut_in(self, nodes: Sequence[Node], inputs: Mapping[str, Axes]) -> list[Node]:
        """Return the calls of the network, with calls that compute its cut constants.

        Parameters
        ----------
        nodes
            The calls that depend on an input of the network, with their axes.
        inputs
            Axes of each input of the network.
        """
        axes = {**inputs, **{node.name: node.axes for node in nodes}}
        found = []
        for node in nodes:
            for number, weight in enumerate(dict.fromkeys(node.weights)):
                wanted = _wanted(node, weight)
                made = wanted and self._made(weight, wanted, node, f"{node.name}.made{number}")
                if made and (reading := _reading(node, weight, made, axes)):
                    axes[made.name] = made.axes
                    found.append(made)
                    node = reading
            found.append(node)
        return found

    def _made(self, weight: Weight, wanted: Axes, reader: Node, name: str) -> Node | None:
        """The call that computes a constant in parts; None if its calls cannot be cut so."""
        args = {"calls": (), "value": weight, "axes": wanted, "reads": [weight]}
        dtype = self.known.get(weight.name)
        if weight.name in self._by_name:
            calls = self._placed(weight.name, wanted)
            if calls is None:
                return None
            reads = [w for call in calls for w in call.weights]
            dtype = calls[-1].dtype
            args |= {"calls": tuple(calls), "value": calls[-1].name, "reads": reads}
        if dtype is None:
            return None
        return Node(name, CONSTANT, args, wanted, dtype, (), reader.path)

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {f"={call.name}": call for call in self.calls}

    def _placed(self, name: str, wanted: Axes) -> list[Node] | None:
        """The calls that compute a constant, with axes; None if they do not lead to the wanted."""
        back = self._followed_back(name, wanted)
        axes: dict[str, Axes] = {}
        placed = []
        for call in (call for call in self.calls if f"={call.name}" in back):
            args = {k: map_leaves(self._as_value, arg) for k, arg in call.args.items()}
            call = replace(call, args=args, axes=back[f"={call.name}"], operand_axes=())
            if any(weight.name not in self.known for weight in call.weights):
                return None
            if call.operands:
                call = with_axes(call, axes, self.rank)
                if _needs_whole(call):
                    return None
            axes[call.name] = call.axes
            placed.append(call)
        return placed if axes[name[1:]] == wanted else None

    def _as_value(self, leaf: object) -> object:
        """A constant that is computed with others, as the value of its call."""
        cut = isinstance(leaf, Weight) and leaf.name in self._by_name
        return Ref(leaf.name[1:]) if cut and isinstance(leaf, Weight) else leaf

    def _followed_back(self, name: str, wanted: Axes) -> dict[str, Axes]:
        """The axes of a constant and of those that it is made of, as far as they are known."""
        axes = {name: wanted}
        for call in reversed(self.calls):
            if (own := axes.get(f"={call.name}")) is None:
                continue
            for leaf in leaves(tuple(call.args.values())):
                if not isinstance(leaf, Weight) or leaf.name not in self._by_name:
                    continue
                before = _before(call, own, leaf.shape) or Axes.uncut(leaf.shape, self.rank)
                known = axes.get(leaf.name)
                if known is None or len(before.present) > len(known.present):
                    axes[leaf.name] = before
        return axes


def _wanted(node: Node, weight: Weight) -> Axes | None:
    """How a call cuts a weight; None if the weight is small, or is not cut in space."""
    if math.prod(weight.shape) < LEAST:
        return None
    result = rule_of(node).against(weight)
    if result is None or len(result.dims) < len(weight.shape):
        return None
    there = result.dims[len(result.dims) - len(weight.shape) :]
    pairs = zip(weight.shape, there, strict=True)
    dims = [d if axes_in(d) and size_of(d) == n else dim(n) for n, d in pairs]
    found = result.with_dims(dims)
    return None if not found.present or 0 in found.present else found


def _reading(node: Node, weight: Weight, made: Node, axes: Mapping[str, Axes]) -> Node | None:
    """A call that reads a cut constant in place of a weight; None if it would need all of it."""

    def value(leaf: object) -> object:
        return Ref(made.name) if leaf == weight else leaf

    args = {name: map_leaves(value, arg) for name, arg in node.args.items()}
    found = with_axes(replace(node, args=args), {**axes, made.name: made.axes}, made.axes.rank)
    whole = any(
        rule_of(found).gathers(number, axis)
        for number, operand in enumerate(found.operands)
        if operand == made.name
        for axis in made.axes.present
    )
    return found if found.axes == node.axes and not whole else None


def _needs_whole(call: Node) -> bool:
    """Whether a call needs all of an operand along an axis of the image."""
    rule = rule_of(call)
    needs = (
        rule.gathers(number, axis)
        for number, operand in enumerate(call.operand_axes)
        for axis in operand.present
    )
    return not rule.known or any(needs)


def _before(call: Node, axes: Axes, shape: Sequence[int]) -> Axes | None:
    """The axes of an operand of this shape, from those of the result; None if not known."""
    if call.kind in VIEWS:
        return reshaped(axes, shape)
    if call.kind in PERMUTES:
        order = order_of(replace(call, args={**call.args, "self": Ref("")}))
        return axes.with_dims([axes.dims[order.index(k)] for k in range(len(shape))])
    if call.kind in ALIGNED and len(shape) <= len(axes.dims):
        pairs = zip(shape, axes.dims[len(axes.dims) - len(shape) :], strict=True)
        return axes.with_dims([d if size_of(d) == n else dim(n) for n, d in pairs])
    if call.kind in ("slice", "slice_scatter", "cat", "constant_pad_nd", "pad"):
        return _resized(axes, shape)
    return None


def _resized(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Axes with other sizes of dimensions that hold at most one axis each."""
    for number, size in enumerate(shape):
        if size == axes.shape[number]:
            continue
        if len(axes.dims[number]) > 1:
            return None
        axes = axes.resized(number, size)
    return axes
