"""Calls of PyTorch's operators by their qualified names, with arguments named as in the schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from ..ir.node import GETITEM, Node, Ref, Weight, leaves, overload
from ..kernels.compat import arguments_of


@cache
def signature(op: str) -> tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]:
    """Return an overload, and the names of its arguments: by position, and by name only.

    Parameters
    ----------
    op
        Qualified overload, as ``"aten.relu.default"``.

    Examples
    --------
    >>> signature("aten.add.Tensor")[1:]
    (('self', 'other'), ('alpha',))
    """
    function = overload(op)
    arguments = arguments_of(function)
    by_position = tuple(a.name for a in arguments if not a.kwarg_only)
    return function, by_position, tuple(a.name for a in arguments if a.kwarg_only)


def invoke(op: str, args: Mapping[str, Any]) -> Any:
    """Call an overload, or `GETITEM`, and return its result.

    Parameters
    ----------
    op
        Qualified overload, as ``"aten.relu.default"``.
    args
        Every argument by its name in the operator's schema.

    Examples
    --------
    >>> invoke("aten.relu.default", {"self": torch.tensor([-1.0, 2.0])})
    tensor([0., 2.])
    """
    if op == GETITEM:
        return args["self"][args["index"]]
    function, by_position, by_name = signature(op)
    return function(*[args[name] for name in by_position], **{n: args[n] for n in by_name})


def caller(
    node: Node, weights: Mapping[str, torch.Tensor], op: str | None = None, **changed: Any
) -> Callable[..., Any]:
    """Return a node's call as a function of its operands; everything else is looked up once, here.

    Parameters
    ----------
    node
        The call.
    weights
        Tensors by the names of the node's `Weight` arguments.
    op
        Another overload, with arguments of the same names.
    changed
        Arguments that take the place of the node's own.
    """
    op, args = op or node.op, {**node.args, **changed}
    function, by_position, by_name = (None, (), ()) if op == GETITEM else signature(op)
    fixed = [args[name] for name in by_name]
    fixed += [arg for arg in args.values() if not isinstance(arg, (Ref, Weight))]
    if function is None or any(isinstance(leaf, (Ref, Weight)) for leaf in leaves(fixed)):
        nested = replace(node, op=op, args=args)
        return lambda *operands: invoke(op, nested.bind(operands, weights))
    given = [args[name] for name in by_position]
    given = [weights[arg.name] if isinstance(arg, Weight) else arg for arg in given]
    named = {name: args[name] for name in by_name}
    slots = [k for k, arg in enumerate(given) if isinstance(arg, Ref)]

    def call(*operands: Any) -> Any:
        bound = given.copy()
        for slot, operand in zip(slots, operands, strict=True):
            bound[slot] = operand
        return function(*bound, **named)

    return call
