"""Calls that take the place of others in a network that is being read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ...ir.axes import Axes
from ...ir.node import Node, Ref, Weight
from .placement import with_axes
from .products import Tensor


class Values(NamedTuple):
    """Axes and types of values, by name, and the calls that compute constants."""

    axes: dict[str, Axes]
    types: dict[str, torch.dtype]
    constants: list[Node]


class AddedCalls:
    """New calls, in order; one that reads no input of the network is added to its constants.

    Parameters
    ----------
    last
        The last of the calls that are replaced; names of new values begin with its name.
    values
        The values of the network; those of the new calls are added.

    Attributes
    ----------
    nodes
        The new calls.
    """

    def __init__(self, last: Node, values: Values):
        self._last, self._values = last, values
        self.nodes: list[Node] = []

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tensor.shape if isinstance(tensor, Weight) else self._values.axes[tensor.value].shape

    def add(
        self,
        name: str,
        op: str,
        args: Mapping[str, Any],
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Add a call, and return its result; by default it has the last call's type."""
        rank = self._last.axes.rank
        call = replace(
            self._last,
            name=f"{self._last.name}.{name}",
            op=op,
            args=dict(args),
            dtype=dtype or self._last.dtype,
            axes=Axes.uncut(shape, rank),
            operand_axes=(),
        )
        if not call.operands:
            self._values.constants.append(call)
            return Weight(f"={call.name}", tuple(shape))
        call = with_axes(call, self._values.axes, rank)
        self._values.axes[call.name], self._values.types[call.name] = call.axes, call.dtype
        self.nodes.append(call)
        return Ref(call.name)

    def permuted(self, name: str, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """A permutation of a tensor's dimensions."""
        shape = self.shape(tensor)
        args = {"self": tensor, "dims": list(order)}
        new = [shape[k] for k in order]
        return self.add(name, "aten.permute.default", args, new, self._type(tensor))

    def view(self, name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """A tensor in another shape."""
        args = {"self": tensor, "shape": list(shape)}
        return self.add(name, "aten.reshape.default", args, shape, self._type(tensor))

    def einsum(
        self, name: str, equation: str, tensors: Sequence[Tensor], shape: Sequence[int]
    ) -> Tensor:
        """A product of tensors with named dimensions."""
        args = {"equation": equation, "tensors": list(tensors), "path": None}
        return self.add(name, "aten.einsum.default", args, shape, self._type(tensors[0]))

    def sum(self, name: str, first: Tensor, second: Tensor, shape: Sequence[int]) -> Tensor:
        """The sum of two tensors."""
        args = {"self": first, "other": second, "alpha": 1}
        return self.add(name, "aten.add.Tensor", args, shape, self._type(first))

    def finished(self) -> list[Node]:
        """The new calls; the last takes the name of the last of those that are replaced."""
        *others, last = self.nodes
        self._values.axes[self._last.name] = last.axes
        self._values.types[self._last.name] = last.dtype
        return [*others, replace(last, name=self._last.name)]

    def _type(self, tensor: Tensor) -> torch.dtype:
        if isinstance(tensor, Weight):
            return self._last.dtype
        return self._values.types[tensor.value]
