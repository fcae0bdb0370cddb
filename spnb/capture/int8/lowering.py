"""Writes a rounded network in operators of whole numbers, and all other sums in fp64.

PyTorch's flow gives each call of the network in fp32, between calls that round and that undo it::

    x ─ dequantize ─┐                      x ──────┐
    w ─ dequantize ─┴ conv ─ relu ─ quantize   w ──┴ conv_int8          all in whole numbers
    x ─ dequantize ─ linear ─ …            x ─ dequantize ─ linear in fp64 ─ …

A sum in fp32 depends on the order in which it is added up, and so on tiles; rounded to 8 bits, a
difference in the last bit may become one of a whole step.  In fp64 it is far below a bit of fp32.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import fx

from ...kernels import int8

aten = torch.ops.aten
ROUND, UNDO, UNDO_OF_WEIGHTS = (
    f"quantized_decomposed.{name}.default"
    for name in ("quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel")
)
"""PyTorch's operators that round, and that undo it; torchao registers them."""

CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)

RELU = (aten.relu.default, aten.relu_.default)

MOVING = """
    cat channel_shuffle flatten max_pool1d max_pool2d max_pool3d permute pixel_shuffle
    pixel_unshuffle reshape select slice squeeze stack transpose unsqueeze view
"""
"""Operators whose results are among the numbers that they read."""

SUMMING = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d addmm avg_pool1d avg_pool2d
    avg_pool3d bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution cumsum einsum grid_sampler group_norm instance_norm layer_norm
    linear linalg_vector_norm logsumexp matmul mean mm native_group_norm native_layer_norm norm
    log_softmax scaled_dot_product_attention softmax std sum upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_trilinear3d var var_mean
"""
"""Operators whose results depend on the order in which they add up."""

_MOVES, _SUMS = frozenset(MOVING.split()), frozenset(SUMMING.split())


FxNode = Any
"""A `torch.fx.Node`; PyTorch gives its arguments a type that nothing can be read from."""


class _Scale(NamedTuple):
    """How 8-bit numbers stand for others."""

    scale: float
    zero: int
    most: int


def lowered(module: fx.GraphModule) -> fx.GraphModule:
    """Return a rounded network in operators of `spnb.kernels.int8`.

    Parameters
    ----------
    module
        What PyTorch's flow converted; it is changed.
    """
    for node in list(module.graph.nodes):
        if _name(node) in _MOVES:
            _move_rounded(node)
        elif node.target in CONVOLUTIONS:
            _in_whole_numbers(node)
    for node in list(module.graph.nodes):
        if _name(node) in _SUMS:
            _in_fp64(node)
        elif _is_rounded(node):
            _replace(node, torch.ops.spnb.quantize.default, node.args[0], *_scale_of(node))
        elif _is_undone(node):
            scale, zero, _ = _scale_of(node)
            _replace(node, torch.ops.spnb.dequantize.default, node.args[0], scale, zero)
    for node in module.graph.nodes:
        if stack := node.meta.get("nn_module_stack"):
            own = {key: (path.split("@")[0], layer) for key, (path, layer) in stack.items()}
            node.meta["nn_module_stack"] = own
    module.graph.eliminate_dead_code()
    module.graph.lint()
    _drop_unread(module)
    module.recompile()
    return module


def _name(node: FxNode) -> str:
    """ATen's name of the operator that a node calls; empty for other nodes."""
    space, _, rest = str(node.target).partition(".")
    return rest.split(".")[0].rstrip("_") if space == "aten" else ""


def _is_rounded(node: Any) -> bool:
    return isinstance(node, fx.Node) and str(node.target) == ROUND


def _is_undone(node: Any) -> bool:
    return isinstance(node, fx.Node) and str(node.target) == UNDO


def _scale_of(node: FxNode) -> _Scale:
    """Of a call that rounds, or that undoes it: these have the same arguments."""
    _, scale, zero, _, most, _ = node.args
    return _Scale(scale, zero, most)


def _only_reader(node: FxNode) -> FxNode | None:
    """The only node that reads a value."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _replace(node: FxNode, target: Any, *args: Any, layer: FxNode | None = None) -> FxNode:
    """Put a call in place of a node, with the name of its layer, or of another node's."""
    with node.graph.inserting_before(node):
        call = node.graph.call_function(target, args)
    if stack := (layer or node).meta.get("nn_module_stack"):
        call.meta["nn_module_stack"] = stack
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)
    return call


def _move_rounded(node: FxNode) -> None:
    """Move 8-bit numbers where a call would move what they stand for."""
    rounded = _only_reader(node)
    if rounded is None or not _is_rounded(rounded):
        return
    if not all(_is_undone(x) and _scale_of(x) == _scale_of(rounded) for x in node.all_input_nodes):
        return
    for undone in node.all_input_nodes:
        node.replace_input_with(undone, undone.args[0])
    node.meta["shape"] = node.meta.pop("val").shape
    rounded.replace_all_uses_with(node)
    node.graph.erase_node(rounded)


def _in_whole_numbers(node: FxNode) -> None:
    """Join a convolution of rounded numbers with what follows: addition, ReLU, rounding."""
    given: list[Any] = list(node.args)
    left_out: list[Any] = [None, None, None, 1, 0, 1, 1][len(given) :]
    x, weight, bias, stride, padding, dilation, groups = given + left_out
    if not _is_undone(x) or str(weight.target) != UNDO_OF_WEIGHTS:
        return
    count = len(node.meta["val"].shape) - 2
    windows = [[n] * count if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
    last, relu = node, False
    other: FxNode = None
    scale: _Scale | None = None
    added = _only_reader(last)
    if added is not None and (found := _added(added, node)) and _rounded_after(added):
        last, other = added, found
    after = _only_reader(last)
    if after is not None and after.target in RELU:
        last, relu = after, True
    after = _only_reader(last)
    if after is not None and _is_rounded(after):
        last, scale = after, _scale_of(after)
    read, undone = _scale_of(x), _scale_of(other) if other is not None else _Scale(1.0, 0, 0)
    to: tuple[Any, ...] = scale or (None, 0, int8.LARGEST)
    call = _replace(
        last,
        torch.ops.spnb.conv_int8.default,
        *(x.args[0], weight.args[0], weight.args[1], bias),
        *(None if other is None else other.args[0], *windows, groups),
        *(read.scale, read.zero, undone.scale, undone.zero, relu, *to),
        layer=node,
    )
    call.meta["shape"] = node.meta["val"].shape


def _rounded_after(node: FxNode) -> bool:
    """Whether a value is rounded at once, or after a ReLU."""
    reader = _only_reader(node)
    if reader is not None and reader.target in RELU:
        reader = _only_reader(reader)
    return reader is not None and _is_rounded(reader)


def _added(node: FxNode, result: FxNode) -> FxNode | None:
    """What a call adds to a result, if these are rounded numbers of its shape."""
    if node.target not in (aten.add.Tensor, aten.add_.Tensor) or node.kwargs or len(node.args) != 2:
        return None
    other: FxNode = next((x for x in node.args if x is not result), None)
    if not _is_undone(other):
        return None
    source = other.args[0]
    shape = source.meta.get("shape")
    if _is_rounded(source) and "val" in source.args[0].meta:
        shape = source.args[0].meta["val"].shape
    return other if shape == result.meta["val"].shape else None


def _in_fp64(node: FxNode) -> None:
    """Have a call add up in fp64, and round its results to fp32."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        return
    for x in node.all_input_nodes:
        known = x.meta.get("val", x)
        if known is not x and not (isinstance(known, torch.Tensor) and known.is_floating_point()):
            continue  # a size, or whole numbers
        with node.graph.inserting_before(node):
            wide = node.graph.call_function(aten.to.dtype, (x, torch.float64))
        node.replace_input_with(x, wide)
    parts = [n for n in node.users if n.target is operator.getitem]
    for result in parts or [node]:
        readers = list(result.users)
        with node.graph.inserting_after(result):
            narrow = node.graph.call_function(aten.to.dtype, (result, torch.float32))
        for reader in readers:
            reader.replace_input_with(result, narrow)


def _drop_unread(module: fx.GraphModule) -> None:
    """Drop parameters that no call reads, as those that were rounded."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for path, layer in module.named_modules():
        prefix = path + "." if path else ""
        for tensors in (layer._parameters, layer._buffers):
            for name in [n for n in tensors if prefix + n not in read]:
                del tensors[name]
