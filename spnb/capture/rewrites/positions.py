"""Rewrites calls that read or give positions of the image, so that tiles can compute them.

Positions that the network's code says, such as ``x[:, :, [0, 2]]``, become part of the call.  The
place of a largest number is the smallest number of a position that has it, and so on: by operators
that have a rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...ir.axes import Axes, axes_in
from ...ir.module_state import hash_of
from ...ir.node import GETITEM, Node, Ref, Weight, map_leaves, overload
from ...rules.calls import invoke
from ...rules.spatial import per_dim
from .along_space import gate, pool_of_tokens, windows_of_tokens
from .histograms import counts
from .samples import MOST_COORDINATES, samples

MOST_NUMBERS = 1 << 16
"""The most positions that a call may name."""


@dataclass(frozen=True)
class KnownCalls:
    """What is known of a network while its calls are read.

    Attributes
    ----------
    nodes
        The calls that depend on an input so far, by name.
    constants
        The calls that depend on none so far, by name.
    literals
        Tensors that the network makes from numbers in its code, by name.
    axes
        Where the axes of the image lie in each value.
    dtype
        Type of the inputs.
    buffers
        The buffers of the network that have values, by name.
    fixed
        The buffers on whose values the calls depend that replaced others; see
        `spnb.ir.graph.Graph`.
    """

    nodes: Mapping[str, Node]
    constants: Mapping[str, Node]
    literals: MutableMapping[str, torch.Tensor]
    axes: Mapping[str, Axes]
    dtype: torch.dtype
    buffers: Mapping[str, torch.Tensor]
    fixed: MutableMapping[str, int]

    def rewritten(self, node: Node) -> list[Node]:
        """The calls that replace a call; the last has its name."""
        rewrite = _REWRITES.get(node.kind)
        found = list(rewrite(self, node)) if rewrite else [node]
        if found[-1] is not node:
            self.fixed.update({name: hash_of([self.buffers[name]]) for name in self._under(node)})
        return found

    def _under(self, node: Node) -> Iterator[str]:
        """The buffers that the constants among a call's arguments are computed from."""
        for weight in node.weights:
            if weight.name in self.buffers:
                yield weight.name
            elif (made := self.constants.get(weight.name.removeprefix("="))) is not None:
                yield from self._under(made)

    def value_of(self, leaf: object, most: int = MOST_NUMBERS) -> torch.Tensor | None:
        """The value of a constant of so many numbers that depends on no parameter, or None."""
        found = self._known(leaf, most)
        return found if isinstance(found, torch.Tensor) else None

    def _known(self, leaf: object, most: int) -> Any:
        """A value as of `value_of`, or several in a tuple."""
        if not isinstance(leaf, Weight):
            return None
        if leaf.name in self.literals:
            return self.literals[leaf.name]
        if leaf.name in self.buffers and math.prod(leaf.shape) <= most:
            return self.buffers[leaf.name]
        node = self.constants.get(leaf.name.removeprefix("="))
        if node is None or sum(map(math.prod, node.parts or [node.shape])) > most:
            return None
        if node.op != GETITEM and torch.Tag.nondeterministic_seeded in overload(node.op).tags:
            return None
        values = {weight.name: self._known(weight, most) for weight in node.weights}
        if any(value is None for value in values.values()):
            return None

        def filled(arg: Any) -> Any:
            return values[arg.name] if isinstance(arg, Weight) else arg

        return invoke(node.op, {name: map_leaves(filled, arg) for name, arg in node.args.items()})

    def holds_space(self, value: object, dims: Sequence[int]) -> bool:
        """Whether some dimension of a value holds an axis of space, and none holds the batch."""
        if not isinstance(value, Ref):
            return False
        found = [axis for d in dims for axis in axes_in(self.axes[value.value].dims[d])]
        return bool(found) and 0 not in found


def _rows(known: KnownCalls, node: Node) -> Iterator[Node]:
    """Positions that constants name, one axis after another."""
    axes = known.axes.get(getattr(node.args["self"], "value", ""))
    given = _named_numbers(known, node, axes) if axes else {}
    if axes is None or not given:
        yield node
        return
    shape, value = list(axes.shape), node.args["self"]
    for k, (number, numbers) in enumerate(given.items()):
        shape[number] = len(numbers)
        name = node.name if k == len(given) - 1 else f"{node.name}.{k}"
        args = {"self": value, "dim": number, "numbers": numbers}
        taken = replace(node, name=name, op="spnb.rows.default", args=args)
        yield replace(taken, axes=Axes.uncut(shape, axes.rank))
        value = Ref(name)


def _named_numbers(known: KnownCalls, node: Node, axes: Axes) -> dict[int, tuple[int, ...]]:
    """By dimension, the positions that constants name; empty if tiles cannot take them by rows."""
    if node.kind == "index_select":
        indices = {node.args["dim"] % len(axes.dims): node.args["index"]}
    else:
        indices = {k: index for k, index in enumerate(node.args["indices"]) if index is not None}
    found: dict[int, tuple[int, ...]] = {}
    for k, (number, index) in enumerate(indices.items()):
        plain = known.holds_space(node.args["self"], [number]) and len(axes.dims[number]) == 1
        value = known.value_of(index) if plain else None
        if value is None or value.is_floating_point() or value.dtype == torch.bool:
            return {}
        grid = (1,) * (len(indices) - value.ndim) + tuple(value.shape)
        if len(grid) != len(indices) or grid != _only(len(indices), k, value.numel()):
            return {}
        size = axes.shape[number]
        numbers = tuple(n + size if n < 0 else n for n in value.flatten().tolist())
        if not numbers:
            return {}
        found[number] = numbers
    beside = [b - a for a, b in itertools.pairwise(found)]
    return found if all(step == 1 for step in beside) else {}


def _only(rank: int, number: int, size: int) -> tuple[int, ...]:
    """A shape with all positions in one dimension."""
    return tuple(size if k == number else 1 for k in range(rank))


def _written_rows(known: KnownCalls, node: Node) -> Iterator[Node]:
    """A number written to positions that a constant names, as a choice at each position."""
    given = [k for k, index in enumerate(node.args["indices"]) if index is not None]
    number, axes = node.args["values"], known.axes.get(getattr(node.args["self"], "value", ""))
    single = isinstance(number, Weight) and math.prod(number.shape) == 1
    value = known.value_of(node.args["indices"][given[0]]) if len(given) == 1 else None
    if axes is None or value is None or not single or node.args["accumulate"] or value.ndim != 1:
        yield node
        return
    mask = torch.zeros(axes.shape[given[0]], dtype=torch.bool)
    mask[value] = True
    name = f"={node.name}.rows"
    known.literals[name] = mask.reshape([-1 if k == given[0] else 1 for k in range(len(axes.dims))])
    chosen = Weight(name, tuple(known.literals[name].shape))
    args = {"condition": chosen, "self": number, "other": node.args["self"]}
    yield replace(node, op="aten.where.self", args=args)


def _diagonal(known: KnownCalls, node: Node) -> Iterator[Node]:
    """A diagonal, as the sum over columns of a matrix with zeros everywhere else."""
    axes = known.axes[node.operands[0]]
    rank = len(axes.dims)
    rows, columns = (node.args[name] % rank for name in ("dim1", "dim2"))
    plain = all(len(axes.dims[number]) <= 1 for number in (rows, columns))
    space = known.holds_space(node.args["self"], [rows, columns])
    if not (plain and space) or node.dtype == torch.bool:
        yield node
        return
    offset, count = node.args["offset"], node.shape[-1]
    args = {"self": node.args["self"], "dim1": rows, "dim2": columns, "diagonal": offset}
    names = [f"{node.name}.{k}" for k in range(3)]
    masked = replace(node, name=names[0], op="spnb.on_diagonal.default", args=args)
    yield replace(masked, axes=Axes.uncut(axes.shape, axes.rank))
    left = [n for k, n in enumerate(axes.shape) if k != columns]
    args = {"self": Ref(names[0]), "dim": [columns], "keepdim": False, "dtype": None}
    summed = replace(node, name=names[1], op="aten.sum.dim_IntList", args=args)
    yield replace(summed, axes=Axes.uncut(left, axes.rank))
    at, first = rows - (columns < rows), max(0, -offset)
    left[at] = count
    args = {"self": Ref(names[1]), "dim": at, "start": first, "end": first + count, "step": 1}
    sliced = replace(node, name=names[2], op="aten.slice.Tensor", args=args)
    yield replace(sliced, axes=Axes.uncut(left, axes.rank))
    order = [*(k for k in range(len(left)) if k != at), at]
    yield replace(node, op="aten.permute.default", args={"self": Ref(names[2]), "dims": order})


def _place_of_largest(known: KnownCalls, node: Node) -> Iterator[Node]:
    """The place of the largest number, as the smallest place of those with the largest number."""
    axes, dims = known.axes[node.operands[0]], node.args["dim"]
    dims = list(range(len(axes.dims))) if dims is None else [dims % len(axes.dims)]
    if not any(a for d in dims for a in axes_in(axes.dims[d])):
        yield node
        return
    kind = "amax" if node.kind == "argmax" else "amin"
    maker = known.nodes.get(node.operands[0])
    dtype = maker.dtype if maker else known.dtype
    if not dtype.is_floating_point:
        yield node
        return
    kept = [1 if k in dims else n for k, n in enumerate(axes.shape)]
    args = {"self": node.args["self"], "dim": dims, "keepdim": True}
    names = [f"{node.name}.{k}" for k in range(2)]
    extreme = replace(node, name=names[0], op=f"aten.{kind}.default", args=args, dtype=dtype)
    yield replace(extreme, axes=Axes.uncut(kept, axes.rank))
    args = {"self": node.args["self"], "largest": Ref(names[0]), "dims": dims}
    places = replace(node, name=names[1], op="spnb.places_of_largest.default", args=args)
    yield replace(places, axes=Axes.uncut(axes.shape, axes.rank))
    args = {"self": Ref(names[1]), "dim": dims, "keepdim": node.args["keepdim"]}
    yield replace(node, op="aten.amin.default", args=args)


def _count_of_nonzero(known: KnownCalls, node: Node) -> Iterator[Node]:
    """The number of elements that are not zero, as a sum."""
    axes, dims = known.axes[node.operands[0]], node.args["dim"]
    args = {"self": node.args["self"], "other": 0}
    name = f"{node.name}.0"
    other = replace(node, name=name, op="aten.ne.Scalar", args=args, dtype=torch.bool)
    yield replace(other, axes=Axes.uncut(axes.shape, axes.rank))
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(axes.dims)))
    args = {"self": Ref(name), "dim": dims, "keepdim": False, "dtype": None}
    yield replace(node, op="aten.sum.dim_IntList", args=args)


def _sampled(known: KnownCalls, node: Node) -> Iterator[Node]:
    """Samples at constant coordinates, with the positions that they read."""
    image, grid = known.axes.get(getattr(node.args["input"], "value", "")), node.args["grid"]
    where = None if image is None else known.value_of(grid, MOST_COORDINATES)
    yield node if image is None or where is None else samples(node, image, where)


def _unpooled(known: KnownCalls, node: Node) -> Iterator[Node]:
    """An unpooling with the windows of the max pooling that gave its places."""
    indices, beside = node.args["indices"], 0
    made = known.nodes.get(getattr(indices, "value", ""))
    if made is not None and made.kind == "unsqueeze" and made.args["dim"] == -1:
        indices, beside = made.args["self"], 1  # PyTorch unpools one axis as two
    pooling = _pooling_of(known, indices)
    window = None if pooling is None else _window_of(pooling)
    if pooling is None or window is None:
        yield node
        return
    size = pooling.operand_shapes[0][-len(window["kernel"]) :]
    same = tuple(node.args["output_size"]) == (*size, *[1] * beside)
    for name in window:
        window[name] += (0 if name == "padding" else 1,) * beside
    args = {"self": node.args["self"], "indices": node.args["indices"], **window}
    yield replace(node, op="spnb.max_unpool.default", args=args) if same else node


def _pooling_of(known: KnownCalls, indices: object) -> Node | None:
    """The max pooling that gave places; None for places from elsewhere."""
    item = known.nodes.get(indices.value) if isinstance(indices, Ref) else None
    if item is None or item.op != GETITEM or item.args["index"] != 1:
        return None
    pooling = known.nodes.get(item.operands[0])
    return pooling if pooling and pooling.kind.endswith("d_with_indices") else None


def _window_of(pooling: Node) -> dict[str, tuple[int, ...]] | None:
    """The window of a max pooling; None if its windows overlap."""
    count, args = int(pooling.kind[8]), pooling.args
    found = {
        "kernel": per_dim(args["kernel_size"], count),
        "stride": per_dim(args["stride"] or args["kernel_size"], count),
        "padding": per_dim(args["padding"], count),
        "dilation": per_dim(args["dilation"], count),
    }
    spans = zip(found["kernel"], found["stride"], found["dilation"], strict=True)
    return found if all(d * (k - 1) < s for k, s, d in spans) else None


def _of_operand(
    rewrite: Callable[[Node, Axes], Iterator[Node]],
) -> Callable[[KnownCalls, Node], Iterator[Node]]:
    """A function that looks at nothing but the axes of a call's operand."""

    def rewritten(known: KnownCalls, node: Node) -> Iterator[Node]:
        axes = known.axes.get(getattr(node.args["self"], "value", ""))
        yield from [node] if axes is None else rewrite(node, axes)

    return rewritten


_REWRITES = {
    "index": _rows,
    "index_select": _rows,
    "index_put": _written_rows,
    "diagonal": _diagonal,
    "argmax": _place_of_largest,
    "argmin": _place_of_largest,
    "count_nonzero": _count_of_nonzero,
    "histc": lambda known, node: counts(node),
    "grid_sampler": _sampled,
    "max_unpool2d": _unpooled,
    "max_unpool3d": _unpooled,
    "glu": _of_operand(gate),
    "unfold": _of_operand(windows_of_tokens),
    "avg_pool1d": _of_operand(pool_of_tokens),
    "max_pool1d": _of_operand(pool_of_tokens),
}
"""By kind of a call, the function that yields the calls in its place."""
