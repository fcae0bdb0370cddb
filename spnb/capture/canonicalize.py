"""Says calls by others that have a rule already: one way for each thing that a network may do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..ir.axes import Axes
from ..ir.node import GETITEM, Node, Ref

SPLITS = [
    "chunk",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_chunk",
    "tensor_split",
    "unbind",
]


def ordinary(nodes: Sequence[Node], returned: Iterable[Any]) -> Iterable[Node]:
    """The same calls, where one can be said by others that have a rule already."""
    read = {leaf.value for leaf in returned if isinstance(leaf, Ref)}
    read.update(value for node in nodes for value in node.operands)
    by_name = {node.name: node for node in nodes}
    nodes = [node for node in nodes if node.op != GETITEM or node.name in read]
    parts_used: dict[str, set[int]] = {}
    for node in nodes:
        if node.op == GETITEM and isinstance(node.args["self"], Ref):
            parts_used.setdefault(node.args["self"].value, set()).add(node.args["index"])
    for node in nodes:
        if node.op == GETITEM and isinstance(node.args["self"], Ref):
            source = by_name[node.args["self"].value]
            if source.kind in SPLITS:
                yield _part_as_slice(node, source)
                continue
            if parts_used[source.name] == {0} and source.kind in SINGLE:
                yield replace(node, op="aten.alias.default", args={"self": node.args["self"]})
                continue
        if node.kind in SPLITS:
            continue
        if node.kind == "stack":
            yield from _stack_as_cat(node)
        elif node.kind == "select_scatter":
            yield from _selection_as_slice(node)
        elif node.kind.startswith("new_") and node.kind != "new_empty_strided":
            yield _fresh(node)
        elif parts_used.get(node.name) == {0} and node.kind in SINGLE:
            yield SINGLE[node.kind](node)
        else:
            yield node


def _part_as_slice(node: Node, source: Node) -> Node:
    """One part of a split, as a slice; of an unbind, as a selection."""
    value, index = source.args["self"], node.args["index"]
    number = source.args.get("dim", 0)
    if source.kind == "unbind":
        args = {"self": value, "dim": number, "index": index}
        return replace(node, op="aten.select.int", args=args)
    sizes = [shape[number] for shape in source.parts]
    start, stop = sum(sizes[:index]), sum(sizes[: index + 1])
    args = {"self": value, "dim": number, "start": start, "end": stop, "step": 1}
    return replace(node, op="aten.slice.Tensor", args=args)


def _stack_as_cat(node: Node) -> Iterable[Node]:
    number = node.args["dim"] % len(node.shape)
    shape = (*node.shape[:number], 1, *node.shape[number + 1 :])
    parts = []
    for k, value in enumerate(node.args["tensors"]):
        name, axes = f"{node.name}.{k}", Axes.uncut(shape, 1)
        args = {"self": value, "dim": number}
        parts.append(replace(node, name=name, op="aten.unsqueeze.default", args=args, axes=axes))
    yield from parts
    args = {"tensors": [Ref(part.name) for part in parts], "dim": number}
    yield replace(node, op="aten.cat.default", args=args)


def _selection_as_slice(node: Node) -> Iterable[Node]:
    number, index = node.args["dim"] % len(node.shape), node.args["index"]
    index %= node.shape[number]
    shape = (*node.shape[:number], 1, *node.shape[number + 1 :])
    args = {"self": node.args["src"], "dim": number}
    one = replace(node, name=f"{node.name}.0", op="aten.unsqueeze.default", args=args)
    yield replace(one, axes=Axes.uncut(shape, 1))
    args = {"self": node.args["self"], "src": Ref(one.name), "dim": number}
    args |= {"start": index, "end": index + 1, "step": 1}
    yield replace(node, op="aten.slice_scatter.default", args=args)


def _fresh(node: Node) -> Node:
    """A new tensor takes no more than the type of the one that it is made like."""
    kind = node.kind.removeprefix("new_")
    args = {"size": node.args["size"], "dtype": node.dtype, "layout": None}
    if kind == "full":
        args["fill_value"] = node.args["fill_value"]
    args |= {"device": torch.device("cpu"), "pin_memory": None}
    variant = "memory_format" if kind == "empty" else "default"
    if kind == "empty":
        args["memory_format"] = None
    return replace(node, op=f"aten.{kind}.{variant}", args=args)


def _plain_batch_norm(node: Node) -> Node:
    args = {**node.args, "training": False, "cudnn_enabled": False}
    return replace(node, op="aten.batch_norm.default", args=args)


def _adaptive_max(node: Node) -> Node:
    return replace(node, op=f"spnb.adaptive_max.{node.kind}")


SINGLE: dict[str, Callable[[Node], Node]] = {
    "_native_batch_norm_legit_no_training": _plain_batch_norm,
    "adaptive_max_pool1d": _adaptive_max,
    "adaptive_max_pool2d": _adaptive_max,
    "adaptive_max_pool3d": _adaptive_max,
}
"""Calls of which only the first of several results is read, as calls with one result."""
