"""Numbers that a network reads from tensors, such as ``x.max().item()``, as one-element tensors.

torch.export records arithmetic on such numbers as calls on symbols.  Here each becomes a call on
tensors, in double precision like a Python float, or in whole numbers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CaptureError
from ..ir.node import Ref, Weight, leaves, overload
from ..kernels.compat import arguments_of
from ..kernels.half_conv import HALVES

if TYPE_CHECKING:
    from .reader import ExportReader

Symbol = torch.SymFloat | torch.SymInt | torch.SymBool

READS = (overload("aten.item.default"), overload("aten._local_scalar_dense.default"))
"""Calls that return a number."""

_BINARY: dict[Callable[..., Any], str] = {
    operator.add: "add.Tensor",
    operator.sub: "sub.Tensor",
    operator.mul: "mul.Tensor",
    operator.truediv: "div.Tensor",
    operator.floordiv: "floor_divide.default",
    operator.mod: "remainder.Tensor",
    operator.pow: "pow.Tensor_Tensor",
    operator.lt: "lt.Tensor",
    operator.le: "le.Tensor",
    operator.gt: "gt.Tensor",
    operator.ge: "ge.Tensor",
    operator.eq: "eq.Tensor",
    operator.ne: "ne.Tensor",
    operator.and_: "bitwise_and.Tensor",
    operator.or_: "bitwise_or.Tensor",
    torch.sym_max: "maximum.default",
    torch.sym_min: "minimum.default",
}
_UNARY: dict[Callable[..., Any], str] = {
    operator.neg: "neg.default",
    operator.abs: "abs.default",
    math.floor: "floor.default",
    math.ceil: "ceil.default",
    math.trunc: "trunc.default",
    torch.sym_not: "logical_not.default",
}
_COPIES = (torch.sym_float, torch.sym_int, operator.pos)

OPERATORS: Mapping[Callable[..., Any], str] = {**_BINARY, **_UNARY}
"""Functions of Python on numbers, and the operators that compute the same on tensors."""


def is_arithmetic(target: object) -> bool:
    """Whether a call computes a number from numbers."""
    return target in OPERATORS or target in _COPIES or _math_function(target) is not None


def _math_function(target: object) -> str | None:
    """The operator of a function such as ``torch.sym_sqrt``, which has the operator's name."""
    name = getattr(target, "__name__", "").removeprefix("_").removeprefix("sym_")
    known = ("sqrt", "cos", "cosh", "sin", "sinh", "tan", "tanh", "asin", "acos", "atan", "log2")
    return f"{name}.default" if name in known and getattr(torch, name, None) else None


def operator_of(target: Callable[..., Any]) -> str | None:
    """The qualified overload that equals a call on symbols; None if the call is only a cast.

    >>> operator_of(operator.truediv)
    'aten.div.Tensor'
    """
    found = OPERATORS.get(target) or _math_function(target)
    return f"aten.{found}" if found else None


def dtype_of(number: object) -> torch.dtype:
    """The type of the tensor that stands for a number.

    >>> dtype_of(2.0), dtype_of(True)
    (torch.float64, torch.bool)
    """
    if isinstance(number, (torch.SymBool, bool)):
        return torch.bool
    return torch.int64 if isinstance(number, (torch.SymInt, int)) else torch.float64


def common_dtype(target: Callable[..., Any], numbers: Sequence[object]) -> torch.dtype:
    """The type in which Python computes a call on numbers.

    >>> common_dtype(operator.truediv, [1, 2]), common_dtype(operator.lt, [1, 2])
    (torch.float64, torch.int64)
    """
    kinds = {dtype_of(number) for number in numbers}
    divides = target is operator.truediv or _math_function(target) is not None
    if divides or torch.float64 in kinds:
        return torch.float64
    return torch.int64 if torch.int64 in kinds else torch.bool


def takes_tensors(op: str, names: Collection[str]) -> str | None:
    """The overload of the same operator that takes tensors for some arguments; None without one.

    >>> takes_tensors("aten.clamp.default", ["min"]), takes_tensors("aten.elu.default", ["alpha"])
    ('aten.clamp.Tensor', None)
    """
    namespace, kind, variant = op.split(".")
    packet = getattr(getattr(torch.ops, namespace), kind)
    wanted = [argument.name for argument in arguments_of(getattr(packet, variant))]
    for other in [variant, *packet.overloads()]:
        arguments = arguments_of(getattr(packet, other))
        types = {argument.name: str(argument.type) for argument in arguments}
        if list(types) == wanted and all("Tensor" in types[name] for name in names):
            return f"{namespace}.{kind}.{other}"
    return None


def number_of(reader: ExportReader, fx: torch.fx.Node, value: Symbol) -> Ref:
    """Add the calls that compute a number, as a tensor of one element.

    Raises
    ------
    CaptureError
        If no operator computes the same.
    """
    dtype, name, path = dtype_of(value), f"{reader.scope.prefix}{fx.name}", reader.path_of(fx)
    if fx.target in READS:
        found = reader.cast(reader.leaf(fx.args[0]), dtype, (), name, path)
    elif callable(fx.target) and is_arithmetic(fx.target):
        found = _computed(reader, fx, dtype, name, path)
    else:
        raise CaptureError(
            f"{path or 'forward'} computes {_name_of(fx.target)} of a number that it reads from a"
            " tensor (.item()), which has no operator: compute it of the tensor"
        )
    reader.numbers.add(found)
    return found


def _computed(
    reader: ExportReader, fx: torch.fx.Node, dtype: torch.dtype, name: str, path: str
) -> Ref:
    """The result of a function of Python on numbers, as a call on tensors."""
    assert callable(fx.target)
    values = [arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg for arg in fx.args]
    common, op = common_dtype(fx.target, values), operator_of(fx.target)
    if op is None:
        return reader.cast(reader.leaf(fx.args[0]), dtype, (), name, path)
    operands: list[Any] = []
    for number, (arg, value) in enumerate(zip(fx.args, values, strict=True)):
        leaf = reader.leaf(arg)
        if not isinstance(leaf, Ref):
            leaf = Weight(f"={name}.{number}", ())
            reader.literals[leaf.name] = torch.tensor(value, dtype=common)
        elif dtype_of(value) != common:
            leaf = reader.cast(leaf, common, (), f"{name}.{number}", path)
        operands.append(leaf)
    schema = arguments_of(overload(op))
    args = {a.name: a.default_value for a in schema}
    args |= dict(zip((a.name for a in schema), operands, strict=False))
    compares = dtype == torch.bool
    like = torch.empty((), dtype=torch.bool if compares else common, device="meta")
    made = reader.add(f"{name}.of" if like.dtype != dtype else name, op, args, like, path)
    return made if like.dtype == dtype else reader.cast(made, dtype, (), name, path)


def call_with_numbers(
    reader: ExportReader,
    fx: torch.fx.Node,
    op: str,
    args: Mapping[str, Any],
    value: torch.Tensor | Sequence[torch.Tensor],
) -> Ref:
    """Add a call with numbers as arguments, as a call of the overload that takes tensors.

    Raises
    ------
    CaptureError
        If the operator has no such overload.
    """
    name, path = f"{reader.scope.prefix}{fx.name}", reader.path_of(fx)
    numbers = [k for k, arg in args.items() if reader.is_number(arg)]
    kind = op.split(".")[1]
    if kind in FILLS and numbers and isinstance(value, torch.Tensor):
        return _filled(reader, args[numbers[0]], value, name, path)
    nested = sum(map(reader.is_number, leaves(args))) > len(numbers)
    other = None if nested else takes_tensors(op, numbers)
    tensors = [v for n in fx.all_input_nodes if isinstance(v := n.meta["val"], torch.Tensor)]
    if other is None or not tensors:
        raise CaptureError(
            f"{path or 'forward'} ({kind}) takes a number that the network reads from a tensor"
            f" (.item()) as its {numbers[0] if numbers else 'size'}: use the tensor itself"
        )
    changed = dict(args)
    for k in numbers:
        symbol = next(n.meta["val"] for n in fx.all_input_nodes if reader.leaf(n) == args[k])
        one = {torch.float64: 1.0, torch.int64: 1, torch.bool: True}[dtype_of(symbol)]
        kept = torch.result_type(tensors[0], one)
        if kept not in HALVES:  # for half precision, PyTorch computes with more digits
            changed[k] = reader.cast(args[k], kept, (), f"{name}.{k}", path)
    return reader.add(name, other, changed, value, path)


FILLS = ("scalar_tensor", "full", "full_like", "new_full")
"""Operators that fill a tensor with one number."""


def _filled(reader: ExportReader, number: Ref, value: torch.Tensor, name: str, path: str) -> Ref:
    """A tensor filled with a number."""
    if not value.ndim:
        return reader.cast(number, value.dtype, (), name, path)
    one = reader.cast(number, value.dtype, (), f"{name}.one", path)
    args = {"self": one, "size": list(value.shape), "implicit": False}
    return reader.add(name, "aten.expand.default", args, value, path)


def _name_of(target: object) -> str:
    return getattr(target, "__name__", str(target))
