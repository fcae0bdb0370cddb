"""One operator call of a captured network, as plain picklable data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import torch

from .axes import Axes

GETITEM = "_operator.getitem.default"
"""The operator that takes an element of a tuple, written like an ATen overload."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A value computed by another node, or an input of the network."""

    value: str


@dataclass(frozen=True, slots=True)
class Joined:
    """An output of the network that is made where it is asked for, of values one after another.

    Attributes
    ----------
    values
        Their names.
    number
        The dimension along which they are joined.
    """

    values: tuple[str, ...]
    number: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that is known before the network runs: a parameter, a buffer or a constant.

    Parameters and buffers are named as in the module's ``state_dict``.  A constant is computed from
    them and from no input; its name begins with ``=``.

    Attributes
    ----------
    name, shape
        Of the tensor.
    alike
        Whether each position of the first dimension is known to have the same: coordinates that are
        repeated for every image of a batch, say.
    """

    name: str
    shape: tuple[int, ...]
    alike: bool = False


@dataclass(frozen=True)
class Node:
    """An operator call.

    Attributes
    ----------
    name
        Name of the value that it computes.
    op
        Qualified ATen overload, as ``"aten.conv2d.default"``.
    args
        Every argument by its name in the operator's schema, defaults included; values appear
        as `Ref`, parameters and buffers as `Weight`.
    axes, dtype
        Axes and type of the result; of its first element if the result is a tuple.
    operand_axes
        Axes of each `Ref` in ``args``, in order.
    path
        Path of the module that it came from, such as ``"layer1.0.conv2"``.
    parts
        Shape of each element of the result, if it is a tuple; else empty.
    """

    name: str
    op: str
    args: Mapping[str, Any]
    axes: Axes
    dtype: torch.dtype
    operand_axes: tuple[Axes, ...]
    path: str
    parts: tuple[tuple[int, ...], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def cache(self) -> dict[type, Any]:
        """Objects that other folders derive from the call once, such as its rule; not pickled."""
        return {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole result."""
        return self.axes.shape

    @property
    def operand_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each whole operand."""
        return tuple(axes.shape for axes in self.operand_axes)

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the values it reads, in order of ``args``."""
        return tuple(leaf.value for leaf in leaves(self.args) if isinstance(leaf, Ref))

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Parameters and buffers it reads."""
        return tuple(leaf for leaf in leaves(self.args) if isinstance(leaf, Weight))

    @property
    def kind(self) -> str:
        """Operator without namespace and overload: ``"conv2d"``."""
        return self.op.split(".")[1]

    @property
    def label(self) -> str:
        """How messages and pictures name this call: ``"layer1.0.conv2 (conv2d)"``."""
        return f"{self.path or 'forward'} ({self.kind})"

    @property
    def flops(self) -> int:
        """Operations: two for a multiply-add, one per element for an elementwise operator."""
        positions = math.prod(self.shape)
        if self.kind.startswith(("conv", "linear")) and self.weights:
            return 2 * positions * math.prod(self.weights[0].shape[1:])
        return positions

    @property
    def bytes_touched(self) -> int:
        """Bytes read and written, weights included."""
        shapes = (self.shape, *self.operand_shapes, *(w.shape for w in self.weights))
        return sum(map(math.prod, shapes)) * self.dtype.itemsize

    def bind(self, operands: Sequence[Any], weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Arguments with tensors in place of `Ref` and `Weight`."""
        values = iter(operands)

        def tensor(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return next(values)
            return weights[leaf.name] if isinstance(leaf, Weight) else leaf

        return {name: map_leaves(tensor, arg) for name, arg in self.args.items()}


def leaves(arg: Any) -> list[Any]:
    """Everything in nested dicts, lists and tuples, in order."""
    found: list[Any] = []
    _add_leaves(found, arg)
    return found


def _add_leaves(found: list[Any], arg: Any) -> None:
    """Append everything in nested dicts, lists and tuples; generators would take thrice as long."""
    if isinstance(arg, dict):
        arg = arg.values()
    elif not isinstance(arg, (list, tuple)):
        found.append(arg)
        return
    for item in arg:
        if isinstance(item, (dict, list, tuple)):
            _add_leaves(found, item)
        else:
            found.append(item)


def map_leaves(function: Callable[[Any], Any], arg: Any) -> Any:
    """Apply a function to every leaf of nested lists and tuples."""
    if isinstance(arg, (list, tuple)):
        return type(arg)(map_leaves(function, item) for item in arg)
    return function(arg)


class Overload(Protocol):
    """One overload of an operator of PyTorch; PyTorch has no public name for its class."""

    @property
    def tags(self) -> Collection[torch.Tag]:
        """Properties that PyTorch states, such as that it makes random numbers."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def overload(op: str) -> Overload:
    """The callable of a qualified overload such as ``"aten.relu.default"``."""
    namespace, name, variant = op.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), variant)
