"""Operations of autograd that go over all ranks: a whole value, a sum, and a network's pass.

A loss is one number, which every rank computes.  So the gradient of a value that each rank has
whole is the same on all of them, and a rank's own part of it is its part of the gradient.  Each
operation and its gradient are a pair: one is the gradient of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...capture.trainable import may_have_gradient
from ...ir.tags import COLLECT
from ...kernels.autograd_node import apart
from ...transport import Transport
from ...transport.allreduce import AllReduce
from .local_pieces import LocalPieces
from .network_pass import NetworkPass, Together


@dataclass(frozen=True)
class Carrier:
    """Adds values of all ranks.

    Attributes
    ----------
    ranks
        The ranks.
    transport
        Carries their messages.
    together
        The context of a call of all ranks.
    """

    ranks: Sequence[int]
    transport: Transport
    together: Together

    def added(self, own: torch.Tensor, what: str) -> torch.Tensor:
        """The sum of a tensor over the ranks; every rank must call it."""
        with self.together(lambda: what):
            total = AllReduce(own, self.ranks, self.transport, COLLECT.tag()).result()
            self.transport.flush()
        return total


class RunNetwork(torch.autograd.Function):
    """Runs a pass of the network.

    Its operands are the inputs, the trained parameters, and a number that always has a gradient: a
    rank without parameters, and without a tile that has a gradient, takes part in the backward
    pass too.
    """

    @staticmethod
    def forward(ctx: Any, run: NetworkPass, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.run = run
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*operands)
        count = len(run.network.inputs)
        of_inputs = any(ctx.needs_input_grad[1 : count + 1])
        found = run.forward(operands[:count], of_inputs)
        exact = (each for each in found if not may_have_gradient(each.dtype))
        ctx.mark_non_differentiable(*exact)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        run = ctx.run
        operands = ctx.saved_tensors  # PyTorch refuses those that were changed since
        with torch.no_grad():
            if run.is_over:  # it was asked for with retain_graph=True, or PyTorch refuses it here
                run.forward_again(operands[: len(run.network.inputs)])
            of_inputs, of_weights = apart(lambda: run.backward(gradients))
        found = (*of_inputs, *of_weights.values())
        if torch.is_grad_enabled():  # by create_graph=True
            found = _OnlyFirst.apply(torch.zeros((), requires_grad=True), *found)
        return None, *found, None


class _OnlyFirst(torch.autograd.Function):
    """Gradients that have none themselves, which is said where one is asked for.

    PyTorch's ``once_differentiable`` says so only if the arriving gradients have some.
    """

    @staticmethod
    def forward(
        ctx: Any, number: torch.Tensor, *found: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        return tuple(None if each is None else each.view_as(each) for each in found)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        raise RuntimeError(
            "a gradient of a gradient, as in a gradient penalty with create_graph=True, does not go"
            " through a network over ranks: compute it with the module itself on the whole image,"
            " on every rank and with split_size=1, or leave it out of the loss"
        )


class WholeValue(torch.autograd.Function):
    """The whole of a value on every rank, from the regions of all."""

    @staticmethod
    def forward(
        ctx: Any, local: torch.Tensor, pieces: LocalPieces, carrier: Carrier
    ) -> torch.Tensor:
        ctx.pieces, ctx.carrier = pieces, carrier
        whole = torch.zeros(pieces.axes.shape, dtype=local.dtype, device=local.device)
        pieces.put(whole, local)
        return carrier.added(whole, "gather")

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _LocalPart.apply(gradient, ctx.pieces, ctx.carrier), None, None


class _LocalPart(torch.autograd.Function):
    """A rank's regions of a whole value that is the same on every rank."""

    @staticmethod
    def forward(
        ctx: Any, whole: torch.Tensor, pieces: LocalPieces, carrier: Carrier
    ) -> torch.Tensor:
        ctx.pieces, ctx.carrier = pieces, carrier
        return pieces.cut(whole)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return WholeValue.apply(gradient, ctx.pieces, ctx.carrier), None, None


class SumOverRanks(torch.autograd.Function):
    """The sum of all elements of a value on all ranks, and their number."""

    @staticmethod
    def forward(
        ctx: Any, local: torch.Tensor, carrier: Carrier
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.shape, ctx.carrier = local.shape, carrier
        wide = torch.complex128 if local.is_complex() else torch.float64
        own = torch.stack([local.to(wide).sum(), torch.tensor(local.numel(), dtype=wide)])
        total, count = carrier.added(own, "sum")
        exact = local.dtype if may_have_gradient(local.dtype) else torch.get_default_dtype()
        ctx.mark_non_differentiable(count)
        return total.to(exact), count.to(exact)

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        return _EachElement.apply(gradient, ctx.shape, ctx.carrier), None


class _EachElement(torch.autograd.Function):
    """A number that is the same on every rank, for each element that a rank has."""

    @staticmethod
    def forward(
        ctx: Any, number: torch.Tensor, shape: torch.Size, carrier: Carrier
    ) -> torch.Tensor:
        ctx.carrier = carrier
        return number.expand(shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return SumOverRanks.apply(gradient, ctx.carrier)[0], None, None
