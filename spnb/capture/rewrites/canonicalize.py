"""Writes equal operations as the same calls, so that each needs only one rule.

A piece of a split becomes a slice, a stack becomes a concatenation, and so on: operators that have
a rule.  The module is longer than 300 lines since each such operator has its function here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from ...ir.axes import Axes
from ...ir.node import GETITEM, Node, Ref, Weight
from .dropped_attention import with_dropped_weights
from .histograms import histogram_item, plain_histogram

SPLITS = (
    "chunk",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_chunk",
    "tensor_split",
    "unbind",
    "vsplit",
    "hsplit",
    "dsplit",
)
"""Operators that return a tuple of pieces of their operand."""


RESULTS = {
    ("var_mean", 0): "aten.var.correction",
    ("var_mean", 1): "aten.mean.dim",
    ("std_mean", 0): "aten.std.correction",
    ("std_mean", 1): "aten.mean.dim",
    ("aminmax", 0): "aten.amin.default",
    ("aminmax", 1): "aten.amax.default",
    ("max", 0): "aten.amax.default",
    ("max", 1): "aten.argmax.default",
    ("min", 0): "aten.amin.default",
    ("min", 1): "aten.argmin.default",
}
"""Calls that give one result of a call with two, by its kind and the number of the result."""

ANY = {"any": "aten.amax.default", "all": "aten.amin.default"}
"""Whether any or all elements are true, by the calls that tiles merge."""

LARGEST = {"aten.max.default": "aten.amax.default", "aten.min.default": "aten.amin.default"}
"""The largest and smallest of all elements, by the calls that tiles merge."""


def canonical(nodes: Sequence[Node], returned: Iterable[object]) -> Iterator[Node]:
    """Return the same calls, as calls of operators with a rule if that is possible.

    Parameters
    ----------
    nodes
        The calls, in order.
    returned
        The outputs of the network: values as `Ref`.  An element of a tuple that no call reads is
        left out.
    """
    read = {leaf.value for leaf in returned if isinstance(leaf, Ref)}
    read.update(value for node in nodes for value in node.operands)
    by_name = {node.name: node for node in nodes}
    nodes = [node for node in nodes if node.op != GETITEM or node.name in read]
    items_used: dict[str, set[int]] = {}
    for node in nodes:
        if _is_item(node):
            items_used.setdefault(node.args["self"].value, set()).add(node.args["index"])
    for node in nodes:
        if _is_item(node):
            source = by_name[node.args["self"].value]
            yield _canonical_item(node, source, items_used[source.name])
        elif not _by_items(node, items_used.get(node.name, set())):
            yield from _canonical_call(node, items_used.get(node.name, set()), by_name)


def _is_item(node: Node) -> bool:
    """Whether a call takes one item of another call's tuple."""
    return node.op == GETITEM and isinstance(node.args["self"], Ref)


def _canonical_item(node: Node, source: Node, items_used: set[int]) -> Node:
    """An item of a tuple; a separate call, if the tuple has pieces, or only one read item."""
    if source.kind in SPLITS:
        return _piece_as_slice(node, source)
    if source.kind == "histogram" and plain_histogram(source, items_used):
        return histogram_item(node, source)
    if _by_results(source, items_used):
        return _result_by_itself(node, source)
    if items_used == {0} and source.kind in SINGLE:
        return replace(node, op="aten.alias.default", args={"self": node.args["self"]})
    return node


def _canonical_call(
    node: Node, items_used: set[int], by_name: Mapping[str, Node]
) -> Iterable[Node]:
    """A call that takes no item, as one call or several."""
    if node.kind == "type_as":
        return [_in_type(node, node.name, node.args["self"], node.dtype)]
    if node.kind == "scaled_dot_product_attention" and node.args["dropout_p"]:
        made = (_made_by(node.args[name], by_name) for name in ("query", "key", "value"))
        return with_dropped_weights(node, [call.shape for call in made if call is not None])
    if node.op == "aten.copy.default":
        return _copy_as_source(node, _made_by(node.args["src"], by_name))
    if node.kind in ANY and (operand := _made_by(node.args["self"], by_name)):
        return _any_as_largest(node, operand.shape)
    if node.kind == "index_put" and (mask := _made_by(node.args["indices"][-1], by_name)):
        return _masked_write(node, mask, by_name) or [node]
    if node.kind == "stack":
        return _stack_as_cat(node)
    if node.kind == "select_scatter":
        return _selection_as_slice(node)
    if node.op == "aten.repeat_interleave.self_int" and node.args["dim"] is not None:
        return _repetition_as_expand(node)
    if node.op == "aten.convolution.default":
        return [_convolution_by_rank(node)]
    if node.op in LARGEST:
        return [replace(node, op=LARGEST[node.op], args={**node.args, "dim": [], "keepdim": False})]
    if node.kind.startswith("new_") and node.kind != "new_empty_strided":
        return [_new_as_full(node)]
    if items_used == {0} and node.kind in SINGLE:
        return [SINGLE[node.kind](node)]
    return [node]


def _by_items(node: Node, items_used: set[int]) -> bool:
    """Whether each result of a call is computed by a call of its own."""
    if node.kind == "histogram":
        return plain_histogram(node, items_used)
    return node.kind in SPLITS or _by_results(node, items_used)


def _by_results(node: Node, items_used: set[int]) -> bool:
    """Whether all results of a call that are read have calls of their own."""
    return bool(items_used) and all((node.kind, k) in RESULTS for k in items_used)


def _result_by_itself(node: Node, source: Node) -> Node:
    """One of the two results of a call, as the call that gives only this one."""
    op, given = RESULTS[source.kind, node.args["index"]], source.args
    dims = given.get("dim")
    if isinstance(dims, int) or dims is None:
        dims = [] if dims is None else [dims]
    args = {"self": given["self"], "dim": dims, "keepdim": given.get("keepdim", False)}
    if "arg" in op:
        args["dim"] = given["dim"]
    if op == "aten.mean.dim":
        args["dtype"] = None
    elif "correction" in op:
        unbiased = given.get("correction", given.get("unbiased", True))
        args["correction"] = 1 if unbiased is None else int(unbiased)
    return replace(node, op=op, args=args)


def _any_as_largest(node: Node, shape: tuple[int, ...]) -> Iterable[Node]:
    """Whether any (all) elements are true, as whether the largest (smallest) of 0 and 1 is 1."""
    dims = node.args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or [])
    truth = {"self": node.args["self"], "other": 0}
    names = [f"{node.name}.{k}" for k in range(3)]
    axes = Axes.uncut(shape, 1)
    yield replace(node, name=names[0], op="aten.ne.Scalar", args=truth, axes=axes, dtype=torch.bool)
    yield replace(_in_type(node, names[1], Ref(names[0]), torch.float32), axes=axes)
    reduced = {"self": Ref(names[1]), "dim": dims, "keepdim": node.args.get("keepdim", False)}
    yield replace(node, name=names[2], op=ANY[node.kind], args=reduced, dtype=torch.float32)
    yield replace(node, op="aten.ne.Scalar", args={"self": Ref(names[2]), "other": 0})


def _in_type(node: Node, name: str, value: object, dtype: torch.dtype) -> Node:
    """A conversion of a value to a type."""
    args = {"self": value, "dtype": dtype, "non_blocking": False, "copy": False}
    args["memory_format"] = None
    return replace(node, name=name, op="aten.to.dtype", args=args, dtype=dtype)


def _copy_as_source(node: Node, source: Node | None) -> Iterable[Node]:
    """A copy into a tensor that is overwritten: its source, in the tensor's shape and type."""
    args = {"self": node.args["src"], "size": list(node.shape), "implicit": False}
    name, dtype = f"{node.name}.0", source.dtype if source else node.dtype
    expanded = replace(node, name=name, op="aten.expand.default", args=args, dtype=dtype)
    return [expanded, _in_type(node, node.name, Ref(name), node.dtype)]


def _made_by(value: object, by_name: Mapping[str, Node]) -> Node | None:
    """The call that makes a value; None for an input, and for what is no value."""
    return by_name.get(value.value) if isinstance(value, Ref) else None


def _masked_write(node: Node, mask: Node, by_name: Mapping[str, Node]) -> Iterable[Node] | None:
    """``x[mask] = number`` as a choice at each position; None for any other write."""
    *leading, last = node.args["indices"]
    number = node.args["values"]
    written = number if isinstance(number, Weight) else _made_by(number, by_name)
    if written is None or math.prod(written.shape) != 1:
        return None
    if node.args["accumulate"] or mask.dtype != torch.bool or any(k is not None for k in leading):
        return None
    shape = (*mask.shape, *[1] * (len(node.shape) - len(leading) - len(mask.shape)))
    args = {"self": last, "size": list(shape)}
    view = replace(mask, name=f"{node.name}.0", op="aten.view.default", args=args, path=node.path)
    chosen = {"condition": Ref(view.name), "self": number, "other": node.args["self"]}
    return [
        replace(view, axes=Axes.uncut(shape, 1)),
        replace(node, op="aten.where.self", args=chosen),
    ]


def _piece_as_slice(node: Node, source: Node) -> Node:
    """One piece of a split, as a slice; of an unbind, as a selection."""
    value, index = source.args["self"], node.args["index"]
    number = source.args.get("dim", _split_dimension(source))
    if source.kind == "unbind":
        args = {"self": value, "dim": number, "index": index}
        return replace(node, op="aten.select.int", args=args)
    sizes = [shape[number] for shape in source.parts]
    start, stop = sum(sizes[:index]), sum(sizes[: index + 1])
    args = {"self": value, "dim": number, "start": start, "end": stop, "step": 1}
    return replace(node, op="aten.slice.Tensor", args=args)


def _split_dimension(source: Node) -> int:
    """The dimension of a split whose name says it."""
    by_name = {"vsplit": 0, "hsplit": min(1, len(source.parts[0]) - 1), "dsplit": 2}
    return by_name.get(source.kind, 0)


def _stack_as_cat(node: Node) -> Iterable[Node]:
    """A stack, as a concatenation of values with one more dimension."""
    number = node.args["dim"] % len(node.shape)
    shape = (*node.shape[:number], 1, *node.shape[number + 1 :])
    unsqueezed = []
    for k, value in enumerate(node.args["tensors"]):
        name, axes = f"{node.name}.{k}", Axes.uncut(shape, 1)
        args = {"self": value, "dim": number}
        call = replace(node, name=name, op="aten.unsqueeze.default", args=args, axes=axes)
        unsqueezed.append(call)
    yield from unsqueezed
    args = {"tensors": [Ref(call.name) for call in unsqueezed], "dim": number}
    yield replace(node, op="aten.cat.default", args=args)


def _selection_as_slice(node: Node) -> Iterable[Node]:
    """A select_scatter, as a slice_scatter of one position."""
    number, index = node.args["dim"] % len(node.shape), node.args["index"]
    index %= node.shape[number]
    shape = (*node.shape[:number], 1, *node.shape[number + 1 :])
    args = {"self": node.args["src"], "dim": number}
    one = replace(node, name=f"{node.name}.0", op="aten.unsqueeze.default", args=args)
    yield replace(one, axes=Axes.uncut(shape, 1))
    args = {"self": node.args["self"], "src": Ref(one.name), "dim": number}
    args |= {"start": index, "end": index + 1, "step": 1}
    yield replace(node, op="aten.slice_scatter.default", args=args)


def _repetition_as_expand(node: Node) -> Iterable[Node]:
    """Each position several times, as an expansion of a new dimension beside it."""
    number, times = node.args["dim"] % len(node.shape), node.args["repeats"]
    before, after = node.shape[:number], node.shape[number + 1 :]
    if not times:
        return [node]
    one = (*before, node.shape[number] // times, 1, *after)
    wide = [*one[: number + 1], times, *after]
    names, rank = [f"{node.name}.{k}" for k in range(2)], node.axes.rank
    args = {"self": node.args["self"], "dim": number + 1}
    single = replace(node, name=names[0], op="aten.unsqueeze.default", args=args)
    args = {"self": Ref(names[0]), "size": wide, "implicit": False}
    expanded = replace(node, name=names[1], op="aten.expand.default", args=args)
    args = {"self": Ref(names[1]), "shape": list(node.shape)}
    return [
        replace(single, axes=Axes.uncut(one, rank)),
        replace(expanded, axes=Axes.uncut(tuple(wide), rank)),
        replace(node, op="aten.reshape.default", args=args),
    ]


def _new_as_full(node: Node) -> Node:
    """A ``x.new_…`` as a call that reads no tensor, since ``x`` only gives its type."""
    kind = node.kind.removeprefix("new_")
    args = {"size": node.args["size"], "dtype": node.dtype, "layout": None}
    if kind == "full":
        args["fill_value"] = node.args["fill_value"]
    args |= {"device": torch.device("cpu"), "pin_memory": None}
    variant = "memory_format" if kind == "empty" else "default"
    if kind == "empty":
        args["memory_format"] = None
    return replace(node, op=f"aten.{kind}.{variant}", args=args)


def _convolution_by_rank(node: Node) -> Node:
    """A convolution for any number of dimensions, as the operator for its own number."""
    args = dict(node.args)
    rank, transposed = len(node.shape) - 2, args.pop("transposed")
    if transposed:
        variant = "default" if rank == 1 else "input"
        return replace(node, op=f"aten.conv_transpose{rank}d.{variant}", args=args)
    del args["output_padding"]
    return replace(node, op=f"aten.conv{rank}d.default", args=args)


def _plain_batch_norm(node: Node) -> Node:
    """A batch norm in evaluation mode, as the call with one result."""
    args = {**node.args, "training": False, "cudnn_enabled": False}
    return replace(node, op="aten.batch_norm.default", args=args)


def _group_norm(node: Node) -> Node:
    """A group norm without the statistics that its gradient needs."""
    args = {name: node.args[name] for name in ("input", "weight", "bias", "eps")}
    args |= {"num_groups": node.args["group"], "cudnn_enabled": False}
    return replace(node, op="aten.group_norm.default", args=args)


def _layer_norm(node: Node) -> Node:
    """A layer norm without the statistics that its gradient needs."""
    return replace(node, op="aten.layer_norm.default", args={**node.args, "cudnn_enable": False})


def _adaptive_max(node: Node) -> Node:
    """An adaptive max pooling without the indices of its maxima."""
    return replace(node, op=f"spnb.adaptive_max.{node.kind}")


def _largest_so_far(node: Node) -> Node:
    """The largest (smallest) numbers so far, without their places."""
    return replace(node, op=f"spnb.{node.kind}.default", parts=())


SINGLE: dict[str, Callable[[Node], Node]] = {
    "_native_batch_norm_legit_no_training": _plain_batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "adaptive_max_pool1d": _adaptive_max,
    "adaptive_max_pool2d": _adaptive_max,
    "adaptive_max_pool3d": _adaptive_max,
    "cummax": _largest_so_far,
    "cummin": _largest_so_far,
}
"""Calls with several results; if only the first is read, they get an operator with one result."""
