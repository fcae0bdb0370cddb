"""The base of all rules: which part of each operand a call needs, and how it computes.

The module is long because `Rule` documents everything that a subclass may override.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from ..ir.axes import Axes, aligned, axes_in, broadcast, fitted, is_image
from ..ir.node import Node, Weight
from ..ir.region import Region, Span, Tiling
from .calls import invoke

Tensors = Sequence[Any]
"""The operands of a call: each a tensor, or a tuple of tensors."""

Weights = Mapping[str, torch.Tensor]
"""Parameters, buffers and constants by name."""

Spans = tuple[tuple[Span, ...], ...]
"""For each axis of the image, the span of each part of a grid."""

Call = Callable[..., Any]
"""Computes a region of a result from its operands."""

ALLOCATING = frozenset(
    [
        "add",
        "cat",
        "div",
        "elu",
        "gelu",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "mul",
        "relu",
        "sigmoid",
        "silu",
        "sub",
        "tanh",
    ]
)
"""Operators whose result is known never to share memory with an operand."""


class CoreAndBoundary(NamedTuple):
    """How windows slide over a tile without its halo, and where the result is wrong then.

    Attributes
    ----------
    padding
        Zeros on both sides of each spatial dimension, in place of the halo.
    boundary
        Regions of the result that read the halo; no two overlap.  The rest is the core.
    """

    padding: list[int]
    boundary: list[Region]


@dataclass(frozen=True)
class Rule:
    """How one operator call is tiled; the base class is the rule of elementwise operators.

    Operands and weights are broadcast against each other as PyTorch does.  An elementwise operator
    of your own takes this class as it is.  Another takes a subclass that overrides

    - `axes`, where the result has another shape than broadcasting gives,
    - `need`, where a position of the result reads other positions of an operand,
    - `apply`, where a part of the result is not the operator's result on a part of its operands.

    `Direct` is the class to start from where tiles exchange halos.

    Parameters
    ----------
    node
        The call: its arguments, and the shapes of its operands and its result.

    `spnb.rules` shows a rule of one's own from end to end.
    """

    node: Node

    known = True
    """False for an operator without a rule: it may mix the images of a batch."""

    @property
    def by_micro_batch(self) -> bool:
        """Whether training takes a micro-batch for the whole batch, as a batch norm does."""
        return False

    owner_computes = False
    """True where a tile must compute exactly the part of the result that it owns."""

    @property
    def any_layout(self) -> bool:
        """Whether the memory order of the operands may differ from PyTorch's default.

        Sums depend on that order by rounding, so operators that add up need the default.
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
        """What the operator is called with."""
        pairs = zip(tensors, self.node.operand_axes, strict=True)
        operands = [fitted(tensor, axes, self.axes, region) for tensor, axes in pairs]
        local = {w.name: self._fitted_weight(w, weights, region) for w in self.node.weights}
        return self.node.bind(operands, local)

    def scratch(self, given: Region, region: Region) -> tuple[Axes, Region] | None:
        """The temporary tensor that a call for a region writes, given its first operand's region.

        Returns
        -------
        (Axes, Region) or None
            Of a tensor of the result's type, whose memory may be given to `bound`; None where the
            call needs none.
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
        """`apply` for one region, with everything that depends on regions only worked out once.

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
        """Types of the tensors that `into` writes, the result's first; none if it writes none.

        A plan of buffers gives them memory (see `spnb.runtime.buffer_plan`).
        """
        return (self.node.dtype,) if self._writes else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        """A call of this rule that writes into given tensors, one for each of `result_types`."""
        return lambda *tensors: call(*tensors, out=results[0])

    def core_and_boundary(self, own: Region, region: Region) -> CoreAndBoundary | None:
        """How to compute a region before the halo of the first operand is here.

        Parameters
        ----------
        own
            The region of the operand that the tile owns.
        region
            The region of the result to compute.

        Returns
        -------
        CoreAndBoundary or None
            None where that gives no result of the region's size, or takes longer than to put tile
            and halo together.
        """
        return None

    def bound_core(self, split: CoreAndBoundary, weights: Weights) -> Call:
        """Compute a region from what a tile owns of the first operand; its boundary is wrong then.

        Parameters
        ----------
        split
            As `core_and_boundary` gave it; rules that give none need not define this method.
        weights
            As for `apply`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no core")

    def prepare(self, weights: Weights, shape: Sequence[int]) -> Weights:
        """The call's weights in the memory order that `apply` prefers; called once, before a run.

        Parameters
        ----------
        weights
            By name.
        shape
            Shape of the first operand of a tile.
        """
        return weights

    def against(self, weight: Weight) -> Axes | None:
        """The axes that a weight is broadcast against: where it has space, it is cut with them.

        None for a weight that is always used whole.
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
            result = self.against(weight)
            shift = len(result.dims) - len(weight.shape) if result else 0
            pairs = zip(weight.shape, result.dims[shift:], strict=True) if result else ()
            if any(n > 1 and 0 in axes_in(there) for n, there in pairs):
                return False  # weights of their own for the images of a batch
        return True

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """The calls that replace this one in a stage with a grid; the last has its name."""
        return (self.node,)

    def own(self, tiling: Tiling) -> Spans:
        """What each part of a grid owns of the result, axis by axis."""
        return tiling.spans(self.axes.extent)


@dataclass(frozen=True)
class Direct(Rule):
    """An operator that is run unchanged on the parts that it needs, with whole weights."""

    def gathers(self, operand: int, axis: int) -> bool:
        return False

    def against(self, weight: Weight) -> Axes | None:
        return None

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        return invoke(self.node.op, self.node.bind(tensors, weights))


@dataclass(frozen=True)
class Local(Direct):
    """An operator along dimensions that are never cut: each tile computes its own part.

    Parameters
    ----------
    result
        Where the axes of the image lie in the result.
    """

    result: Axes

    @cached_property
    def axes(self) -> Axes:
        return self.result
