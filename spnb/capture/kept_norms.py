"""Keeps batch norms of training as they are where PyTorch takes a program apart.

PyTorch would make their new averages outputs of the program, and their count as well.  So another
operator, which writes nothing, stands in for them meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

COUNTER = "num_batches_tracked"
NORM, COUNT = torch.ops.aten.batch_norm.default, torch.ops.aten.add_.Tensor


# It is never computed, so it has a shape and no kernel.
torch.library.define(
    "spnb_capture::batch_norm",
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var,"
    " bool training, float momentum, float eps, bool cudnn_enabled) -> Tensor",
)
torch.library.register_fake("spnb_capture::batch_norm", lambda x, *others: torch.empty_like(x))
STAND_IN = torch.ops.spnb_capture.batch_norm.default


def with_norms_kept(
    program: torch.export.ExportedProgram,
    take_apart: Callable[[torch.export.ExportedProgram], torch.export.ExportedProgram],
) -> torch.export.ExportedProgram:
    """What a function makes of a program; batch norms of training are as before.

    Parameters
    ----------
    program
        A program of torch.export.
    take_apart
        Returns the program in simpler operators.
    """
    nodes = program.graph.nodes
    buffers = program.graph_signature.inputs_to_buffers
    counters = {name for name, buffer in buffers.items() if buffer.endswith(COUNTER)}
    counts = [node for node in nodes if _counted_by(node) in counters]
    norms = [node for node in nodes if node.target is NORM and node.args[5]]
    if not norms:
        return take_apart(program)
    counted = [_counted_by(node) for node in counts]
    try:
        for node in norms:
            node.target = STAND_IN
        for node in counts:
            node.target = torch.ops.aten.add.Tensor
        program.graph_module.recompile()
        found = take_apart(program)
    finally:
        for node in norms:
            node.target = NORM
        for node in counts:
            node.target = COUNT
        program.graph_module.recompile()
    for node in found.graph.nodes:
        if node.target is STAND_IN:
            node.target = NORM
        if node.op == "placeholder" and node.name in counted:
            _count(node, counted.count(node.name))
    found.graph_module.recompile()
    return found


def _counted_by(node: fx.Node) -> str:
    """The placeholder that a call adds one to, perhaps after calls before it; else empty."""
    found: object = node
    while isinstance(found, fx.Node) and found.target is COUNT and found.args[1] == 1:
        found = found.args[0]
    return "" if found is node else str(found)


def _count(buffer: fx.Node, times: int) -> None:
    """Add one to a buffer so many times."""
    graph, last = buffer.graph, [n for n in buffer.graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(last):
        for _ in range(times):
            graph.call_function(COUNT, (buffer, 1)).meta["val"] = buffer.meta["val"]
