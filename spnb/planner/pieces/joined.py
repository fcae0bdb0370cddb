"""Concatenations and paddings along the positions, which make pieces; slices, which pick some."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...ir.axes import axes_in
from ...ir.node import Node, Ref, Weight
from ...ir.region import Span, intersect, length
from ...ir.tiling import Tiling
from ...rules import Whole, rule_of
from ...rules.slices import bounds
from .piece_calls import Leaf, PieceCalls
from .pieces import Pieces

CONCATENATIONS = ("cat", "concat", "concatenate")
PADDINGS = ("pad", "constant_pad_nd")

MOST_PIECES = 16
"""A concatenation of more tensors is made: each of them costs a call for each operator."""


def joined(
    calls: PieceCalls, node: Node, held: Mapping[str, Pieces], tiling: Tiling
) -> Pieces | None:
    """The pieces of a concatenation; None if it is made, as tiles can make it.

    Parameters
    ----------
    calls
        The calls so far.
    node
        The concatenation.
    held
        Those of its operands that are in pieces.
    tiling
        The grid of its stage.
    """
    number = node.args["dim"] % len(node.shape)
    if not all(pieces.number == number and pieces.alone for pieces in held.values()):
        return None
    parts = list(_parts(calls, node, held, number))
    axes = [calls.axes_of(leaf) for leaf, _ in parts]
    if any(len(each.dims) != len(node.shape) for each in axes):
        return None  # PyTorch skips empty tensors of one dimension
    found = {axis for each in axes for axis in axes_in(each.dims[number])}
    cut = any(axis and tiling.grid[axis] > 1 for axis in found)
    if not cut or 0 in found or not (held or _is_gathered(calls, node)):
        return None
    groups = list(_grouped(calls, _as_values(calls, node, parts, number), number))
    if not 1 < len(groups) <= MOST_PIECES:
        return None
    names, sizes = [], []
    for k, group in enumerate(groups):
        sizes.append(sum(size for _, size in group))
        leaf = group[0][0]
        if len(group) > 1:
            args = {"tensors": [leaf for leaf, _ in group], "dim": number}
            shape = (*node.shape[:number], sizes[-1], *node.shape[number + 1 :])
            leaf = calls.add(node, f"{node.name}.piece{k}", "aten.cat.default", args, shape)
        assert isinstance(leaf, Ref)  # constants are values by now
        names.append(leaf.value)
    return Pieces.along(number, node.shape, names, sizes)


def padded(
    calls: PieceCalls, node: Node, held: Mapping[str, Pieces], tiling: Tiling
) -> Pieces | None:
    """The pieces of tokens with a constant before or after them; None if tiles can pad them.

    Parameters
    ----------
    calls
        The calls so far.
    node
        The padding.
    held
        Those of its operands that are in pieces.
    tiling
        The grid of its stage.
    """
    around = node.args["pad"]
    grown = [k for k in range(len(around) // 2) if any(around[2 * k : 2 * k + 2])]
    constant = node.args.get("mode", "constant") == "constant"
    if not constant or held or len(grown) != 1 or min(around) < 0 or not _is_gathered(calls, node):
        return None
    (k,) = grown
    number = len(node.shape) - 1 - k
    tensors: list[Leaf] = [node.args["self"]]
    for name, size, place in (("before", around[2 * k], 0), ("after", around[2 * k + 1], 2)):
        if size:
            shape = [*node.shape[:number], size, *node.shape[number + 1 :]]
            args = {"size": shape, "fill_value": node.args.get("value") or 0.0}
            args |= {"dtype": node.dtype, "layout": None, "device": None, "pin_memory": None}
            constant = calls.add(node, f"{node.name}.{name}", "aten.full.default", args, shape)
            assert isinstance(constant, Weight)  # since it reads no value
            tensors.insert(place, replace(constant, alike=True))
    args = {"tensors": tensors, "dim": number}
    return joined(calls, replace(node, op="aten.cat.default", args=args), held, tiling)


def _is_gathered(calls: PieceCalls, node: Node) -> bool:
    """Whether tiles would gather the operands of a concatenation."""
    rule = rule_of(calls.with_axes(node))
    return isinstance(rule, Whole) and rule.known


def _parts(
    calls: PieceCalls, node: Node, held: Mapping[str, Pieces], number: int
) -> Iterator[tuple[Leaf, int]]:
    """The tensors that are joined, and their sizes along a dimension; pieces one by one."""
    for leaf in node.args["tensors"]:
        pieces = held.get(leaf.value) if isinstance(leaf, Ref) else None
        if pieces is None:
            yield leaf, calls.axes_of(leaf).shape[number]
            continue
        for name, (start, end) in zip(pieces.names, pieces.spans, strict=True):
            yield Ref(name), end - start


def _as_values(
    calls: PieceCalls, node: Node, parts: Sequence[tuple[Leaf, int]], number: int
) -> Iterator[tuple[Leaf, int]]:
    """The same tensors; a constant becomes a value, of which each image has a copy."""
    like = next(leaf for leaf, _ in parts if isinstance(leaf, Ref))
    for k, (leaf, size) in enumerate(parts):
        if isinstance(leaf, Weight):
            args = {"weight": leaf, "like": like, "along": number}
            name = f"{node.name}.constant{k}"
            leaf = calls.add(node, name, "spnb.for_each_image.default", args, leaf.shape)
        yield leaf, size


def _grouped(
    calls: PieceCalls, parts: Iterator[tuple[Leaf, int]], number: int
) -> Iterator[list[tuple[Leaf, int]]]:
    """Runs of neighbours that become one piece: of tensors that no tile has a part of."""
    tensors = enumerate(parts)

    def run(numbered: tuple[int, tuple[Leaf, int]]) -> int:
        k, (leaf, _) = numbered
        return k if axes_in(calls.axes_of(leaf).dims[number]) else -1

    for _, group in itertools.groupby(tensors, run):
        yield [part for _, part in group]


def picked(calls: PieceCalls, node: Node, pieces: Pieces) -> Pieces | Leaf | None:
    """The pieces, or the piece, that a slice or a selection of the positions takes.

    Parameters
    ----------
    calls
        The calls so far.
    node
        The slice or the selection.
    pieces
        Its operand.

    Returns
    -------
    Pieces, Ref or None
        None if it takes no position, or not each position of a run.
    """
    number = node.args["dim"] % len(pieces.axes.dims)
    if number != pieces.number or not pieces.alone:
        return None
    if node.kind == "select":
        return _selected(calls, node, pieces)
    first, last, step = bounds(node, pieces.total)
    if step != 1:
        return None
    taken: list[tuple[int, Span]] = [
        (k, (common[0] - span[0], common[1] - span[0]))
        for k, span in enumerate(pieces.spans)
        if length(common := intersect(span, (first, last)))
    ]
    if not taken:
        return None
    leaves: list[Leaf] = []
    for k, span in taken:
        leaf: Leaf = Ref(pieces.names[k])
        if length(span) < length(pieces.spans[k]):
            leaf = calls.sliced(node, leaf, number, span)
        leaves.append(leaf)
    if len(leaves) == 1:
        return calls.mapped(node, node.name, "aten.alias.default", leaves[0])
    names = [leaf.value for leaf in leaves if isinstance(leaf, Ref)]
    return Pieces.along(number, node.shape, names, [length(span) for _, span in taken])


def _selected(calls: PieceCalls, node: Node, pieces: Pieces) -> Leaf:
    """The position that a selection takes, from the piece that has it."""
    index = node.args["index"] % pieces.total
    k = next(k for k, (_, end) in enumerate(pieces.spans) if index < end)
    args = {"self": Ref(pieces.names[k]), "dim": pieces.number}
    args["index"] = index - pieces.spans[k][0]
    return calls.add(node, node.name, "aten.select.int", args, node.shape)


def made(calls: PieceCalls, node: Node, pieces: Pieces) -> None:
    """Add the call that makes the concatenation after all, for a call that reads it whole.

    Parameters
    ----------
    calls
        The calls so far.
    node
        The call of the graph that has this result.
    pieces
        Its result in pieces.
    """
    number, names = pieces.number, list(pieces.names)
    tensors: list[Leaf] = [Ref(name) for name in names]
    if pieces.alone:
        args = {"tensors": tensors, "dim": number}
        calls.add(node, node.name, "aten.cat.default", args, node.shape)
        return
    outer = node.shape[number] // pieces.total
    before, after = node.shape[:number], node.shape[number + 1 :]
    for k, (start, end) in enumerate(pieces.spans):
        shape = [*before, outer, end - start, *after]
        args = {"self": tensors[k], "size": shape}
        tensors[k] = calls.add(node, f"{names[k]}.apart", "aten.view.default", args, shape)
    shape = [*before, outer, pieces.total, *after]
    args = {"tensors": tensors, "dim": number + 1}
    whole = calls.add(node, f"{node.name}.apart", "aten.cat.default", args, shape)
    args = {"self": whole, "shape": list(node.shape)}
    calls.add(node, node.name, "aten.reshape.default", args, node.shape)
