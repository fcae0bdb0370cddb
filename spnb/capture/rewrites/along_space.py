"""Rewrites calls along dimensions that tiles cut, by calls that read only what a tile needs.

A gate of two halves of the rows becomes two slices.  Pooling over the tokens of an image becomes
pooling over its rows or columns, if windows do not run over the ends of rows::

    tokens 0 1 2 3│4 5 6 7│8 9 …   columns 4, windows of 2: within a row
                                   columns 4, windows of 8: two whole rows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...ir.axes import Axes, axes_in
from ...ir.node import Node, Ref


def gate(node: Node, axes: Axes) -> Iterator[Node]:
    """A gated linear unit of two halves of an axis, as slices and a product."""
    number = node.args["dim"] % len(axes.dims)
    n = axes.shape[number] // 2
    if not _space_in(axes, number) or len(axes.dims[number]) > 1:
        yield node
        return
    names = [f"{node.name}.{k}" for k in range(3)]
    for name, (start, end) in zip(names, ((0, n), (n, 2 * n)), strict=False):
        args = {"self": node.args["self"], "dim": number, "start": start, "end": end, "step": 1}
        yield _call(node, name, "aten.slice.Tensor", args, node.shape)
    yield _call(node, names[2], "aten.sigmoid.default", {"self": Ref(names[1])}, node.shape)
    args = {"self": Ref(names[0]), "other": Ref(names[2])}
    yield replace(node, op="aten.mul.Tensor", args=args)


def windows_of_tokens(node: Node, axes: Axes) -> Iterator[Node]:
    """Windows of tokens beside each other (torch.Tensor.unfold), as a view."""
    number, size = node.args["dimension"] % len(axes.dims), node.args["size"]
    count, rest = divmod(axes.shape[number], size)
    view = (*axes.shape[:number], count, size, *axes.shape[number + 1 :])
    fits = len(_space_in(axes, number)) > 1 and size == node.args["step"] and not rest
    if not fits:
        yield node
        return
    name = f"{node.name}.windows"
    yield _call(node, name, "aten.reshape.default", _reshape(node.args["self"], view), view)
    args = {"self": Ref(name), "source": [number + 1], "destination": [-1]}
    yield replace(node, op="aten.movedim.intlist", args=args)


def pool_of_tokens(node: Node, axes: Axes) -> Iterator[Node]:
    """Pooling over tokens in windows beside each other, as pooling over rows or columns.

    If rows break windows, tiles merge their shares of them (see `spnb.rules.merged.token_pools`).
    """
    args, sizes = node.args, [factor.size for factor in axes.dims[-1]]
    kernel, several = _one(args["kernel_size"]), 1 < len(_space_in(axes, -1)) == len(sizes)
    beside = _one(args["stride"] or kernel) == kernel and not _one(args["padding"])
    plain = beside and _one(args.get("dilation", 1)) == 1 and not args["ceil_mode"]
    if not plain or not several:
        yield node
        return
    window = _window(kernel, sizes) if len(sizes) < 4 else None
    if window is None:
        pool = {"self": args["self"], "length": kernel}
        yield replace(node, op=f"spnb.{node.kind}.default", args=pool)
        return
    count, names = len(sizes), [f"{node.name}.{k}" for k in range(2)]
    image = (*axes.shape[:-1], *sizes)
    yield _call(node, names[0], "aten.reshape.default", _reshape(args["self"], image), image)
    pooled = (*axes.shape[:-1], *(n // k for n, k in zip(sizes, window, strict=True)))
    pool = {"self": Ref(names[0]), "kernel_size": window, "stride": window, "padding": [0] * count}
    pool |= {name: args[name] for name in ("ceil_mode", "count_include_pad") if name in args}
    pool |= {"divisor_override": None} if node.kind == "avg_pool1d" else {"dilation": [1] * count}
    op = f"aten.{node.kind.removesuffix('1d')}{count}d.default"
    yield _call(node, names[1], op, pool, pooled)
    args = _reshape(Ref(names[1]), node.shape)
    yield replace(node, op="aten.reshape.default", args=args)


def _window(kernel: int, sizes: Sequence[int]) -> list[int] | None:
    """The window of an image of these sizes that holds a run of tokens; None if rows break it.

    >>> _window(4, [6, 8]), _window(16, [6, 8]), _window(12, [6, 8])
    ([1, 4], [2, 8], None)
    """
    found: list[int] = []
    for number in reversed(range(len(sizes))):
        k = min(kernel, sizes[number])
        if kernel % k or (number and sizes[number] % k):  # the last rows may be left over
            return None
        found.append(k)
        kernel //= k
    return found[::-1] if kernel == 1 else None


def _space_in(axes: Axes, number: int) -> tuple[int, ...]:
    """The axes of space in a dimension; none if the batch is there, too."""
    found = axes_in(axes.dims[number])
    return () if 0 in found else found


def _one(value: int | Sequence[int]) -> int:
    return value if isinstance(value, int) else value[0]


def _reshape(value: Ref, shape: Sequence[int]) -> dict[str, Any]:
    return {"self": value, "shape": list(shape)}


def _call(node: Node, name: str, op: str, args: dict[str, Any], shape: Sequence[int]) -> Node:
    axes = Axes.uncut(tuple(shape), node.axes.rank)
    return replace(node, name=name, op=op, args=args, axes=axes, operand_axes=())
