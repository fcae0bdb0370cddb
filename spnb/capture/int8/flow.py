"""From a module and images to a module that computes in 8-bit numbers.

PyTorch's own flow (torchao, ``pt2e``) records the network, finds the range of every value on the
given images and rounds the weights, channel by channel.  `spnb.capture.int8.lowering` then writes
its convolutions in whole numbers.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import fx, nn

from ...errors import CaptureError, OptionError
from ...kernels.compat import stack_traces_left_out, transforms_undone
from ..messages import first_line, quiet_log
from .lowering import lowered

INSTALL = "precision int8 rounds a network by torchao: pip install torchao"


def quantized(module: nn.Module, images: Sequence[torch.Tensor], reduced: bool) -> nn.Module:
    """Return a network that computes in 8-bit numbers; the given one is not changed.

    Parameters
    ----------
    module
        The network, in evaluation mode and fp32.
    images
        Inputs to calibrate on: each ``(batch, channels, *spatial)``, in fp32.  Where the network
        takes images of any size, these may have others than the images that it will run on.
    reduced
        Whether values have 7 bits: for CPUs on which sums of two products of 8 bits overflow.

    Returns
    -------
    nn.Module
        The network; its results are in fp32.

    Raises
    ------
    OptionError
        If torchao is not installed.
    CaptureError
        If the network cannot be recorded, or does not run on the images.
    """
    name = type(module).__name__
    try:
        prepare, convert, quantizer = _flow(reduced)
    except ImportError as error:
        raise OptionError(INSTALL) from error
    with _quiet():
        try:
            prepared = prepare(_recorded(module, images[0]), quantizer)
            _write_norms_out(prepared)
        except Exception as error:
            raise CaptureError(
                f"{name} cannot be recorded to be rounded to int8: {first_line(error)}: use another"
                " precision"
            ) from error
        for image in images:
            try:
                prepared(image)
            except Exception as error:
                raise CaptureError(
                    f"{name} does not run on a calibration image of {tuple(image.shape)}:"
                    f" {first_line(error)}: give images of the size that it runs on"
                ) from error
        try:
            found = lowered(convert(prepared))
        except Exception as error:
            raise CaptureError(
                f"{name} cannot be rounded to int8: {first_line(error)}: use another precision"
            ) from error
    type(found).__name__ = name  # PyTorch makes a class for each
    return found


def _flow(reduced: bool) -> tuple[Any, Any, Any]:
    """Functions that prepare and convert a program, and what says how to round operators."""
    with _quiet():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    how = x86.get_default_x86_inductor_quantization_config(reduce_range=reduced)
    return prepare_pt2e, convert_pt2e, quantizer.set_global(how)


def _recorded(module: nn.Module, image: torch.Tensor) -> fx.GraphModule:
    """The calls of a network, for images of any number and size where it takes them."""
    # PyTorch takes a single image for a number that never changes.
    example = image if image.shape[0] > 1 else image.expand(2, *image.shape[1:])
    free = {d: torch.export.Dim.AUTO for d in range(image.ndim) if d != 1}
    program = torch.export.export(module, (example,), dynamic_shapes=(free,), strict=False)
    found = program.module(check_guards=False)
    _tell_calls_apart(found)
    return found


def _tell_calls_apart(module: fx.GraphModule) -> None:
    """Give each call of a layer that is called several times a name: torchao joins them else."""
    calls: Counter[tuple[str, Any]] = Counter()
    for node in module.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack:
            *outer, (key, (path, layer)) = stack.items()
            number = calls[path, node.target]
            calls[path, node.target] += 1
            if number:
                node.meta["nn_module_stack"] = {**dict(outer), key: (f"{path}@{number}", layer)}


def _write_norms_out(module: fx.GraphModule) -> None:
    """Write batch norms that follow no convolution as a product and a sum.

    With a batch norm in a network, torchao looks for many patterns of training, for a minute.
    """
    aten = torch.ops.aten
    for node in module.graph.nodes:
        if node.target is not aten.batch_norm.default or node.args[5]:
            continue
        x, weight, bias, mean, var, _, _, eps, _ = node.args
        shape = [-1] + [1] * (node.meta["val"].ndim - 2)
        with module.graph.inserting_before(node):
            call = module.graph.call_function
            scale = call(aten.rsqrt.default, (call(aten.add.Scalar, (var, eps)),))
            scale = scale if weight is None else call(aten.mul.Tensor, (scale, weight))
            shift = call(aten.neg.default, (call(aten.mul.Tensor, (mean, scale)),))
            shift = shift if bias is None else call(aten.add.Tensor, (shift, bias))
            scaled = call(aten.mul.Tensor, (x, call(aten.view.default, (scale, shape))))
            result = call(aten.add.Tensor, (scaled, call(aten.view.default, (shift, shape))))
        for each in (scaled, result):
            each.meta = {k: v for k, v in node.meta.items() if k in ("val", "nn_module_stack")}
        node.replace_all_uses_with(result)
        module.graph.erase_node(node)
    module.recompile()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's own lines, and without gradients."""
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        quiet_log(),
        redirect_stderr(io.StringIO()),
        transforms_undone(),
        stack_traces_left_out(),
    ):
        warnings.simplefilter("ignore")
        yield
