"""The base of all rules, and the registry that finds a call's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..node import Node, extent_of, index_of, invoke
from ..region import Region, Span

Tensors = Sequence[Any]
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Rule:
    """How one operator call is tiled; the base class is an elementwise operator.

    An operand of extent 1 along an axis is broadcast: all of it is needed.
    """

    node: Node

    gathers = False
    """True for a rule that needs its operands' whole spatial extent."""

    def need(self, operand: int, axis: int, span: Span) -> Span:
        """Span of an operand that a span of the result reads; it may run past the extent."""
        extent = extent_of(self.node.operand_shapes[operand])
        return (0, 1) if extent[axis] == 1 else span

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
            Parameters and buffers by name, whole.
        """
        args = self.node.bind(tensors, _LocalWeights(self.node, region, weights))
        return invoke(self.node.op, args)


class _LocalWeights(dict):
    """Weights of an elementwise call, cut where they have spatial axes of their own."""

    def __init__(self, node: Node, region: Region, weights: Weights):
        super().__init__((w.name, weights[w.name]) for w in node.weights)
        for weight in node.weights:
            aligned = (1,) * (len(node.shape) - len(weight.shape)) + weight.shape
            if len(weight.shape) > 2 and math.prod(aligned[2:]) > 1:
                spans = zip(extent_of(aligned), region.spans, strict=True)
                cut = index_of([slice(*span) if n > 1 else slice(0, 1) for n, span in spans])
                self[weight.name] = self[weight.name].reshape(aligned)[cut]


RuleFactory = Callable[[Node], Rule | None]
_registry: dict[str, RuleFactory] = {}


def rule(*kinds: str) -> Callable[[RuleFactory], RuleFactory]:
    """Register a function that makes the rule of a call, or ``None`` where there is none.

    Parameters
    ----------
    kinds
        Operators without overload: ``"conv2d"``, or ``"mylib.op"`` outside ATen.
    """

    def register(factory: RuleFactory) -> RuleFactory:
        _registry.update(dict.fromkeys(kinds, factory))
        return factory

    return register


def rule_of(node: Node) -> Rule | None:
    """The rule of a call; ``None`` where the operator, used like this, has none.

    What is computed of weights alone has no batch and no image in it, and so no rule.
    """
    if not node.operands:
        return None
    namespace, kind, _ = node.op.split(".")
    factory = _registry.get(kind if namespace in ("aten", "_operator") else f"{namespace}.{kind}")
    return factory(node) if factory else None


def home_of(node: Node) -> str | None:
    """The module that gave the rule of a call to an operator outside ATen; ranks import it."""
    namespace, kind, _ = node.op.split(".")
    factory = _registry.get(f"{namespace}.{kind}")
    return factory.__module__ if factory else None


def has_rule(kind: str) -> bool:
    """Whether some use of an operator has a rule."""
    return kind in _registry
