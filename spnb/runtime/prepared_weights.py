"""The weights of a stage, each in the memory order that is best for the shape of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..ir.node import Node
from ..ir.program import Compute, Step
from ..ir.region import Region
from ..rules import Rule


class PreparedWeights:
    """The weights of each call, in the order that its kernel prefers for the region it reads.

    The order that oneDNN prefers depends on the size of the result.  A tile, the thin boundary of
    its core, and patches may differ in it, and to change the order within a run takes longer than
    the convolution.  So a weight is kept in each order that calls of the stage need; mostly one.

    Parameters
    ----------
    nodes, rules
        The calls of the stage, and their rules.
    weights
        The parameters and buffers that the stage reads, by name, on the stage's device.
    steps
        What the rank computes; a call's first step decides the first order of its weights.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        rules: Sequence[Rule],
        weights: Mapping[str, torch.Tensor],
        steps: Sequence[Step],
    ):
        self._nodes, self._rules = nodes, rules
        self._first: list[dict[str, torch.Tensor]] = [
            {w.name: weights[w.name] for w in node.weights} for node in nodes
        ]
        firsts = {
            step.node: self._shape(step.node, step.needs[0])
            for step in reversed(steps)
            if isinstance(step, Compute) and step.needs and not step.region.empty
        }
        for number, shape in firsts.items():
            self._first[number] = dict(rules[number].prepare(self._first[number], shape))
        self._copy_plain()
        self._orders: list[list[Mapping[str, torch.Tensor]]] = [[first] for first in self._first]
        self._by_shape: dict[tuple[int, tuple[int, ...]], Mapping[str, torch.Tensor]] = {
            (n, shape): self._first[n] for n, shape in firsts.items()
        }

    def of(self, number: int, needs: Sequence[Region]) -> Mapping[str, torch.Tensor]:
        """The weights of a call, by name.

        Parameters
        ----------
        number
            The call's number in the stage.
        needs
            What it reads of its operands, with padding.
        """
        first = self._first[number]
        if not first or not needs:
            return first
        key = number, self._shape(number, needs[0])
        if key not in self._by_shape:
            self._by_shape[key] = self._prepared(*key)
        return self._by_shape[key]

    def _prepared(self, number: int, shape: tuple[int, ...]) -> Mapping[str, torch.Tensor]:
        """The weights of a call for a shape: in an order that another shape has, if it fits."""
        for order in self._orders[number]:
            found = self._rules[number].prepare(order, shape)
            if all(found[name] is weight for name, weight in order.items()):
                return order
        self._orders[number].append(found)
        return found

    def _shape(self, number: int, need: Region) -> tuple[int, ...]:
        return self._nodes[number].operand_axes[0].local_shape(need)

    def _copy_plain(self) -> None:
        """Copy weights in plain order, if there are others: all are mapped from one file, which is
        closed once nothing refers to it."""
        every = {name: w for each in self._first for name, w in each.items()}
        if any(weight.is_mkldnn for weight in every.values()):
            copies = {name: w.clone() for name, w in every.items() if not w.is_mkldnn}
            for each in self._first:
                each.update({name: copies[name] for name, w in each.items() if not w.is_mkldnn})
