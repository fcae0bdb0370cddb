"""Calls that contain other calls: regions of autocast, branches, loops.

PyTorch names them higher-order operators.  A region that is always computed, such as that of
``torch.autocast``, is replaced by its calls.  Both branches of ``torch.cond`` are computed, and the
predicate chooses between their results.  A loop stays one call, which `spnb.rules.loops` runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CaptureError
from ..ir.node import Ref, Weight, leaves, map_leaves
from ..kernels.compat import FUNCTION_TRANSFORMS
from ..rules.loops import LOOPS, Subgraph
from .autocast import DEVICE

if TYPE_CHECKING:
    from .reader import ExportReader

INLINED = {
    "wrap": 0,
    "wrap_activation_checkpoint": 0,
    "tag_activation_checkpoint": 0,
    "strict_mode": 0,
    "hints_wrapper": 0,
    "invoke_quant": 0,
    "invoke_subgraph": 0,
    "wrap_with_set_grad_enabled": 1,
    "wrap_with_autocast": 4,
}
"""Operators that compute a region unchanged, and the argument that is the region."""


VMAP = (
    "lazy_load_decompositions",
    "_vmap_increment_nesting",
    "_vmap_decrement_nesting",
    "_add_batch_dim",
    "_remove_batch_dim",
)
"""Operators of ``torch.vmap``; PyTorch's decompositions replace them by calls of operators."""


def has_transforms(program: torch.export.ExportedProgram) -> bool:
    """Whether a network calls ``torch.vmap``.

    Raises
    ------
    CaptureError
        If it calls another transform, such as ``torch.func.grad``.
    """
    graphs = (m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule))
    calls = [
        (fx.target.__name__, fx)
        for module in graphs
        for fx in module.graph.nodes
        if fx.op == "call_function" and getattr(fx.target, "__module__", "") == FUNCTION_TRANSFORMS
    ]
    for name, fx in calls:
        if name not in VMAP:
            stack = list((fx.meta.get("nn_module_stack") or {"": ("", "")}).values())
            raise CaptureError(
                f"{stack[-1][0] or 'forward'} differentiates in its forward (torch.func.grad, vjp,"
                " jvp), which spnb does not tile: write the derivative in operators of PyTorch"
            )
    return bool(calls)


def result_of(reader: ExportReader, fx: torch.fx.Node) -> Any:
    """Read a call that contains calls; return its result.

    Raises
    ------
    CaptureError
        If the operator is unknown, or the region does something that the graph cannot express.
    """
    kind = str(getattr(fx.target, "__name__", fx.target))
    if kind in INLINED:
        return _inlined(reader, fx, kind)
    if kind == "cond":
        return _chosen(reader, fx)
    if kind in LOOPS:
        return _loop(reader, fx, kind)
    raise CaptureError(
        f"{reader.path_of(fx) or 'forward'} ({kind}) is a higher-order operator that spnb does not"
        " read: write it in operators of PyTorch"
    )


def _inlined(reader: ExportReader, fx: torch.fx.Node, kind: str) -> Any:
    """The results of a region that is always computed."""
    precision, at = reader.scope.precision, INLINED[kind]
    if kind == "wrap_with_autocast":
        device, dtype, enabled = fx.args[:3]
        if device == DEVICE:
            assert dtype is None or isinstance(dtype, torch.dtype)
            precision = (dtype or torch.get_autocast_dtype(DEVICE)) if enabled else None
    given = reader.leaf(list(fx.args[at + 1 :]))
    if kind == "invoke_subgraph":  # its name comes before its operands
        given = given[1:]
    if kind in ("strict_mode", "hints_wrapper"):  # its operands are a tuple
        given = given[0]
    region = reader.leaf(fx.args[at])
    return reader.inline(region, given, fx, precision=precision)


def _chosen(reader: ExportReader, fx: torch.fx.Node) -> Any:
    """The results of two branches, between which a predicate chooses."""
    predicate, *branches, operands = map(reader.leaf, fx.args)
    if isinstance(predicate, bool):
        return reader.inline(branches[not predicate], operands, fx)
    name, path = f"{reader.scope.prefix}{fx.name}", reader.path_of(fx)
    if reader.training:
        _refuse_parameters(reader, operands, path)
    found = []
    for number, branch in enumerate(branches):
        given = operands
        if reader.training:
            given = _with_gradient_if_chosen(reader, fx, predicate, operands, number)
        found.append(reader.inline(branch, given, fx, f"{number}.", reader.scope.precision))
        _refuse_writes(reader, given, path, "cond")
    values = _listed(fx.meta["val"])
    if any(isinstance(n, torch.SymInt) for value in values for n in getattr(value, "shape", ())):
        raise CaptureError(
            f"{path or 'forward'} (cond) has branches whose results differ in size, so what follows"
            " cannot be planned: return tensors of one shape from both"
        )
    predicate = _without_dimensions(reader, fx, predicate)
    results = []
    for k, (yes, no) in enumerate(zip(*map(_listed, found), strict=True)):
        if isinstance(yes, (Ref, Weight)) and isinstance(no, (Ref, Weight)):
            args = {"condition": predicate, "self": yes, "other": no}
            yes = reader.add(f"{name}.{k}", "aten.where.self", args, values[k], path)
        elif yes != no:
            raise CaptureError(
                f"{path or 'forward'} (cond) returns a number that depends on its predicate:"
                " return a tensor from each branch"
            )
        results.append(yes)
    return results if isinstance(found[0], list) else results[0]


def _listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _without_dimensions(reader: ExportReader, fx: torch.fx.Node, predicate: Any) -> Any:
    """A predicate of one element, which is broadcast against every result."""
    value = fx.args[0].meta["val"] if isinstance(fx.args[0], torch.fx.Node) else None
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return predicate
    name = f"{reader.scope.prefix}{fx.name}.predicate"
    like = torch.empty((), dtype=value.dtype, device="meta")
    args = {"self": predicate, "size": []}
    return reader.add(name, "aten.view.default", args, like, reader.path_of(fx))


def _with_gradient_if_chosen(
    reader: ExportReader,
    fx: torch.fx.Node,
    predicate: Any,
    operands: Sequence[Any],
    number: int,
) -> list[Any]:
    """The operands of a branch, with a gradient of zeros if the branch is not chosen.

    Otherwise infinite values in that branch would make the gradient NaN.
    """
    path, given = reader.path_of(fx), []
    predicate = _without_dimensions(reader, fx, predicate)
    nodes = fx.args[3]
    assert isinstance(nodes, (list, tuple))
    for k, (leaf, node) in enumerate(zip(operands, nodes, strict=True)):
        value = node.meta["val"] if isinstance(node, torch.fx.Node) else None
        if isinstance(leaf, Ref) and isinstance(value, torch.Tensor) and value.is_floating_point():
            name = f"{reader.scope.prefix}{fx.name}.{number}.given{k}"
            ended = reader.add(
                f"{name}.detached", "aten.detach.default", {"self": leaf}, value, path
            )
            both = [leaf, ended] if number == 0 else [ended, leaf]
            args = {"condition": predicate, "self": both[0], "other": both[1]}
            leaf = reader.add(name, "aten.where.self", args, value, path)
        given.append(leaf)
    return given


def _refuse_parameters(reader: ExportReader, operands: Sequence[Any], path: str) -> None:
    """Refuse branches with trained weights: in the branch not chosen, gradients may be NaN."""
    names = set(reader.weights.values())
    found = next((w.name for w in operands if isinstance(w, Weight) and w.name in names), None)
    if found is not None:
        raise CaptureError(
            f"{path or 'forward'} (cond) has the weight {found} in a branch, and both branches are"
            " computed, so its gradient might not be finite: choose between results with"
            " torch.where, or train without this layer"
        )


def _refuse_writes(reader: ExportReader, operands: Sequence[Any], path: str, kind: str) -> None:
    """Refuse a branch or a loop that overwrites an operand."""
    if any(reader.renamed.now(leaf) != leaf for leaf in operands):
        raise CaptureError(
            f"{path or 'forward'} ({kind}) overwrites a tensor in place that comes from outside of"
            " it: use the operator that gives a new tensor"
        )


def _loop(reader: ExportReader, fx: torch.fx.Node, kind: str) -> Ref:
    """A loop, as one call that reads all of its operands."""
    name, path = f"{reader.scope.prefix}{fx.name}", reader.path_of(fx)
    if reader.training:
        raise CaptureError(
            f"{path or 'forward'} ({kind}) is a loop that spnb runs but does not train: write it as"
            " a loop in Python, or train without this layer"
        )
    args: dict[str, Any] = {}
    given = map(reader.leaf, fx.args)
    for number, (role, leaf) in enumerate(zip(LOOPS[kind].arguments, given, strict=True)):
        is_region = isinstance(leaf, torch.fx.GraphModule)
        args[role] = _subgraph(reader, fx, leaf, f"{number}.", kind) if is_region else leaf
    if any(map(reader.is_number, leaves(args))):
        raise CaptureError(f"{path or 'forward'} ({kind}) carries a number: carry a tensor")
    value = fx.meta["val"]
    return reader.add(name, f"higher_order.{kind}.default", args, value, path)


def _subgraph(
    reader: ExportReader, fx: torch.fx.Node, region: torch.fx.GraphModule, name: str, kind: str
) -> Subgraph:
    """The calls of a region as a function of its inputs."""
    path = reader.path_of(fx)
    inputs = [node for node in region.graph.nodes if node.op == "placeholder"]
    names = [f"{reader.scope.prefix}{fx.name}.{name}{node.name}" for node in inputs]
    before, reader.nodes = reader.nodes, []
    try:
        outputs = reader.inline(region, [Ref(n) for n in names], fx, name, reader.scope.precision)
        _refuse_writes(reader, [Ref(n) for n in names], path, kind)
        nodes = tuple(reader.nodes)
    finally:
        reader.nodes = before

    def literal(leaf: Any) -> Any:
        return reader.literals[leaf.name] if isinstance(leaf, Weight) else leaf

    nodes = tuple(
        replace(node, args={name: map_leaves(literal, arg) for name, arg in node.args.items()})
        for node in nodes
    )
    return Subgraph(tuple(names), nodes, map_leaves(literal, _listed(outputs)))
