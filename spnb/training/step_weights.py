"""The weights that one step computes with: rounded, and with the constants made of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from ..capture.export import cast
from ..ir.rank_plan import RankPlan
from ..ir.weights import add_constants
from ..kernels.autograd_node import gradients_between
from ..kernels.half_conv import HALVES
from .sums import Sums


@dataclass(frozen=True)
class StepWeights:
    """The weights of one step.

    Attributes
    ----------
    leaves
        All weights in the precision of the plan: in half precision they are rounded copies.
    made
        What the network makes of parameters before it reads them (a weight norm, say), with the
        graph that autograd recorded.
    every
        All that programs read, by name; of what is ``made`` a detached copy.
    """

    leaves: Mapping[str, torch.Tensor]
    made: Mapping[str, torch.Tensor]
    every: Mapping[str, torch.Tensor]

    @classmethod
    def of(
        cls,
        weights: Mapping[str, torch.Tensor],
        parameters: Collection[str],
        rank_plans: Sequence[RankPlan],
        dtype: torch.dtype,
    ) -> StepWeights:
        """Make what a step needs of the weights as they are now.

        Parameters
        ----------
        weights
            Parameters, buffers and literals by name.
        parameters
            Names of those that are trained.
        rank_plans
            The rank's share of the plan in each of its pipelines.
        dtype
            The precision of the plan.
        """
        leaves = _rounded(weights, dtype)
        every: dict[str, Any] = dict(leaves)
        with torch.enable_grad():
            for rank_plan in rank_plans:
                add_constants(every, rank_plan.constants)
        read = {name for rank_plan in rank_plans for name in rank_plan.weights}
        made = {
            name: tensor
            for name, tensor in every.items()
            if name not in parameters and name in read and _has_gradient(tensor)
        }
        ends = {name: tensor.detach().requires_grad_() for name, tensor in made.items()}
        return cls(leaves=leaves, made=made, every=every | ends)

    def add_gradients_of_made(self, sums: Sums, parameters: Sequence[str]) -> None:
        """Add the gradients of what is made of parameters to those of the parameters."""
        if not self.made:
            return
        found = gradients_between(
            [get_gradient_edge(each) for each in self.made.values()],
            [sums[name] for name in self.made],
            [get_gradient_edge(self.leaves[name]) for name in parameters],
        )
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                sums.add(name, gradient)


def _has_gradient(constant: Any) -> bool:
    """Whether a gradient goes through a constant; one that is a list is read part by part."""
    return isinstance(constant, torch.Tensor) and constant.requires_grad


def _rounded(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    """The weights themselves, or their copies in half precision."""
    if dtype not in HALVES:
        return weights
    return {
        name: weight.detach().to(cast(weight, dtype)).requires_grad_(weight.requires_grad)
        for name, weight in weights.items()
    }
