"""Products of two tensors among the calls of a network, with labels for their dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...ir.node import Node, Ref, Weight, leaves
from ...rules import rule_of
from ...rules.matmul import Labels, Product

PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")
"""Operators that multiply two tensors and sum."""

Tensor = Ref | Weight


class Labelled(NamedTuple):
    """A tensor of a product, and the labels of its dimensions."""

    tensor: Tensor
    labels: Labels


@dataclass(frozen=True)
class Factors:
    """A product of two tensors, perhaps with a summand.

    Attributes
    ----------
    first, second
        The tensors.
    summand
        What is added to the product.
    result
        Labels of the result's dimensions.
    """

    first: Labelled
    second: Labelled
    summand: Tensor | None
    result: Labels

    @classmethod
    def of(cls, node: Node) -> Factors | None:
        """The factors of a call; None if it is no product of two tensors."""
        rule = rule_of(node)
        if node.kind not in PRODUCTS or not isinstance(rule, Product):
            return None
        labels = iter(rule.labels)
        found = [
            Labelled(
                leaf,
                next(labels) if isinstance(leaf, Ref) else rule.weight_labels.get(leaf.name, ()),
            )
            for leaf in leaves(node.args)
            if isinstance(leaf, (Ref, Weight))
        ]
        summand = found.pop(0).tensor if node.kind == "baddbmm" else None
        return cls(found[0], found[1], summand, rule.result_labels) if len(found) == 2 else None
