"""A call of a program in training: what it has in common in all micro-batches and steps.

A step of a deep network makes thousands of small calls.  What depends only on the plan is found out
once, when a call is made for the first time: which pieces it reads, the operator with its fixed
arguments, and how autograd's node of it reads its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ...ir.node import Node
from ...ir.program import Compute
from ...ir.region import Region
from ...rules import Rule
from ...rules.base import Call, Padded
from ...runtime.halo_tile import in_order
from .tape_values import PieceReader

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Operator:
    """An operator with some weights, as a function of its operands."""

    weights: Sequence[torch.Tensor]
    call: Call


class TapedCall:
    """A call of a program.

    Parameters
    ----------
    step, node, rule
        The step of the program, its node and the node's rule.
    lasting
        Weights by name that are the same tensors in every step.

    Attributes
    ----------
    known
        What was found out about autograd's node of the call; `spnb.training.tapes.call_graph` fills
        it.
    """

    def __init__(self, step: Compute, node: Node, rule: Rule, lasting: Weights):
        self.step, self.node, self.rule, self.lasting = step, node, rule, lasting
        self.name, self.label, self.path = node.name, node.label, node.path
        self.region, self.empty = step.region, step.region.empty
        self.operands, self.weight_names = (
            node.operands,
            tuple(dict.fromkeys(w.name for w in node.weights)),
        )
        self.known: dict[Hashable, Any] = {}
        self._operators: dict[bool, _Operator] = {}

    @cached_property
    def unpadded(self) -> tuple[PieceReader, ...]:
        """Read the operands without padding."""
        given = zip(self.operands, self.step.clipped, self.node.operand_axes, strict=True)
        return tuple(PieceReader(*each) for each in given)

    @cached_property
    def padding(self) -> Region | None:
        """The region of the first operand with its padding; None where the call pads nothing."""
        return None if self._padded is None else self._padded.region

    @cached_property
    def padded(self) -> tuple[PieceReader, ...]:
        """Read the operands, the first one with its padding."""
        if self.padding is None:
            return self.unpadded
        first, *others = self.unpadded
        return (PieceReader(first.value, self.padding, first.axes), *others)

    @cached_property
    def result(self) -> PieceReader:
        """Read the result."""
        return PieceReader(self.name, self.region, self.node.axes)

    @cached_property
    def ordered(self) -> Callable[[Any], Any]:
        """Gives an operand in the memory order that the operator needs."""
        return (lambda value: value) if self.rule.any_layout else in_order

    def operator(self, weights: Weights, padded: bool) -> Call:
        """The operator as a function of its operands.

        Parameters
        ----------
        weights
            Parameters, buffers and constants by name.
        padded
            Whether the first operand holds its padding.
        """
        tensors = [weights[name] for name in self.weight_names]
        known = self._operators.get(padded)
        if known and all(a is b for a, b in zip(known.weights, tensors, strict=True)):
            return known.call
        call = self._bound(dict(zip(self.weight_names, tensors, strict=True)), padded)
        # Others are made for each step, and would be held until the next one.
        if all(self.lasting.get(name) is weights[name] for name in self.weight_names):
            self._operators[padded] = _Operator(tensors, call)
        return call

    def _bound(self, weights: Weights, padded: bool) -> Call:
        if padded and self._padded is not None:
            return self._padded.bound(weights)
        step = self.step
        return self.rule.differentiable(step.clipped, step.needs, step.region, weights)

    @cached_property
    def _padded(self) -> Padded | None:
        given = self.step.clipped
        return self.rule.padded(given[0], self.region) if given else None

    def without_padding(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of the first operand without that of its padding."""
        assert self.padding is not None, "the call was read without padding"
        return self.node.operand_axes[0].piece(gradient, self.padding, self.step.clipped[0])
