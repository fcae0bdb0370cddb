"""The base of all rules, and the registry that finds a call's."""

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
Weights = Mapping[str, torch.Tensor]
Spans = tuple[tuple[Span, ...], ...]
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
"""Operators whose result never shares memory with an operand: more do not, but these are sure."""


class CoreAndBoundary(NamedTuple):
    """How windows slide over what a tile has of their operand, and what is wrong then.

    Attributes
    ----------
    padding
        On both sides of each spatial dimension.
    boundary
        Regions of the result that read what others have, apart from each other.
    """

    padding: list[int]
    boundary: list[Region]


@dataclass(frozen=True)
class Rule:
    """How one operator call is tiled; the base class is an elementwise operator.

    It broadcasts its operands and weights against each other as PyTorch does.  A rule of your own
    is made of this class, or of a subclass that overrides `axes`, `need` and `apply`.

    Parameters
    ----------
    node
        The call.
    """

    node: Node

    known = True
    """False for an operator that spnb knows nothing of: it may mix the images of a batch."""

    by_micro_batch = False
    """True where training takes a micro-batch for all there is, as a batch norm does."""

    owner_computes = False
    """True where each tile must compute what it owns of the result, and not more."""

    @property
    def any_layout(self) -> bool:
        """Whether operands may lie in memory in any order, as with their channels last.

        Not where numbers are added up: PyTorch adds those that lie side by side more exactly.
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
        """Whether any part of the result needs all of an operand along an axis."""
        return not self._aligned[operand].get(axis, True)

    def need(self, operand: int, axis: int, span: Span) -> Span:
        """Span of an operand that a span of the result reads; it may run past the extent.

        An operand of extent 1 along an axis is broadcast: all of it is needed.
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
        """
        return invoke(self.node.op, self._arguments(tensors, region, weights))

    def _arguments(self, tensors: Tensors, region: Region, weights: Weights) -> dict[str, Any]:
        """What the operator is called with."""
        pairs = zip(tensors, self.node.operand_axes, strict=True)
        operands = [fitted(tensor, axes, self.axes, region) for tensor, axes in pairs]
        local = {w.name: self._fitted_weight(w, weights, region) for w in self.node.weights}
        return self.node.bind(operands, local)

    def scratch(self, given: Region, region: Region) -> tuple[Axes, Region] | None:
        """What a call for a region writes on the way to it, from this part of its first operand.

        Returns
        -------
        (Axes, Region) or None
            Of a tensor of the result's type: memory for it may be given to `bound`.
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
        """`apply` for one region: what does not depend on numbers is worked out here, once.

        Parameters
        ----------
        given
            The region that each operand will cover.
        needs, region, weights
            As for `apply`.
        scratch
            Memory for what `scratch` tells of.
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
        """Types of the tensors over its result, itself first, that `into` writes; none if it can't.

        Their memory is given by a plan of buffers (see `spnb.runtime.buffer_plan`).
        """
        return (self.node.dtype,) if self._writes else ()

    def into(self, call: Call, results: Sequence[torch.Tensor]) -> Call:
        """A call of this rule whose result is written into results."""
        return lambda *tensors: call(*tensors, out=results[0])

    def core_and_boundary(self, own: Region, region: Region) -> CoreAndBoundary | None:
        """How to compute a region from what a tile owns of the first operand, its halo not here.

        ``None`` where that gives no result of the region's size, or takes longer than to put the
        operand together.

        Parameters
        ----------
        own
            What the tile has of the operand.
        region
            What is wanted of the result.
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
        """The call's weights as `apply` likes them best; called once, before the first run.

        Parameters
        ----------
        shape
            Of the first operand, as a tile has it.
        """
        return weights

    def against(self, weight: Weight) -> Axes | None:
        """What a weight is broadcast against: it may have space of its own, and is cut with it."""
        return self.axes

    def _fitted_weight(self, weight: Weight, weights: Weights, region: Region) -> torch.Tensor:
        result, axes = self.against(weight), Axes.uncut(weight.shape, self.axes.rank)
        tensor = weights[weight.name]
        return tensor if result is None else fitted(tensor, axes, result, region)

    @property
    def keeps_images_apart(self) -> bool:
        """Whether each image of a batch is treated for itself, wherever it lies in the batch."""
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
        """The calls that stand for this one in a stage with a grid; the last has its name."""
        return (self.node,)

    def own(self, tiling: Tiling) -> Spans:
        """What each part of a grid owns of the result, axis by axis."""
        return tiling.spans(self.axes.extent)


@dataclass(frozen=True)
class Direct(Rule):
    """An operator that is run as it is on what it needs; its weights are whole."""

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
    """An operator along dimensions that are never cut, each tile for itself.

    Parameters
    ----------
    result
        Where the axes of the image lie in the result.
    """

    result: Axes

    @cached_property
    def axes(self) -> Axes:
        return self.result


RuleFactory = Callable[[Node], Rule | None]
_registry: dict[str, RuleFactory] = {}
_registrations = 0


def rule(*kinds: str) -> Callable[[RuleFactory], RuleFactory]:
    """Register a function that makes the rules of operators; it decorates the function.

    Parameters
    ----------
    *kinds
        Operators without overload: ``"conv2d"``, or ``"mylib.op"`` outside ATen.

    Returns
    -------
    callable
        A decorator.  The function that it decorates takes a call of the operator (a
        `spnb.ir.node.Node`) and returns its `Rule`, or ``None`` if it has none for this call.

    Examples
    --------
    A custom operator ``torch.ops.mylib.swish`` that is elementwise:

    >>> @rule("mylib.swish")
    ... def swish(node):
    ...     return Rule(node)
    """

    def register(factory: RuleFactory) -> RuleFactory:
        global _registrations
        _registrations += 1
        _registry.update(dict.fromkeys(kinds, factory))
        return factory

    return register


def registered() -> int:
    """A number that changes with every rule that is registered: what was ruled before is stale."""
    return _registrations


def factory_of(op: str) -> RuleFactory | None:
    """What makes the rules of an operator, named as ``"aten.conv2d.default"``."""
    namespace, kind, _ = op.split(".")
    return _registry.get(kind if namespace in ("aten", "_operator") else f"{namespace}.{kind}")


def module_of_rule(node: Node) -> str | None:
    """The module that gave the rule of a call to an operator outside ATen; ranks import it."""
    factory = factory_of(node.op)
    return factory.__module__ if factory else None


def has_rule(op: str) -> bool:
    """Whether some use of an operator has a rule."""
    return factory_of(op) is not None
