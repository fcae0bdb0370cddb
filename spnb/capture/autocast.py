"""Finds the operands that ``torch.autocast`` casts to another type in one of its regions.

torch.export records the calls of a region without these casts.  To find them, the operator is
called on tensors without memory, once inside a region and once outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..ir.node import map_leaves, overload
from ..kernels.compat import FakeTensor, OpOverload, TorchDispatchMode, pytree

if TYPE_CHECKING:
    from .reader import ExportReader

DEVICE = "cpu"
"""The device of regions whose casts are found, since networks are captured on the CPU.

A region for a GPU changes nothing on the CPU; a job whose ranks have GPUs is refused.
"""


def gpu_casts_of(program: torch.export.ExportedProgram) -> str:
    """The module with the first region of ``torch.autocast("cuda")``; empty without one.

    Parameters
    ----------
    program
        A network that was exported while `spnb.kernels.gpu_autocast` had such regions recorded.
    """
    graphs = (m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule))
    for fx in (fx for module in graphs for fx in module.graph.nodes):
        if getattr(fx.target, "__name__", "") == "wrap_with_autocast":
            device, _, enabled = fx.args[:3]
            if device == "cuda" and enabled:
                stack = list((fx.meta.get("nn_module_stack") or {"": ("", "")}).values())
                return str(stack[-1][0] or "forward")
    return ""


class _Casts(TorchDispatchMode):
    """Records the type that each tensor is cast to."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[int, torch.dtype] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is overload("aten._to_copy.default"):
            self.types.setdefault(id(args[0]), result.dtype)
        return result


def casts_of(
    operator: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    dtype: torch.dtype,
) -> dict[int, torch.dtype]:
    """Find the casts of autocast before it calls an operator.

    Parameters
    ----------
    operator
        An overload, such as ``torch.ops.aten.conv2d.default``.
    args, kwargs
        Arguments of the operator; tensors are fake.
    dtype
        The lower precision of the region.

    Returns
    -------
    dict
        The new type of each tensor that is cast, by the tensor's ``id``.

    Examples
    --------
    >>> from spnb.kernels.compat import FakeTensorMode
    >>> with FakeTensorMode():
    ...     x, weight = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1)
    >>> found = casts_of(torch.ops.aten.conv2d.default, [x, weight], {}, torch.bfloat16)
    >>> found == {id(x): torch.bfloat16, id(weight): torch.bfloat16}
    True
    >>> casts_of(torch.ops.aten.relu.default, [x], {}, torch.bfloat16)
    {}
    """
    inside = _observed(operator, args, kwargs, dtype)
    outside = _observed(operator, args, kwargs, None)
    return {key: kind for key, kind in inside.items() if outside.get(key) != kind}


def _observed(
    operator: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> dict[int, torch.dtype]:
    """The casts in one call, inside a region of autocast or outside."""
    fake = (t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, FakeTensor))
    first = next(fake, None)
    if first is None:
        return {}
    noted = _Casts()
    region = torch.autocast(DEVICE, dtype, enabled=dtype is not None, cache_enabled=False)
    try:
        with first.fake_mode, noted, region, torch.no_grad():
            operator(*args, **kwargs)
    except Exception:
        # The network makes this call either inside or outside a region; in the other case it may
        # fail.  The casts until then are recorded.
        pass
    return noted.types


def cast_in_region(
    reader: ExportReader, fx: torch.fx.Node, args: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the arguments of a call, with the casts of the region of autocast that it is in."""
    dtype = reader.scope.precision
    if dtype is None or not callable(fx.target):
        return args
    fake: dict[torch.fx.Node, Any] = {node: node.meta.get("val") for node in fx.all_input_nodes}
    given, named = torch.fx.map_arg((fx.args, fx.kwargs), lambda node: fake[node])
    kinds = casts_of(fx.target, given, named, dtype)
    cast: dict[Any, Any] = {}
    for node, value in fake.items():
        if (kind := kinds.get(id(value))) is not None and value.dtype != kind:
            name = f"{reader.scope.prefix}{fx.name}.cast{len(cast)}"
            path = reader.path_of(fx)
            cast[reader.leaf(node)] = reader.cast(reader.leaf(node), kind, value.shape, name, path)
    return {name: map_leaves(lambda leaf: cast.get(leaf, leaf), arg) for name, arg in args.items()}
