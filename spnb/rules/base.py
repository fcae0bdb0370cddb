"""The base of all rules: which part of each operand a call needs, and how it computes.

The module is longer than 300 lines since it is the contract of a rule, with every method's shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, axes_in, is_image
from ..ir.broadcasting import aligned, broadcast, fits, fitted
from ..ir.node import Node, Weight
from ..ir.region import Region, Span
from ..ir.tiling import Tiling
from .calls import caller, invoke

Tensors = Sequence[Any]
"""The operands of a call: each a tensor, or a tuple of tensors."""

Weights = Mapping[str, torch.Tensor]
"""Parameters, buffers and constants by name."""

Spans = tuple[tuple[Span, ...], ...]
"""For each axis of the image, the span of each part of a grid."""

Call = Callable[..., Any]
"""Computes a region of a result from its operands."""

ALLOCATING = frozenset([
    "add", "cat", "div", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mul", "relu",
    "sigmoid", "silu", "sub", "tanh",
])  # fmt: skip
"""Operators that always write their result to new memory, never to an operand's."""


@dataclass(frozen=True)
class Padded:
    """A call on a first operand that holds its padding.

    Attributes
    ----------
    region
        The region of the operand; it runs past the extent, where there are zeros.
    bound
        Gives, for some weights, the function of the operands that does what `Rule.apply` does.
    """

    region: Region
    bound: Callable[[Weights], Call]


@dataclass(frozen=True)
class Rule:
    """How one operator call is tiled; the base class is the rule of elementwise operators.

    Operands and weights are broadcast against each other as PyTorch does.  For an elementwise
    operator of your own, use this class unchanged.  For another operator, override

    - `axes`, where the result has another shape than broadcasting gives,
    - `need`, where a position of the result reads other positions of an operand,
    - `apply`, where the operator, called on parts of its operands, gives another result.

    Start from `Direct` where tiles exchange halos.

    Parameters
    ----------
    node
        The call: its arguments, and the shapes of its operands and its result.

    `spnb.rules` shows the whole of such a rule.
    """

    node: Node

    known = True
    """False for an operator without a rule: it may mix the images of a batch."""

    @property
    def by_micro_batch(self) -> bool:
        """Whether training treats each micro-batch as a batch of its own, as a batch norm does."""
        return False

    owner_computes = False
    """True where a tile must compute exactly the part of the result that it owns."""

    @property
    def any_layout(self) -> bool:
        """Whether the memory order of the operands may differ from PyTorch's default.

        The order changes how sums are rounded, so operators that add up need the default.
        """
        return type(self) is Rule and self.node.op.startswith("aten.")

    @cached_property
    def axes(self) -> Axes:
        """Where the axes of the image lie in the result."""
        return broadcast(self.node.shape, self.node.operand_axes, self.node.axes.rank)

    @cached_property
    def _aligned(self) -> tuple[dict[int, bool], ...]:
        return tuple(aligned(axes, self.axes) for axes in self.node.operand_axes)

    def gathers(self, operand: int, axis: int) -> bool:
        """Whether every part of the result needs all of an operand along an axis."""
        return not self._aligned[operand].get(axis, True)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        """Span of an operand that a span of the result reads along an axis.

        An operand of extent 1 along an axis is broadcast: all of it is needed.

        Parameters
        ----------
        operand
            Number of the operand among those of the call.
        axis
            0 is the batch; 1, 2, ... are the axes of space.
        span
            ``(start, stop)`` of the result, in positions of the whole image.

        Returns
        -------
        (int, int)
            ``(start, stop)`` of the operand.  It may run past the operand's extent, where the
            operator pads.
        """
        extent = self.node.operand_axes[operand].extent[axis]
        return (0, extent) if extent == 1 or self.gathers(operand, axis) else span

    @property
    def allocates(self) -> bool:
        """Whether the result never shares memory with an operand."""
        return type(self) is Rule and self.node.kind in ALLOCATING

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        """Compute a region of the result.

        Parameters
        ----------
        tensors
            The operands, each exactly the part of its need that lies inside its extent.
        needs
            The needed region of each operand, as `need` gave it.
        region
            The region of the result to compute.
        weights
            Parameters, buffers and constants by name, whole.

        Returns
        -------
        torch.Tensor
            Exactly the region; a tuple of tensors where the operator has several results.
        """
        return invoke(self.node.op, self._arguments(tensors, region, weights))

    def _arguments(self, tensors: Tensors, region: Region, weights: Weights) -> dict[str, Any]:
        """The arguments of the operator, by name."""
        pairs = zip(tensors, self.node.operand_axes, strict=True)
        operands = [fitted(tensor, axes, self.axes, region) for tensor, axes in pairs]
        local = {w.name: self._fitted_weight(w, weights, region) for w in self.node.weights}
        return self.node.bind(operands, local)

    def scratch(self, given: Region, region: Region) -> tuple[Axes, Region] | None:
        """The temporary tensor that a call for a region writes.

        Parameters
        ----------
        given
            The region that the first operand covers.
        region
            The region of the result to compute.

        Returns
        -------
        (Axes, Region) or None
            Axes and region of a tensor of the result's type; `bound` may be given its memory.
            None where the call needs no temporary tensor.
        """
        return None

    def padded(self, given: Region, region: Region) -> Padded | None:
        """The call on a first operand that holds its padding; None where the call pads nothing.

        Parameters
        ----------
        given, region
            As for `scratch`.
        """
        return None

    def bound(
        self,
        given: Sequence[Region],
        needs: Sequence[Region],
        region: Region,
        weights: Weights,
        scratch: torch.Tensor | None = None,
    ) -> Call:
        """A function of the operands that does what `apply` does for one region.

        What depends only on regions is computed here, once, and not in each call.

        Parameters
        ----------
        given
            The region that each operand will cover.
        needs, region, weights
            As for `apply`.
        scratch
            Memory for the tensor that `scratch` describes.
        """
        if not self._writes:
            return lambda *tensors: self.apply(tensors, needs, region, weights)
        plain, writing = self.node.op, f"aten.{self.node.kind}.out"

        def call(*tensors: Any, **out: torch.Tensor) -> torch.Tensor:
            arguments = self._arguments(tensors, region, weights)
            return invoke(writing if out else plain, arguments | out)

        return call

    def differentiable(
        self, given: Sequence[Region], needs: Sequence[Region], region: Region, weights: Weights
    ) -> Call:
        """A function of the operands that does what `apply` does for one region, for autograd.

        What depends only on regions is computed here, once.  The function writes to no given
        memory, so that autograd can record it.

        Parameters
        ----------
        given, needs, region, weights
            As for `bound`.
        """
        if self._called_unchanged:
            return caller(self.node, weights)
        return lambda *tensors: self.apply(tensors, needs, region, weights)

    @property
    def _called_unchanged(self) -> bool:
        """Whether `apply` is the call of the operator itself on the operands and weights."""
        if type(self).apply is not Rule.apply:
            return False
        pairs = [(axes, self.axes) for axes in self.node.operand_axes]
        for weight in self.node.weights:
            if (against := self.against(weight)) is not None:
                pairs.append((Axes.uncut(weight.shape, self.axes.rank), against))
        return all(fits(axes, result) for axes, result in pairs)

    @property
    def _writes(self) -> bool:
        """Whether the operator has an overload of the same arguments that takes ``out``."""
        namespace, _, variant = self.node.op.split(".")
        image = is_image(self.node.axes)
        real = self.node.dtype in (torch.float32, torch.float64)
        known = type(self).apply is Rule.apply and self.allocates and namespace == "aten"
        return known and variant in ("default", "Tensor") and image and real

    @property
    def result_types(self) -> tuple[torch.dtype, ...]:
        """Types of the tensors that `into` writes, the result's first; empty if it writes none.

        A plan of buffers gives them memory (see `spnb.runtime.buffer_plan`).
        """
        return (self.node.dtype,) if self._writes else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        """A call of this rule that writes into given tensors, one for each of `result_types`."""
        return lambda *tensors: call(*tensors, out=results[0])

    def prepare(self, weights: Weights, shape: Sequence[int]) -> Weights:
        """The call's weights in the memory order that `apply` prefers; called before any run.

        Parameters
        ----------
        weights
            By name, in plain order or prepared for another shape.
        shape
            Shape of what is read of the first operand, with padding.
        """
        return weights

    def against(self, weight: Weight) -> Axes | None:
        """The axes that a weight is broadcast against; None for a weight that is used whole.

        Where these axes hold space, and the weight is larger than 1, the weight is cut with them.
        """
        return self.axes

    def _fitted_weight(self, weight: Weight, weights: Weights, region: Region) -> torch.Tensor:
        result, axes = self.against(weight), Axes.uncut(weight.shape, self.axes.rank)
        tensor = weights[weight.name]
        return tensor if result is None else fitted(tensor, axes, result, region)

    @property
    def keeps_images_apart(self) -> bool:
        """Whether an image's result depends on no other image, nor on its place in the batch."""
        operands = enumerate(self.node.operand_axes)
        if not self.known or any(a.extent[0] > 1 and self.gathers(k, 0) for k, a in operands):
            return False
        for weight in self.node.weights:
            if not weight.alike and 0 in self._cut_along(weight):
                return False  # each image of the batch has a weight of its own
        return True

    def place(self, region: Region) -> Hashable:
        """What a call depends on of the place of a region, besides the margins of its needs.

        Two regions of equal shapes, places and margins have equal results where their operands are
        equal.  So patches of one colour need one answer only: see `spnb.runtime.likeness`.

        Returns
        -------
        Hashable
            None if it may depend on the place in any way.
        """
        cut = type(self) is not Rule or any(map(self._cut_along, self.node.weights))
        return None if cut else ()

    def _cut_along(self, weight: Weight) -> set[int]:
        """The axes along which a weight has numbers of its own for different positions."""
        result = self.against(weight)
        shift = len(result.dims) - len(weight.shape) if result else 0
        pairs = zip(weight.shape, result.dims[shift:], strict=True) if result else ()
        return {axis for n, there in pairs if n > 1 for axis in axes_in(there)}

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """The calls that replace this one in a stage with a grid; the last has its name."""
        return (self.node,)

    def own(self, tiling: Tiling) -> Spans:
        """The spans of the result that each part of a grid owns, axis by axis."""
        return tiling.spans(self.axes.extent)


@dataclass(frozen=True)
class Direct(Rule):
    """An operator that is called unchanged on the needed parts, with whole weights."""

    def gathers(self, operand: int, axis: int) -> bool:
        return False

    def against(self, weight: Weight) -> Axes | None:
        return None

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return invoke(self.node.op, self.node.bind(tensors, weights))

    @property
    def _called_unchanged(self) -> bool:
        return type(self).apply is Direct.apply


@dataclass(frozen=True)
class Local(Direct):
    """An operator along dimensions that are never cut, so a tile needs no halo.

    Parameters
    ----------
    result
        Where the axes of the image lie in the result.
    """

    result: Axes

    @cached_property
    def axes(self) -> Axes:
        return self.result

    def place(self, region: Region) -> Hashable:
        return () if type(self) is Local else None
